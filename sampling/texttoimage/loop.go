package texttoimage

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// errStop ends the work on images that nobody wants any more.
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

// fixed is what all images have in common: the input images as tensors.
type fixed struct {
	init, masked *torch.Tensor // [1, 3, H, W] in [-1, 1]; masked has 0 where it is generated anew
	mask         *torch.Tensor // [1, 1, h, w] of the latents: 1 where they are generated anew
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

// batch generates some images of one prompt.
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
