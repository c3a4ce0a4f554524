package texttoimage

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// latents checks Latents, which also set the default size and number of images.
func (p *Plan) latents() error {
	x := p.o.Latents
	if x == nil {
		return nil
	}
	c, k := p.o.Model.VAE.Channels(), p.o.Model.VAE.Factor()
	if err := there("latents", x, -1, c, -1, -1); err != nil {
		return err
	}
	shape := x.Shape()
	for _, v := range []struct {
		own *int
		as  int
	}{{&p.o.N, shape[0]}, {&p.o.Height, k * shape[2]}, {&p.o.Width, k * shape[3]}} {
		if *v.own == 0 {
			*v.own = v.as
		}
	}
	if want := []int{p.o.N, c, p.o.Height / k, p.o.Width / k}; !slices.Equal(want, shape) {
		return fmt.Errorf("latents: want shape %v, for %s of %d×%d pixels, got %v", want, plural.N(p.o.N, "image"), p.o.Width, p.o.Height, shape)
	}
	return nil
}

// noise returns the rows of Latents from first on instead of z [n, c, h, w], or z without Latents.
func (p *Plan) noise(s *torch.Scope, z *torch.Tensor, first int) *torch.Tensor {
	if p.o.Latents == nil {
		return z
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return p.o.Latents.Narrow(s, 0, first, z.Dim(0)).ToDevice(s, z.Device()).To(s, z.DType()).Contiguous(s)
	})
}

// begin returns the initial latents. With a mask and a network that is not for inpainting it also returns the input image's latents and the
// noise. Noise is drawn in diffusers' order.
func (p *Plan) begin(s *torch.Scope, f fixed, run scheduler.Schedule, streams noise.Streams, noise scheduler.Noise, n, first int) (x, kept, z *torch.Tensor) {
	whole := p.o.Init == nil || (p.o.Mask != nil && p.Strength == 1)
	fill := p.o.Mask != nil && !p.o.Model.Inpaints()
	var image *torch.Tensor
	if !whole || fill {
		image = p.encode(s, f.init, streams, n)
	}
	z = p.noise(s, noise(s), first)
	if p.o.VariationStrength > 0 {
		z = s.Tidy(func(s *torch.Scope) *torch.Tensor { return p.vary(s, z) })
	}
	if whole {
		x = z.MulScalar(s, run.InitSigma())
	} else {
		x = run.AddNoise(s, image, z, 0)
	}
	if fill {
		kept = image
	}
	return x, kept, z
}

// encode returns the latents of an image, [n, …].
func (p *Plan) encode(s *torch.Scope, image *torch.Tensor, streams noise.Streams, n int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		z := p.o.Model.VAE.Encode(s, image, streams).To(s, p.o.Model.DType())
		return z.Expand(s, append([]int{n}, z.Shape()[1:]...)...).Contiguous(s)
	})
}

// vary interpolates spherically (slerp) from noise z to that of the variation seed.
func (p *Plan) vary(s *torch.Scope, z *torch.Tensor) *torch.Tensor {
	shape := z.Shape()
	other := noise.NewStreams(s, p.o.VariationSeed).Randn(s, torch.Float32, shape[1:]...)
	var out []*torch.Tensor
	for i := range shape[0] {
		a := z.Narrow(s, 0, i, 1).To(s, torch.Float32)
		cos := a.Mul(s, other).Sum(s).Item() / (a.Norm(s).Item() * other.Norm(s).Item())
		angle, v := math.Acos(min(max(cos, -1), 1)), p.o.VariationStrength
		if sin := math.Sin(angle); sin > 1e-4 {
			a = a.MulScalar(s, math.Sin((1-v)*angle)/sin).Add(s, other.MulScalar(s, math.Sin(v*angle)/sin))
		}
		out = append(out, a)
	}
	return torch.Cat(s, out, 0).To(s, z.DType())
}

// Latents returns a copy of the latents after this step, in s, [n, channels, h, w] in the model's data type. After the last step they are
// the autoencoder's input; see [Pipeline.Decode]. Like Preview, it works until the next step or the end of the loop.
func (st Progress) Latents(s *torch.Scope) (x *torch.Tensor, err error) {
	if st.latents.Freed() {
		return nil, fmt.Errorf("the latents of step %d of %d are no longer available (%w): call Latents inside the loop, before the next step", st.I, st.Steps, torch.ErrFreed)
	}
	err = torch.Catch(func() { x = st.latents.Detach(s).Clone(s) })
	return x, err
}

// Decode decodes latents [n, channels, h, w] to images, to the last bit as at the end of generation. Latents are converted to the
// autoencoder's data type.
func (p Pipeline) Decode(ctx context.Context, latents *torch.Tensor) (images []image.Image, err error) {
	if err := p.Model.Usable(); err != nil {
		return nil, fmt.Errorf("decode latents: %w", err)
	}
	if latents == nil {
		return nil, errors.New("decode latents: got nil")
	}
	if err := there("decode latents", latents, -1, p.Model.VAE.Channels(), -1, -1); err != nil {
		return nil, err
	}
	err = torch.Run(p.Model.Device(), func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			images, err = decode(ctx, s, p.Model, latents.ToDevice(s, p.Model.Device()))
			return err
		})
	})
	return images, err
}

// decode decodes latents to images, one at a time.
func decode(ctx context.Context, s *torch.Scope, m *sd.Model, x *torch.Tensor) ([]image.Image, error) {
	var all []image.Image
	for i := range x.Dim(0) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := s.Run(func(s *torch.Scope) error {
			one, err := vision.ToImages(m.Decode(s, x.Narrow(s, 0, i, 1)))
			all = append(all, one...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}
