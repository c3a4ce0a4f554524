package engine_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch"
)

// openBuiltin opens the built-in model.
func openBuiltin() (*generate.Model, error) {
	file, err := builtin.Open(torch.CPU)
	if err != nil {
		return nil, err
	}
	return generate.OwnFile(file.File)
}

// Generate two images of one class, of another size than the model's.
func Example() {
	e, err := engine.New(engine.Options{Models: []engine.Model{{Name: "emoji", Open: openBuiltin}}})
	if err != nil {
		log.Fatal(err)
	}
	defer e.Close()
	seed := uint64(7)
	for event, err := range e.Images(context.Background(), engine.Request{Prompt: "animal", N: 2, Seed: &seed, Width: 256, Height: 256}) {
		switch {
		case err != nil:
			log.Fatal(err)
		case event.Resolved != nil:
			fmt.Println(event.Resolved.Model, event.Resolved.Sampler, event.Resolved.Steps)
		case event.Image != nil:
			fmt.Println(event.Image.Seed, event.Image.Label, event.Image.Image.Bounds().Size())
		}
	}
	fmt.Println(e.Models()[0].Classes[:3])
	// Output:
	// emoji multistep 1
	// 7 2 (256,256)
	// 8 2 (256,256)
	// [Smileys & Emotion People & Body Animals & Nature]
}
