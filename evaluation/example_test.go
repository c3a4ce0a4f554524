package evaluation_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/torch"
)

// How far apart two sets of features are. The second is the first, moved by 1 in each of 4 directions.
func Example() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		data := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 500, 4)
		var moments [2]evaluation.Moments
		for i, features := range []*torch.Tensor{data, data.AddScalar(s, 1)} {
			c := evaluation.NewCollector(0)
			defer c.Close()
			if err := c.Add(features); err != nil {
				return err
			}
			var err error
			if moments[i], err = c.Moments(); err != nil {
				return err
			}
		}
		d, err := evaluation.Frechet(moments[0], moments[1])
		fmt.Printf("%.4f\n", d)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 4.0000
}
