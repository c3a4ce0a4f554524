package sampling

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Progress is where a drawing is: after one step of the method.
type Progress struct {
	Text     int           // which of the texts
	Seeds    []uint64      // of the pictures that are being drawn
	I, Steps int           // the step, from 1, of how many
	Pictures []image.Image // after the last step; else nil

	clean   *torch.Tensor
	latents *torch.Tensor
	scope   *torch.Scope
	from    *decision
	prompt  string
}

// Stage is a part of the work on images. [TextToImage.Run] yields during the steps only; the others take time, too.
type Stage string

// The stages, in their order. The first comes once for each prompt, the others for each batch of its images.
const (
	EncodingText  Stage = "text"     // the prompt is encoded
	EncodingImage Stage = "image"    // the input image is encoded, where there is one
	Sampling      Stage = "sampling" // the method's steps
	Decoding      Stage = "decoding" // latents become images
)

// began tells of a stage.
func (d *decision) began(s Stage) {
	if d.Began != nil {
		d.Began(s)
	}
}

// Preview decodes what the latents are predicted to become, with a tiny autoencoder for instance. It works until the next step is
// asked for or the loop ends; later it is an error that wraps [torch.ErrFreed].
func (st Progress) Preview(a vae.Autoencoder) (out []image.Image, err error) {
	switch {
	case st.clean.Freed():
		return nil, fmt.Errorf("preview: the latents of step %d of %d are gone (%w): call Preview inside the loop, before the next step", st.I, st.Steps, torch.ErrFreed)
	case a == nil:
		return nil, errors.New("preview: want an autoencoder, such as a tiny one, got nil")
	case a.Channels() != st.clean.Dim(1):
		return nil, fmt.Errorf("preview: the autoencoder's latents have %d channels and the model's %d: they are incompatible", a.Channels(), st.clean.Dim(1))
	}
	err = st.scope.NoGrad(func(s *torch.Scope) error {
		out, err = vision.ToImages(a.Decode(s, st.clean.To(s, a.DType())))
		return err
	})
	return out, err
}

// errStop ends a drawing whose pictures nobody wants any more.
var errStop = errors.New("stopped")

func (d *decision) draw(ctx context.Context, s *torch.Scope, texts []string, yield func(Progress) bool) error {
	fixed, err := d.prepare(s)
	if err != nil {
		return err
	}
	for i, text := range texts {
		err := s.Run(func(s *torch.Scope) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			d.Adapters, d.Inversions = d.tagged[i], d.words[i]
			d.began(EncodingText)
			words, err := d.embedding(s, i, text)
			if err != nil {
				return err
			}
			for first := 0; first < d.N; first += d.Batch {
				seeds := noise.Seeds(d.Seed+uint64(first), min(d.Batch, d.N-first))
				err := s.Run(func(s *torch.Scope) error {
					return d.batch(ctx, s, fixed, words, Progress{Text: i, Seeds: seeds, from: d, prompt: text}, yield)
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if errors.Is(err, errStop) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("text %d: %w", i+1, err)
		}
	}
	return nil
}

// fixed is what all pictures have in common: the given pictures as tensors.
type fixed struct {
	init, masked *torch.Tensor // [1, 3, H, W] in [-1, 1]; masked has 0 where it is to be drawn anew
	mask         *torch.Tensor // [1, 1, h, w] of the latents: 1 where they are drawn anew
	controls     []*torch.Tensor
}

func (d *decision) prepare(s *torch.Scope) (f fixed, err error) {
	kind := d.Model.VAE.DType()
	if d.Init != nil {
		if f.init, err = vision.FromImages(s, 3, d.Init); err != nil {
			return f, err
		}
	}
	if d.Mask != nil {
		m, err := vision.FromImagesUnit(s, 1, d.Mask)
		if err != nil {
			return f, err
		}
		m = m.GeScalar(s, 0.5).To(s, torch.Float32)
		f.masked = f.init.Mul(s, m.LtScalar(s, 0.5).To(s, torch.Float32)).To(s, kind)
		k := d.Model.VAE.Factor()
		f.mask = m.Interpolate(s, d.plan.Height/k, d.plan.Width/k, torch.Nearest).To(s, d.Model.DType())
	}
	if d.Init != nil {
		f.init = f.init.To(s, kind)
	}
	for i, c := range d.Controls {
		x, err := vision.FromImagesUnit(s, 3, c.Image)
		if err != nil {
			return f, err
		}
		if got := c.Net.Store().DType(); got != d.Model.DType() {
			return f, fmt.Errorf("control %d: its network is of %s and the model of %s: want the same", i+1, got, d.Model.DType())
		}
		f.controls = append(f.controls, x.To(s, d.Model.DType()))
	}
	return f, nil
}

// batch draws some pictures of one text.
func (d *decision) batch(ctx context.Context, s *torch.Scope, f fixed, words sd.Embedding, at Progress, yield func(Progress) bool) error {
	n := len(at.Seeds)
	net := d.network(s, f, words, n)
	k, kind := d.Model.VAE.Factor(), d.Model.DType()
	shape := []int{d.Model.VAE.Channels(), d.plan.Height / k, d.plan.Width / k}
	streams := noise.NewStreams(s, at.Seeds...)
	if d.SharedNoise {
		streams = streams[:1]
	}
	// Noise is drawn in float32, whatever the model's type is: the same numbers, rounded.
	noise := func(s *torch.Scope) *torch.Tensor {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			if d.SharedNoise {
				return torch.Randn(s, streams[0], torch.Float32, append([]int{n}, shape...)...).To(s, kind)
			}
			return streams.Randn(s, torch.Float32, shape...).To(s, kind)
		})
	}
	run, err := d.Method.Start(d.config, d.options())
	if err != nil {
		return err
	}
	if d.Init != nil {
		d.began(EncodingImage)
	}
	x, kept, z := d.begin(s, f, run, streams, noise, n, int(at.Seeds[0]-d.Seed))
	net.masked(s, d, f, streams, n)

	d.began(Sampling)
	for i, t := range run.Timesteps() {
		if err := ctx.Err(); err != nil {
			return err
		}
		out := s.Tidy(func(s *torch.Scope) *torch.Tensor { return net.predict(s, run.Input(s, x, i), t, i) })
		next, clean := run.Step(s, i, x, out, noise)
		out.Free()
		if kept != nil {
			next = d.blend(s, f, run, next, kept, z, i)
		}
		x.Free()
		x = next
		if !finite(s, x) {
			return fmt.Errorf("step %d: the network's prediction is not finite: its weights are broken, or too large for %s", i+1, kind)
		}
		at.I, at.Steps, at.clean, at.scope = i+1, len(run.Timesteps()), clean, s
		at.latents = x
		if at.I == at.Steps && !d.LatentsOnly {
			d.began(Decoding)
			if at.Pictures, err = decode(ctx, s, d.Model, x); err != nil {
				return err
			}
		}
		if !yield(at) {
			return errStop
		}
		if clean != x {
			clean.Free()
		}
	}
	return nil
}

// finite tells whether all of x is a number.
func finite(s *torch.Scope, x *torch.Tensor) bool {
	sum := s.Tidy(func(s *torch.Scope) *torch.Tensor { return x.To(s, torch.Float32).Sum(s) })
	defer sum.Free()
	v := sum.Item()
	return !math.IsNaN(v) && !math.IsInf(v, 0)
}

// begin returns the latents to start from. For an ordinary network with a mask it returns the latents of the picture and the noise,
// too. The order in which noise is drawn is diffusers'.
func (d *decision) begin(s *torch.Scope, f fixed, run scheduler.Run, streams noise.Streams, noise scheduler.Noise, n, first int) (x, kept, z *torch.Tensor) {
	whole := d.Init == nil || (d.Mask != nil && d.plan.Strength == 1)
	fill := d.Mask != nil && !d.Model.Inpaints()
	var image *torch.Tensor
	if !whole || fill {
		image = d.encode(s, f.init, streams, n)
	}
	z = d.noise(s, noise(s), first)
	if d.VariationStrength > 0 {
		z = s.Tidy(func(s *torch.Scope) *torch.Tensor { return d.vary(s, z) })
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

// encode makes latents of a picture, [n, …].
func (d *decision) encode(s *torch.Scope, picture *torch.Tensor, streams noise.Streams, n int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		z := d.Model.VAE.Encode(s, picture, streams).To(s, d.Model.DType())
		return z.Expand(s, append([]int{n}, z.Shape()[1:]...)...).Contiguous(s)
	})
}

// vary turns noise z towards that of the variation's seed, on the sphere that both lie near.
func (d *decision) vary(s *torch.Scope, z *torch.Tensor) *torch.Tensor {
	shape := z.Shape()
	other := noise.NewStreams(s, d.VariationSeed).Randn(s, torch.Float32, shape[1:]...)
	var out []*torch.Tensor
	for i := range shape[0] {
		a := z.Narrow(s, 0, i, 1).To(s, torch.Float32)
		cos := a.Mul(s, other).Sum(s).Item() / (a.Norm(s).Item() * other.Norm(s).Item())
		angle, v := math.Acos(min(max(cos, -1), 1)), d.VariationStrength
		if sin := math.Sin(angle); sin > 1e-4 {
			a = a.MulScalar(s, math.Sin((1-v)*angle)/sin).Add(s, other.MulScalar(s, math.Sin(v*angle)/sin))
		}
		out = append(out, a)
	}
	return torch.Cat(s, out, 0).To(s, z.DType())
}

// network is the model's with all it is told but latents and timestep.
type network struct {
	*decision
	cond     models.Cond
	controls []*torch.Tensor // pictures
	around   *torch.Tensor   // mask and masked latents, for an inpainting network: [n, 1+c, h, w]
	n        int
}

func (d *decision) network(s *torch.Scope, f fixed, words sd.Embedding, n int) *network {
	kind := d.Model.DType()
	net := &network{decision: d, controls: f.controls, n: n}
	net.cond.Text = words.Text.RepeatInterleave(s, n, 0)
	net.cond.Adapters = d.Adapters
	if words.Pooled != nil {
		net.cond.Pooled = words.Pooled.RepeatInterleave(s, n, 0)
		size := d.OriginalSize
		if size == (image.Point{}) {
			size = image.Pt(d.plan.Width, d.plan.Height)
		}
		v := []float32{float32(size.Y), float32(size.X), float32(d.Crop.Y), float32(d.Crop.X), float32(d.plan.Height), float32(d.plan.Width)}
		net.cond.Sizes = torch.FromSlice(s, v, 1, len(v)).To(s, kind).Expand(s, net.cond.Text.Dim(0), len(v))
	}
	if d.plan.Distilled {
		net.cond.Guidance = torch.FromSlice(s, []float64{d.plan.Guidance}, 1).Expand(s, n)
	}
	return net
}
