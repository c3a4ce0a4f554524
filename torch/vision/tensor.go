package vision

import (
	"errors"
	"fmt"
	"image"
	"math"

	"github.com/onestep-go/onestep/torch"
)

// ErrNaN is wrapped by the error of [ToImages] for values that are NaN.
var ErrNaN = errors.New("NaN")

// FromImages returns images as a tensor [B, channels, H, W], float32 on the scope's device, with values from -1 (black) to 1 (white):
// the input of autoencoders, and of pixel-space models in training. channels is 3 for red, green and blue, or 1 for the luminance
// (ITU-R 601-2, as in Pillow's convert("L")). Alpha is composited on white. Images of different sizes are an error. [ToImages]
// returns the same levels.
func FromImages(s *torch.Scope, channels int, images ...image.Image) (*torch.Tensor, error) {
	return fromImages(s, channels, images, func(level byte) float32 { return float32(level)/255*2 - 1 })
}

// FromImagesUnit is [FromImages] with values from 0 (black) to 1 (white), the input of ControlNets, as torchvision's to_tensor.
func FromImagesUnit(s *torch.Scope, channels int, images ...image.Image) (*torch.Tensor, error) {
	return fromImages(s, channels, images, func(level byte) float32 { return float32(level) / 255 })
}

func fromImages(s *torch.Scope, channels int, images []image.Image, value func(level byte) float32) (t *torch.Tensor, err error) {
	if channels != 1 && channels != 3 {
		return nil, fmt.Errorf("images to a tensor: want 1 or 3 channels, got %d", channels)
	}
	if len(images) == 0 {
		return nil, errors.New("images to a tensor: want at least one image")
	}
	for i, m := range images {
		if m == nil {
			return nil, fmt.Errorf("images to a tensor: image %d is nil", i+1)
		}
		if got, first := m.Bounds().Size(), images[0].Bounds().Size(); got != first {
			return nil, fmt.Errorf("images to a tensor: image %d has %d×%d pixels and the first %d×%d: resize them to one size",
				i+1, got.X, got.Y, first.X, first.Y)
		}
	}
	var table [256]float32
	for v := range table {
		table[v] = value(byte(v))
	}
	size := images[0].Bounds().Size()
	levels := make([]byte, channels*size.X*size.Y)
	values := make([]float32, 0, len(images)*len(levels))
	for _, m := range images {
		Planes(levels, m)
		for _, v := range levels {
			values = append(values, table[v])
		}
	}
	err = torch.Catch(func() { t = torch.FromSlice(s, values, len(images), channels, size.Y, size.X) })
	return t, err
}

// ToImages returns x [B, C, H, W] with values from -1 (black) to 1 (white), of any floating-point type and on any device, as B images:
// grey for one channel, RGB for three. Values outside are clamped. NaN is an error that wraps [ErrNaN] and says how many there are.
// Levels are rounded as diffusers does, in float32, halves to even.
func ToImages(x *torch.Tensor) (images []image.Image, err error) {
	var v []float32
	var shape []int
	if err := torch.Catch(func() {
		shape = x.Shape()
		if len(shape) != 4 || (shape[1] != 1 && shape[1] != 3) || !x.DType().IsFloat() {
			return
		}
		s := torch.NewScope(torch.CPU)
		defer s.Close()
		v = torch.ToSlice[float32](x.Detach(s).ToDevice(s, torch.CPU).To(s, torch.Float32))
	}); err != nil {
		return nil, fmt.Errorf("a tensor to images: %w", err)
	}
	if v == nil {
		return nil, fmt.Errorf("a tensor to images: want a floating-point tensor [B, 1 or 3, H, W], got %s%v", x.DType(), shape)
	}
	bad := 0
	levels := make([]byte, len(v))
	for i, f := range v {
		if f != f {
			bad++
			continue
		}
		levels[i] = uint8(math.RoundToEven(float64(min(max(f/2+0.5, 0), 1) * 255)))
	}
	if bad > 0 {
		return nil, fmt.Errorf("a tensor to images: %d of %d values are %w: the model's weights or the noise levels are broken", bad, len(v), ErrNaN)
	}
	one := shape[1] * shape[2] * shape[3]
	images = make([]image.Image, shape[0])
	for i := range images {
		images[i] = FromPlanes(levels[i*one:(i+1)*one], shape[1], shape[2], shape[3])
	}
	return images, nil
}
