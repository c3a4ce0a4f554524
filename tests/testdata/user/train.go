package main

import (
	"context"

	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/training/recipe"
)

// train trains a consistency model by the name of a method, as `onestep train --method ict` does.
func train(ctx context.Context, dir string) error {
	method, err := recipe.Named("ict")
	if err != nil {
		return err
	}
	run := recipe.Run{
		Method: method, Data: "emoji", Resolution: 8, Steps: 2, Batch: 4, Seed: 5,
		Size: &unet.Options{Channels: 8, Mult: []int{1, 2}, Blocks: 1},
		Out:  dir,
	}
	_, err = run.Train(ctx)
	return err
}
