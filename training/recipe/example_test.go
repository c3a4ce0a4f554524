package recipe_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/recipe"
)

// Improved consistency training of a tiny network for a few steps, on the emoji that come with the package.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	run := recipe.Run{
		Method: &recipe.ICT{Schedule: "linear"}, Data: "emoji", Resolution: 8, Steps: 5, Batch: 4,
		Size: &unet.Options{Channels: 8, Mult: []int{1, 2}, Blocks: 1},
		Out:  filepath.Join(dir, "run"),
	}
	result, err := run.Train(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	model, err := checkpoint.Open(result.Snapshot, torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	fmt.Println(model.Description.Method, model.Description.Step, model.Description.Kind)
	// Output: ict 5 consistency
}

// A method by name, as configuration files have it, and what its run would choose by itself.
func ExampleNamed() {
	method, err := recipe.Named("ect")
	if err != nil {
		log.Fatal(err)
	}
	run := recipe.Run{Method: method, Data: "emoji", Steps: 2000, Out: "runs/ect"}
	if err := run.Set("distance", "l2"); err != nil {
		log.Fatal(err)
	}
	run, err = run.Resolve()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(run.Chosen()...)
	// Output: distance l2 stages 8 q 2
}
