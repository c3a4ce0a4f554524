package job

import (
	"context"
	"errors"
	"fmt"
	"image"
	"os"
	"slices"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/captioned"
)

// captions are captioned images, from whose captions a Stable Diffusion model generates.
type captions struct {
	*captioned.Set
	model *sd.Model
	n     int
}

func (c *captions) Image(i int) (image.Image, error) {
	items, fixed := c.Items(i)
	if !fixed {
		return nil, errors.New("images with random crops have no fixed pixels to compare with: turn random_crop off")
	}
	return c.Read(items[0])
}

func (c *captions) identity() (string, error) { return c.Identity(), nil }
func (c *captions) notices() []string         { return c.Notices() }

// prompt returns the prompt of generated image i: the captions of the images that single ones are compared with, in turn.
func (c *captions) prompt(r *evaluation.Reference, i int) string {
	order := r.Compared()
	texts := c.texts(order[i%len(order)])
	return texts[i/len(order)%len(texts)]
}

// texts are the captions of an image.
func (c *captions) texts(i int) []string {
	texts, fixed := c.Captions(i)
	if !fixed || len(texts) == 0 {
		texts = c.Images()[i].Captions
	}
	if len(texts) == 0 {
		texts = []string{""}
	}
	return texts
}

// same reports which real images have the caption of generated image i.
func (c *captions) same(r *evaluation.Reference) evaluation.Same {
	with := map[string]map[int]bool{} // images by caption
	for _, real := range r.Compared() {
		for _, text := range c.texts(real) {
			if with[text] == nil {
				with[text] = map[int]bool{}
			}
			with[text][real] = true
		}
	}
	of, last := map[int]bool(nil), -1
	return func(i, real int) bool {
		if i != last { // all real images are asked for one after the other
			of, last = with[c.prompt(r, i)], i
		}
		return of[real]
	}
}

// openDiffusion opens a Stable Diffusion model and captioned images.
func (o Eval) openDiffusion(ctx context.Context, dev torch.Device, out *Evaluated) (c compared, err error) {
	if _, err := os.Stat(o.Data); err != nil && dataPath(o.Data).Path == "" { // a name or a pattern, which other models take
		return c, usage("--data %s: a Stable Diffusion model generates from captions: want a directory of images with captions", quote.Quoted(o.Data))
	}
	n := o.N
	if n == 0 {
		n = evalDiffusion
	}
	g := DefaultGenerate()
	g.Model, g.Device, g.DType, g.Threads, g.Force = o.Model, o.Device, o.DType, o.Threads, o.Force
	g.Prompts, g.Plain, g.Seed, g.Sampler, g.Steps, g.OriginalSteps, g.Guidance = []string{"a"}, true, &o.Seed, o.Sampler, o.Steps, o.OriginalSteps, o.Guidance
	var ofRuns []string
	if g.LoRAs, ofRuns, err = adaptersOfRuns(o.LoRAs); err != nil {
		return c, err
	}
	if err := g.validate(); err != nil {
		return c, err
	}
	t, err := g.pipeline()
	if err != nil {
		return c, err
	}
	adapters, err := g.adapters()
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, closeAdapters(adapters)) }() // those that were not moved to a cache
	t.Grids, t.Runs = trainedFor(adapters)
	all, err := g.openFiles(ctx, t)
	c.close = all.close
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err != nil {
		return c, err
	}
	o.progress("loading the model", 0, 0)
	if err := all.load(&t, g.options(dev)); err != nil {
		return c, err
	}
	on, free, err := g.adapt(ctx, &t, adapters)
	c.close = func() { free(); all.close() }
	if err != nil {
		return c, err
	}
	plan, err := t.Plan(g.Prompts...)
	if err != nil {
		return c, err
	}
	o.note(slices.Concat(ofRuns, g.remarks, plan.Notices, on.notes(), on.suits(plan.Method))...)
	out.Sampler, out.Steps, out.Evaluations, out.Width, out.Height = plan.Method, plan.Steps, plan.Evaluations, plan.Width, plan.Height
	set, err := captioned.Open(ctx, o.Data, captioned.Options{
		Resolution: min(out.Width, out.Height), Progress: func(done, all int) { o.progress("looking at image", done, all) },
	})
	if err != nil {
		return c, fmt.Errorf("--data: %w", err)
	}
	c.close = func() { _ = set.Close(); free(); all.close() }
	if out.Width != out.Height {
		o.note(fmt.Sprintf("the model generates %d×%d pixels and the data are cropped to squares of %d", out.Width, out.Height, min(out.Width, out.Height)))
	}
	c.captions = &captions{Set: set, model: t.Model, n: n}
	c.data, c.n = c.captions, n
	c.images = func(ctx context.Context, r *evaluation.Reference) evaluation.Images {
		return func(yield func(image.Image, error) bool) {
			for i := range n {
				img, err := one(ctx, t, c.captions.prompt(r, i), o.Seed+uint64(i))
				if !yield(img, err) || err != nil {
					return
				}
			}
		}
	}
	return c, nil
}

// one generates an image. Each prompt has a seed of its own, so that no two images start from the same noise.
func one(ctx context.Context, t texttoimage.Pipeline, prompt string, seed uint64) (image.Image, error) {
	t.Seed = seed
	plan, err := t.Plan(prompt)
	if err != nil {
		return nil, err
	}
	for is, err := range plan.Results(ctx) {
		return is.Image, err
	}
	return nil, errors.Join(ctx.Err(), errors.New("no image was generated"))
}

// bound measures the caption agreement of real images after the model's autoencoder.
func (o Eval) bound(ctx context.Context, r *evaluation.Reference, c *captions, out *Evaluated) error {
	if half, ok := c.model.VAE.(interface{ Encodes() bool }); ok && !half.Encodes() {
		o.note("the model's autoencoder has no encoder: there is no upper bound of the caption agreement")
		return nil
	}
	n := min(c.n, len(r.Compared()), evalBound)
	if n < c.n {
		o.note(fmt.Sprintf("the upper bound of the caption agreement is of %s", plural.N(n, "image")))
	}
	images := func(yield func(image.Image, error) bool) {
		for i := range n {
			o.progress("reconstructing image", i+1, n)
			img, err := c.reconstruct(r.Compared()[i])
			if !yield(img, err) || err != nil {
				return
			}
		}
	}
	same := c.same(r)
	got, err := r.Agreement(ctx, images, same)
	if err == nil {
		out.Bound = &got
	}
	return err
}

// reconstruct encodes and decodes a real image.
func (c *captions) reconstruct(i int) (img image.Image, err error) {
	real, err := c.Image(i)
	if err != nil {
		return nil, err
	}
	err = torch.Run(c.model.Device(), func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			x, err := vision.FromImages(s, 3, real)
			if err != nil {
				return err
			}
			vae := c.model.VAE
			all, err := vision.ToImages(vae.Decode(s, vae.Encode(s, x.To(s, vae.DType()), nil)))
			if err == nil {
				img = all[0]
			}
			return err
		})
	})
	return img, err
}
