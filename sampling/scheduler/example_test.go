package scheduler_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
)

// Take four Euler steps with the noise schedule of Stable Diffusion 1.5. The network's noise prediction is zero here.
func Example() {
	config, err := noise.ParseConfig([]byte(`{"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
		"beta_schedule": "scaled_linear", "steps_offset": 1}`))
	if err != nil {
		log.Fatal(err)
	}
	method, err := scheduler.Named("euler")
	if err != nil {
		log.Fatal(err)
	}
	run, err := method.Start(config, scheduler.Options{Steps: 4})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(run.Timesteps())
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, 4, 8, 8).MulScalar(s, run.InitSigma())
		for i := range run.Timesteps() {
			in := run.Input(s, x, i)
			predicted := torch.ZerosLike(s, in) // network(in, run.Timesteps()[i])
			x, _ = run.Step(s, i, x, predicted, nil)
		}
		fmt.Println(x.Shape())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// [999 666 333 0]
	// [1 4 8 8]
}
