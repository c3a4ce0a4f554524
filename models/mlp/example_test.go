package mlp_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
)

// A network for points in the plane with ten classes, as the denoiser of EDM.
func ExampleNew() {
	net, err := mlp.New(mlp.Config{Classes: 10}, torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	d := models.EDM{Net: net}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 2).MulScalar(s, 80)
		sigma := torch.FromSlice(s, []float32{80, 80})
		class := torch.FromSlice(s, []int64{3, int64(net.Config().NullClass())}) // the second sample has the null class
		fmt.Println(d.Denoise(s, x, sigma, models.Cond{Class: class}).Shape())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: [2 2]
}
