package replay_test

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/replay"
)

// On a GPU the third call records the function and the fourth only replays it; on a CPU each call runs it.
func Example() {
	var graphs replay.Graphs
	defer graphs.Close()
	network := func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor { return in[0].MulScalar(s, 2).AddScalar(s, 1) })
	}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for i := range 4 {
				x := torch.Full(s, float64(i), torch.Float32, 2)
				fmt.Println(torch.ToSlice[float32](graphs.Call(s, nil, network, x)))
			}
			return nil
		})
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// [1 1]
	// [3 3]
	// [5 5]
	// [7 7]
}
