package efficientnet_test

import (
	"fmt"

	"github.com/onestep-go/onestep/models/efficientnet"
	"github.com/onestep-go/onestep/torch"
)

// Images of any size are resized to the network's input before features are computed.
func ExampleInput() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		images := torch.Zeros(s, torch.Float32, 8, 3, 32, 32)
		fmt.Println(efficientnet.Input(s, images).Shape())
		return nil
	})
	fmt.Println(err)
	// Output:
	// [8 3 224 224]
	// <nil>
}
