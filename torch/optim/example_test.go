package optim_test

import (
	"fmt"
	"log"
	"maps"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

// The minimum of (w - 3)², by Adam with a learning rate that falls linearly in the last half.
func Example() {
	const steps = 200
	schedule := optim.Schedule{Decay: optim.Linear, Start: steps / 2, Steps: steps}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := torch.Zeros(s, torch.Float32, 1)
		w.SetRequiresGrad(true)
		opt, err := optim.Adam{LR: 0.1}.New(maps.All(map[string]*torch.Tensor{"w": w}))
		if err != nil {
			return err
		}
		defer opt.Close()
		for k := range steps {
			err := s.Run(func(s *torch.Scope) error {
				opt.ZeroGrad()
				w.AddScalar(s, -3).Square(s).Sum(s).Backward()
				opt.SetLR(0.1 * schedule.At(k))
				opt.Step(s)
				return nil
			})
			if err != nil {
				return err
			}
		}
		fmt.Printf("%.3f\n", w.Item())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: 3.000
}
