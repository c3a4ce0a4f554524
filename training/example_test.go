package training_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
)

// A denoiser of points is trained; a distillation starts from it. Nothing is saved, as no directory is given.
func ExampleTrainer() {
	net, err := mlp.New(mlp.Config{Width: 32}, torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	opt, err := optim.Adam{LR: 1e-3}.New(net.Parameters())
	if err != nil {
		log.Fatal(err)
	}
	defer opt.Close()
	corners := training.SourceFunc(func(s *torch.Scope, start int64) training.Batch {
		return training.Batch{X: torch.FromSlice(s, []float32{-1, -1, -1, 1, 1, -1, 1, 1}, 4, 2)}
	})
	t := training.Trainer{
		Objective: &training.EDM{Model: &models.EDM{Net: net}},
		Model:     net, Optimizer: opt, Data: corners, Seed: 1, Steps: 20,
	}
	result, err := t.Train(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Step, "steps,", result.Seen, "samples")
	// Output: 20 steps, 80 samples
}
