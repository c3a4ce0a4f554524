package edit_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/edit"
	"github.com/onestep-go/onestep/torch"
)

// Repaint the lower half of an image with the built-in model, twice. The upper half stays as it is. Here the image is grey; vision.FromImages
// reads others.
func Example() {
	f, err := builtin.Open(torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		y := torch.Zeros(s, torch.Float32, 1, 3, 32, 32)
		mask := torch.Cat(s, []*torch.Tensor{torch.Zeros(s, torch.Float32, 1, 1, 16, 32), torch.Ones(s, torch.Float32, 1, 1, 16, 32)}, 2)
		o := sampling.Options{
			Levels:  append(edit.Levels(f.Description.SigmaMax, 3), 0),
			Streams: noise.NewStreams(s, 42, 43),
			Cond:    models.Cond{Class: torch.FromSlice(s, []int64{0, 0})},
		}
		x, err := edit.Inpaint(y, mask).Sample(context.Background(), s, f, sampling.Multistep{}, o)
		if err != nil {
			return err
		}
		fmt.Println(x.Shape(), x.Narrow(s, 2, 0, 16).Abs(s).Max(s).Item(), x.Narrow(s, 2, 16, 16).Abs(s).Max(s).Item() > 0.5)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: [2 3 32 32] 0 true
}
