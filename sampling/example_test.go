package sampling_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
)

// One step from a consistency function, and 18 of a sampler from a denoiser, from the same noise. The model here knows both of
// normally distributed data exactly; a trained one is opened by package checkpoint.
func Example() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		model := modelstest.Gaussian{Mean: 0.25, Std: 0.5}
		levels := sampling.Levels(80, 1)       // 80 and 0
		streams := noise.NewStreams(s, 42, 43) // one image for each seed
		x := streams.Randn(s, torch.Float64, 3, 8, 8).MulScalar(s, levels[0])

		one, err := sampling.Multistep{}.Sample(context.Background(), s, model, x, sampling.Options{Levels: levels, Streams: streams})
		if err != nil {
			return err
		}
		fmt.Println(one.Shape())

		heun, err := sampling.Named("heun")
		if err != nil {
			return err
		}
		many, err := heun.Sample(context.Background(), s, model, x, sampling.Options{
			Levels: append(noise.Karras(18, 80, 0.002, 7), 0),
			OnStep: func(s *torch.Scope, p sampling.Step) error {
				if p.Index%6 == 5 {
					fmt.Printf("step %d of %d: noise level %.3f\n", p.Index+1, p.Count, p.Level)
				}
				return nil
			},
		})
		if err != nil {
			return err
		}
		apart := one.Sub(s, many).Abs(s).Max(s).Item()
		fmt.Printf("apart by at most %.2f\n", apart) // the error of 18 steps
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// [2 3 8 8]
	// step 6 of 18: noise level 8.401
	// step 12 of 18: noise level 0.296
	// step 18 of 18: noise level 0.000
	// apart by at most 0.09
}
