package builtintext_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/onestep-go/onestep/models/builtintext"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/generate"
)

// Generate an image from a prompt, in 2 steps.
func Example() {
	cache, err := os.MkdirTemp("", "") // "": the user's cache directory
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(cache)
	m, err := builtintext.Open(cache, sd.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	for img, err := range generate.FromDiffusion(m).Images(context.Background(), generate.Request{Prompts: []string{"a smiling cat"}, Steps: 2, Seed: 1}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(img.Image.Bounds().Size())
	}
	// Output: (64,64)
}
