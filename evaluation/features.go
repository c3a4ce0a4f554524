package evaluation

import (
	"context"
	"fmt"
	"image"
	"iter"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Features is an extractor with what figures have to say of it: distances over different features, or over images that were resized in
// different ways, are not comparable.
type Features struct {
	Extractor
	Name   string       // such as "EffNetLite0": its Fréchet distance is then FD-EffNetLite0
	Resize string       // how the extractor resizes images, such as "bicubic, antialiased, 224"
	Device torch.Device // of the extractor's weights

	// Logits maps features [B, D] to class scores [B, classes], before softmax, for the Score of images; nil: none is computed.
	Logits func(s *torch.Scope, features *torch.Tensor) *torch.Tensor

	// Identity distinguishes the extractor's weights from others, such as a hash of their file. "": nothing is cached.
	Identity string
}

// Images are images of any source, one at a time, such as those that a model generates. An error ends them. Images have one size: another is
// an error.
type Images = iter.Seq2[image.Image, error]

// of computes the features [B, D] of images, in float64 on the CPU.
func (f Features) of(s *torch.Scope, images []image.Image) (out *torch.Tensor, err error) {
	err = torch.Run(f.Device, func(on *torch.Scope) error {
		return on.NoGrad(func(on *torch.Scope) error {
			x, err := vision.FromImages(on, 3, images...)
			if err != nil {
				return err
			}
			y := f.Features(on, x)
			if shape := y.Shape(); len(shape) != 2 || shape[0] != len(images) || shape[1] == 0 || !y.DType().IsFloat() {
				return fmt.Errorf("evaluation: the extractor %s returned %s of shape %v for %d images: want floating-point features [%d, D]",
					quote.Text(f.Name), y.DType(), shape, len(images), len(images))
			}
			out = y.ToDevice(on, torch.CPU).To(on, torch.Float64).Clone(s)
			return nil
		})
	})
	return out, err
}

// batches calls each with the features [B, D] of up to batch images at a time. first is the index of the first. It returns the images' size.
func (f Features) batches(ctx context.Context, images Images, batch int, each func(s *torch.Scope, first int, images []image.Image, x *torch.Tensor) error) (size image.Point, err error) {
	var held []image.Image
	first := 0
	flush := func() error {
		if len(held) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				x, err := f.of(s, held)
				if err != nil {
					return err
				}
				return each(s, first, held, x)
			})
		})
		first, held = first+len(held), held[:0]
		return err
	}
	for img, err := range images {
		if err != nil {
			return size, err
		}
		switch got := img.Bounds().Size(); {
		case size == image.Point{}:
			size = got
		case got != size:
			return size, fmt.Errorf("evaluation: image %d has %d×%d pixels and those before it %d×%d: resize them to one size", first+len(held)+1, got.X, got.Y, size.X, size.Y)
		}
		if held = append(held, img); len(held) == batch {
			if err := flush(); err != nil {
				return size, err
			}
		}
	}
	return size, flush()
}
