package generate_test

import (
	"context"
	"fmt"
	"image"
	"log"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
)

// Generate images with the built-in model, in one network evaluation each. Open loads any other model from a file or directory, including
// Stable Diffusion.
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

// Colorize a grey image with the built-in model, in two steps. Its luminance is kept.
func ExampleRequest_edit() {
	file, err := builtin.Open(torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	m, err := generate.FromFile(file.File)
	if err != nil {
		log.Fatal(err)
	}
	grey := image.NewGray(image.Rect(0, 0, 64, 64))
	ctx := context.Background()
	plan, err := m.Plan(ctx, generate.Request{Steps: 2, Labels: []int{0}, Edit: &generate.Edit{Task: generate.Colorize, Image: grey}})
	if err != nil {
		log.Fatal(err)
	}
	defer plan.Close()
	fmt.Println(plan.Notices)
	for img, err := range plan.Images(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(img.Image.Bounds().Size(), plan.Evaluations, "evaluations")
	}
	// Output:
	// [the input image is resized from 64×64 to 32×32 pixels]
	// (32,32) 2 evaluations
}
