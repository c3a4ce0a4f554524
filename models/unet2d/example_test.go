package unet2d_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet2d"
	"github.com/onestep-go/onestep/torch"
)

// Make the network of a config.json of diffusers, with random weights, and apply it to two images.
func Example() {
	config, err := unet2d.FromDiffusers([]byte(`{
		"_class_name": "UNet2DModel", "sample_size": 16, "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 8,
		"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]
	}`))
	if err != nil {
		log.Fatal(err)
	}
	net, err := unet2d.New(config, torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 3, 16, 16)
		timesteps := torch.FromSlice(s, []float32{10, 500})
		fmt.Println(net.Forward(s, x, timesteps, models.Cond{}).Shape())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: [2 3 16 16]
}
