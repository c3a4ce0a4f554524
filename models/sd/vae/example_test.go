package vae_test

import (
	"fmt"

	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
)

// Encode two images, each with its own random stream, and decode the latents, in tiles of 64 pixels. The weights are random here; From
// loads those of a file.
func Example() {
	config, err := vae.ParseConfig([]byte(`{"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4, "scaling_factor": 0.13025}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	k, err := vae.New(config, torch.CPU, torch.Float32, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer k.Close()
	k.Tile = 64
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			images := torch.Zeros(s, torch.Float32, 2, 3, 72, 96)
			latents := k.Encode(s, images, []*torch.Generator{torch.NewGenerator(s, 1), torch.NewGenerator(s, 2)})
			fmt.Println(latents.Shape(), k.Decode(s, latents).Shape())
			return nil
		})
	})
	fmt.Println(err)
	// Output:
	// [2 4 9 12] [2 3 72 96]
	// <nil>
}
