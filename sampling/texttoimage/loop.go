package texttoimage

import (
	"context"
	"errors"
	"fmt"
	"image"
	"iter"
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// errStop ends generation when the caller leaves the loop.
var errStop = errors.New("stopped")

var errLatentsOnly = errors.New("there are no images with LatentsOnly: take the latents from Run's Progress")

// Images yields the images of each prompt in turn, N per prompt. An error is yielded last. It stops soon after ctx is done.
func (p *Plan) Images(ctx context.Context) iter.Seq2[image.Image, error] {
	return func(yield func(image.Image, error) bool) {
		if p.o.LatentsOnly {
			yield(nil, errLatentsOnly)
			return
		}
		for st, err := range p.Run(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, m := range st.Images {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

// Run generates like Images and yields every step.
func (p *Plan) Run(ctx context.Context) iter.Seq2[Progress, error] {
	return func(yield func(Progress, error) bool) {
		if err := p.o.Model.Usable(); err != nil { // it may have been closed after planning
			yield(Progress{}, fmt.Errorf("text to image: %w", err))
			return
		}
		going := true
		err := torch.Run(p.o.Model.Device(), func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				return p.draw(ctx, s, func(st Progress) bool {
					going = yield(st, nil)
					return going
				})
			})
		})
		if err != nil && going {
			yield(Progress{}, err)
		}
	}
}

// fixed has the tensors that all images share: input image and masks.
type fixed struct {
	init, masked *torch.Tensor // [1, 3, H, W] in [-1, 1]; masked is 0 where it is repainted
	mask         *torch.Tensor // [1, 1, h, w] at the latents' size: 1 where they are repainted
	controls     []*torch.Tensor
}

func (p *Plan) prepare(s *torch.Scope) (f fixed, err error) {
	kind := p.o.Model.VAE.DType()
	if p.o.Init != nil {
		if f.init, err = vision.FromImages(s, 3, p.o.Init); err != nil {
			return f, err
		}
	}
	if p.o.Mask != nil {
		m, err := vision.FromImagesUnit(s, 1, p.o.Mask)
		if err != nil {
			return f, err
		}
		m = m.GeScalar(s, 0.5).To(s, torch.Float32)
		f.masked = f.init.Mul(s, m.LtScalar(s, 0.5).To(s, torch.Float32)).To(s, kind)
		k := p.o.Model.VAE.Factor()
		f.mask = m.Interpolate(s, p.Height/k, p.Width/k, torch.Nearest).To(s, p.o.Model.DType())
	}
	if p.o.Init != nil {
		f.init = f.init.To(s, kind)
	}
	for i, c := range p.o.Controls {
		x, err := vision.FromImagesUnit(s, 3, c.Image)
		if err != nil {
			return f, err
		}
		if got := c.Net.Store().DType(); got != p.o.Model.DType() {
			return f, fmt.Errorf("control %d: its data type is %s and the model's is %s: want the same", i+1, got, p.o.Model.DType())
		}
		f.controls = append(f.controls, x.To(s, p.o.Model.DType()))
	}
	return f, nil
}

// batch generates a batch of images with these embeddings.
func (p *Plan) batch(ctx context.Context, s *torch.Scope, f fixed, words []sd.Embedding, at Progress, yield func(Progress) bool) error {
	n := len(at.Seeds)
	net := p.network(s, f, p.prompts[at.Prompt], p.joined(s, words), n)
	k, kind := p.o.Model.VAE.Factor(), p.o.Model.DType()
	shape := []int{p.o.Model.VAE.Channels(), p.Height / k, p.Width / k}
	streams := noise.NewStreams(s, at.Seeds...)
	if p.o.SharedNoise {
		streams = streams[:1]
	}
	// Noise is drawn in float32 and rounded to the model's data type, so that all types have the same noise.
	noise := func(s *torch.Scope) *torch.Tensor {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			if p.o.SharedNoise {
				return torch.Randn(s, streams[0], torch.Float32, append([]int{n}, shape...)...).To(s, kind)
			}
			return streams.Randn(s, torch.Float32, shape...).To(s, kind)
		})
	}
	run := p.run.Again()
	if p.o.Init != nil {
		p.began(EncodingImage)
	}
	x, kept, z := p.begin(s, f, run, streams, noise, n, at.First%p.o.N)
	net.masked(s, f, streams, n)

	p.began(Sampling)
	for i, t := range run.Timesteps() {
		if err := ctx.Err(); err != nil {
			return err
		}
		out := s.Tidy(func(s *torch.Scope) *torch.Tensor { return net.predict(s, run.Input(s, x, i), t, i) })
		next, clean := run.Step(s, i, x, out, noise)
		out.Free()
		if kept != nil {
			next = p.blend(s, f, run, next, kept, z, i)
		}
		x.Free()
		x = next
		// On a GPU this waits for the step. So the last one is checked, which is not finite if one before it was not.
		if last := i+1 == len(run.Timesteps()); (last || !s.Device().IsCUDA()) && !finite(s, x) {
			return fmt.Errorf("step %d: the network's prediction is not finite: its weights are corrupt, or overflow in %s", i+1, kind)
		}
		at.I, at.Steps, at.clean, at.scope = i+1, len(run.Timesteps()), clean, s
		at.latents = x
		if at.I == at.Steps && !p.o.LatentsOnly {
			p.began(Decoding)
			var err error
			if at.Images, err = decode(ctx, s, p.o.Model, x); err != nil {
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

// finite reports whether all values of x are finite.
func finite(s *torch.Scope, x *torch.Tensor) bool {
	sum := s.Tidy(func(s *torch.Scope) *torch.Tensor { return x.To(s, torch.Float32).Sum(s) })
	defer sum.Free()
	v := sum.Item()
	return !math.IsNaN(v) && !math.IsInf(v, 0)
}

// network is the model's network with its conditions.
type network struct {
	p        *Plan
	cond     models.Cond
	controls []*torch.Tensor // the control images
	around   *torch.Tensor   // mask and masked image's latents, for an inpainting network: [n, 1+c, h, w]
	n        int
}

func (p *Plan) network(s *torch.Scope, f fixed, prompt aPrompt, words sd.Embedding, n int) *network {
	kind := p.o.Model.DType()
	net := &network{p: p, controls: f.controls, n: n}
	net.cond.Text = words.Text
	net.cond.Adapters = prompt.adapters
	if words.Pooled != nil {
		net.cond.Pooled = words.Pooled
		size := p.o.OriginalSize
		if size == (image.Point{}) {
			size = image.Pt(p.Width, p.Height)
		}
		v := []float32{float32(size.Y), float32(size.X), float32(p.o.Crop.Y), float32(p.o.Crop.X), float32(p.Height), float32(p.Width)}
		net.cond.Sizes = torch.FromSlice(s, v, 1, len(v)).To(s, kind).Expand(s, net.cond.Text.Dim(0), len(v))
	}
	if p.Distilled {
		net.cond.Guidance = torch.FromSlice(s, []float64{p.Guidance}, 1).Expand(s, n)
	}
	return net
}
