package edit

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/torch"
)

// Inpaint repaints the part of an image [1 or B, C, H, W] where the mask is 1, and keeps the rest to the bit. The mask is broadcast to the
// image's shape, such as [1, 1, H, W].
func Inpaint(image, mask *torch.Tensor) Edit { return Edit{Image: image, Mask: mask, Clamp: true} }

// Colorize generates the colours of an image [1 or B, 3, H, W] of which the luminance is kept.
func Colorize(s *torch.Scope, image *torch.Tensor) Edit {
	return Edit{Image: image, Transform: Colour{}, Mask: torch.FromSlice(s, []float32{0, 1, 1}, 1, 3, 1, 1), Clamp: true}
}

// Superresolve generates the details of an image [1 or B, C, H, W] of which only the mean of each factor×factor patch is used and kept.
// [Enlarge] makes it of a small image, whose pixels these means are.
func Superresolve(s *torch.Scope, image *torch.Tensor, factor int) (Edit, error) {
	p := Patches{factor}
	if factor < 2 {
		return Edit{}, fmt.Errorf("edit: super-resolution: want a factor of at least 2, got %d", factor)
	}
	if err := p.Fits(image.Shape()); err != nil {
		return Edit{}, err
	}
	return Edit{Image: image, Transform: p, Mask: p.detail(s, image.Dim(2), image.Dim(3)), Clamp: true}, nil
}

// Enlarge repeats each pixel of an image [B, C, H, W] in both directions: [B, C, factor·H, factor·W].
func Enlarge(s *torch.Scope, image *torch.Tensor, factor int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return image.RepeatInterleave(s, factor, 2).RepeatInterleave(s, factor, 3)
	})
}

// Stroke turns a coarse painting [1 or B, C, H, W] into an image (SDEdit, Meng et al. 2022): it adds noise of the first level, which hides the
// strokes but not the layout, and generates from there. By the letter of algorithm 4, with Ω = 1 everywhere, it would start from noise alone.
func Stroke(image *torch.Tensor) Edit { return Edit{Image: image, Clamp: true} }

// Denoise removes Gaussian noise from an image [1 or B, C, H, W]. Its standard deviation is the first noise level to sample with.
func Denoise(image *torch.Tensor) Edit { return Edit{Image: image, Noisy: true, Clamp: true} }

// Interpolate generates images between those of two noises z1 and z2 [1, C, H, W]: one for each of the fractions a, from 0 at z1 to 1 at z2, by
// [Slerp].
func Interpolate(s *torch.Scope, z1, z2 *torch.Tensor, a ...float64) (Edit, error) {
	z, err := Slerp(s, z1, z2, a...)
	return Edit{Noise: z, Clamp: true}, err
}

// Blend generates images between two images y1 and y2 [1, C, H, W], one for each of the fractions a. Both are noised by the same z [1, C, H, W] at
// the first noise level, and interpolated there (Ho et al. 2020, section 4.4): (1 - a)·y1 + a·y2 + t_1·z. The higher the level, the more is
// generated.
func Blend(s *torch.Scope, y1, y2, z *torch.Tensor, a ...float64) (Edit, error) {
	if len(a) == 0 {
		return Edit{}, errors.New("edit: interpolation: want at least one fraction")
	}
	e := Edit{Noise: z, Clamp: true}
	err := torch.Catch(func() {
		e.Image = s.Tidy(func(s *torch.Scope) *torch.Tensor {
			at := torch.FromSlice(s, a, len(a), 1, 1, 1).To(s, y1.DType())
			return y1.Add(s, y2.Sub(s, y1).Mul(s, at))
		})
	})
	return e, err
}

// Fractions returns n numbers from 0 to 1 at equal distances; 0 alone for one, and none for less.
func Fractions(n int) []float64 {
	a := make([]float64, max(n, 0))
	for i := range a {
		a[i] = float64(i) / float64(max(n-1, 1))
	}
	return a
}
