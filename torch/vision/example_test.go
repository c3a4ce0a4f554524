package vision_test

import (
	"fmt"
	"image"
	"image/color"
	"log"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// An image as a tensor, and back.
func Example_tensors() {
	m := image.NewGray(image.Rect(0, 0, 3, 1))
	m.SetGray(0, 0, color.Gray{255})
	m.SetGray(1, 0, color.Gray{51})
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, err := vision.FromImages(s, 1, m) // [-1, 1]; FromImagesUnit has [0, 1]
		if err != nil {
			return err
		}
		fmt.Println(x)
		images, err := vision.ToImages(x.Neg(s))
		if err != nil {
			return err
		}
		fmt.Println(images[0].At(0, 0), images[0].At(2, 0))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// tensor([[[[ 1.0000, -0.6000, -1.0000]]]], float32[1, 1, 1, 3])
	// {0} {255}
}
