package infotext_test

import (
	"fmt"

	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
)

// Parse the text of an image from Stable Diffusion web UI.
func ExampleParse() {
	t := infotext.Parse("a cat\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 42, Size: 512x512")
	fmt.Printf("%q %q %s\n", t.Prompt, t.Negative, t.Get("Seed"))
	method, spacing, exact := infotext.Sampler(t.Get("Sampler"), t.Get("Schedule type"))
	fmt.Println(method, spacing, exact)
	// Output:
	// "a cat" "blurry" 42
	// dpmpp_2m karras true
}
