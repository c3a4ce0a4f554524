package sampling_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
)

// Sample two images in one step each from a consistency function. A seed gives the same image in any batch.
func ExampleMultistep() {
	f, err := builtin.Open(torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	levels := sampling.Levels(f.Description.SigmaMax, 1)
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		streams := noise.NewStreams(s, 42, 43)
		x := streams.Randn(s, torch.Float32, f.Shape()...).MulScalar(s, levels[0])
		class := models.Cond{Class: torch.FromSlice(s, []int64{0, 7})}
		x, err := sampling.Multistep{}.Sample(context.Background(), s, f, x, sampling.Options{Levels: levels, Streams: streams, Cond: class})
		if err != nil {
			return err
		}
		fmt.Println(levels, x.Shape())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: [80 0] [2 3 32 32]
}

// Sample from a denoiser with a sampler by name. This denoiser is exact, for a data set of two points, so that samples end at one of them.
func ExampleNamed() {
	sampler, err := sampling.Named("heun")
	if err != nil {
		log.Fatal(err)
	}
	levels := append(noise.Karras(20, 80, 0.002, 7), 0)
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		d := &models.Empirical{Data: torch.FromSlice(s, []float32{-1, 1}, 2, 1)}
		x := noise.NewStreams(s, noise.Seeds(1, 4)...).Randn(s, torch.Float32, 1).MulScalar(s, levels[0])
		x, err := sampler.Sample(context.Background(), s, d, x, sampling.Options{Levels: levels})
		if err != nil {
			return err
		}
		fmt.Println(x.Abs(s).Reshape(s, 4), sampler.Evaluations(levels), "evaluations")
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: tensor([1., 1., 1., 1.], float32[4]) 39 evaluations
}
