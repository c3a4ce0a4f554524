package nn_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// A network is a struct of layers; the store owns their weights and knows them by name.
func ExampleBuild() {
	var first, second nn.Linear
	store, err := nn.Build(torch.CPU, torch.Float32, 1, func(p nn.Path) {
		first = nn.NewLinear(p.Sub("blocks", 0), 4, 8)
		second = nn.NewLinear(p.Sub("blocks", 1), 8, 2)
	})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for name, w := range store.Parameters() {
		fmt.Println(name, w.Shape())
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 3, 4)
		y := second.Forward(s, first.Forward(s, x).ReLU(s))
		fmt.Println(y.Shape(), store.Count(), "weights")
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// blocks.0.weight [8 4]
	// blocks.0.bias [8]
	// blocks.1.weight [2 8]
	// blocks.1.bias [2]
	// [3 2] 58 weights
}
