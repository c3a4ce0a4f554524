package inception_test

import (
	"fmt"

	"github.com/onestep-go/onestep/models/inception"
	"github.com/onestep-go/onestep/torch"
)

// Images of any size are resized to the network's input before features are computed, in a way that figures have to name.
func ExampleResize() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		images := torch.Zeros(s, torch.Float32, 8, 3, 32, 32)
		for _, r := range inception.Resizes() {
			fmt.Println(r.Input(s, images).Shape(), r)
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// [8 3 299 299] TensorFlow 1 bilinear, 299
	// [8 3 299 299] bilinear, 299
	// [8 3 299 299] bicubic, antialiased, 299
	// <nil>
}
