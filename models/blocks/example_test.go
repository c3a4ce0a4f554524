package blocks_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// A residual block from 8 to 16 channels, with the names of diffusers' ResnetBlock2D.
func ExampleNewResidual() {
	var block *blocks.Residual
	store, err := nn.Build(torch.CPU, torch.Float32, 1, func(p nn.Path) {
		block = blocks.NewResidual(p.Sub("resnets", 0), 8, 16, blocks.ResidualOptions{GroupsIn: 4, GroupsOut: 4, Eps: 1e-6})
	})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		y := block.Forward(s, torch.Ones(s, torch.Float32, 2, 8, 4, 4), nil, models.Cond{})
		fmt.Println(y.Shape())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	for name := range store.Parameters() {
		fmt.Println(name)
		break
	}
	// Output:
	// [2 16 4 4]
	// resnets.0.norm1.weight
}
