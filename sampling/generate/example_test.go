package generate_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
)

// Generate images with the built-in model, in one network evaluation each. Open loads any other model from a file or directory, including
// Stable Diffusion.
// Two images of the built-in model, in one step each.
func Example() {
	file, err := builtin.Open(torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	m, err := generate.FromFile(file.File)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	plan, err := m.Plan(ctx, generate.Request{N: 2, Seed: 7})
	if err != nil {
		log.Fatal(err)
	}
	defer plan.Close()
	fmt.Println(plan.Sampler, plan.Steps, plan.Times)
	for img, err := range plan.Images(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(img.Seed, img.Image.Bounds().Size())
	}
	// Output:
	// multistep 1 [80]
	// 7 (32,32)
	// 8 (32,32)
}
