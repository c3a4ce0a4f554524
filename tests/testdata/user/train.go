package main

import (
	"context"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
)

// train trains a consistency model for two steps.
func train(ctx context.Context, dir string) error {
	data, err := dataset.Open("emoji", dataset.Options{Resolution: 8})
	if err != nil {
		return err
	}
	defer data.Close()
	net, err := unet.New(unet.Config{Resolution: 8, Channels: 8, Mult: []int{1, 2}}, torch.CPU, 1)
	if err != nil {
		return err
	}
	defer net.Close()
	opt, err := optim.RAdam{LR: 1e-3}.New(net.Parameters())
	if err != nil {
		return err
	}
	defer opt.Close()
	t := training.Trainer{
		Objective: &training.CT{Model: &models.Consistency{Net: net}, Schedule: training.Doubling{S1: 40, Steps: 2}},
		Model:     net, Optimizer: opt, Data: training.Images{Loader: &dataset.Loader{Dataset: data, Batch: 4, Seed: 1}},
		Dir: dir, Seed: 1, Steps: 2,
	}
	_, err = t.Train(ctx)
	return err
}
