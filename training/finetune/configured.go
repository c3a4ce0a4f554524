package finetune

import (
	"context"
	"fmt"
	"image"
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/rundir"
)

// asked are options that a dataset configuration may have, too, as they were given; 0: not given.
type asked struct {
	batch, resolution int
	prior             *float64
}

// configured takes over the batch size and the resolution of a dataset configuration, which take precedence over the options as its other values
// do, so that what is recorded is what is used.
func (p *Plan) configured(given asked) error {
	r := p.Run
	if n := p.Data.Batch(); n > 0 {
		if given.batch > 0 && given.batch != n {
			p.note("the dataset configuration takes precedence: batch_size is %d, not %d", n, given.batch)
		}
		if o, ok := options.Named(p.Options, "batch"); ok {
			if err := o.Check(n); err != nil {
				return options.Refuse("data", "%s: batch_size: %w", options.NameOf("data"), err)
			}
		}
		r.Batch = n
	}
	p.timesteps = p.steps()
	if m, ok := p.method.(*LCM); ok {
		if n := p.timesteps; n%m.Skip != 0 {
			p.note("the skipping step %d does not divide the %d timesteps of the chain: the last %d are not trained", m.Skip, n, n%m.Skip)
		}
		if grid := p.grid(m); m.Phases > grid {
			return options.Refuse("phases", "%s: want at most the %d timesteps of the grid with a skipping step of %d, got %d", options.NameOf("phases"), grid, m.Skip, m.Phases)
		}
		if grid := p.grid(m); m.LoRA && grid != sd.UsualGrid {
			p.note("with a skipping step of %d the adapter is for a grid of %d timesteps instead of the usual %d: set it in other programs (original_inference_steps of LCM samplers)", m.Skip, grid, sd.UsualGrid)
		}
	}
	if given.prior != nil && (*given.prior != 1 || slices.Contains(r.Given, "prior-weight")) && p.Data.Summary().Regularization == 0 {
		p.note("the prior loss weight has no effect: there are no regularization images")
	}
	size := p.Data.Resolution()
	if side := int(math.Sqrt(float64(size.X * size.Y))); side != p.side {
		if given.resolution > 0 {
			p.note("the dataset configuration takes precedence: the resolution is %d×%d, not %d", size.X, size.Y, given.resolution)
		}
		p.side, r.Resolution = side, side
	}
	return nil
}

// startsFromOther says that the adapter that training starts from was trained in another way.
func (p *Plan) startsFromOther(a *Adapter) {
	was, now := a.from.Run, sd.AdapterRun{Command: p.method.kind()}
	if m, ok := p.method.(*LCM); ok {
		now.Phases, now.Trajectory = m.Phases, m.Trajectory
	}
	if was.Command != "" && was != now {
		p.note("the adapter that training starts from, %s, was trained in another way (%s), which this run changes", quote.Path(a.Init), wayOf(was))
	}
}

// wayOf names the method of a run.
func wayOf(r sd.AdapterRun) string {
	switch {
	case r.Phases > 0:
		return r.Command + " in " + plural.N(r.Phases, "phase")
	case r.Trajectory:
		return r.Command + " with trajectory consistency"
	}
	return r.Command
}

// grid is the number of timesteps that a model is distilled on.
func (p *Plan) grid(m *LCM) int { return max(p.timesteps/m.Skip, 1) }

// steps is the number of timesteps of the model's chain; a new model has no files yet, and the usual one.
func (p *Plan) steps() int {
	if p.files != nil && p.files.Scheduler != nil {
		if c, err := noise.ParseConfig(p.files.Scheduler); err == nil {
			return c.Steps()
		}
	}
	return 1000
}

// Check returns the error that Train would return of the run directory, before any long work; begun reports whether there is a run to resume.
func (p *Plan) Check() (begun bool, err error) {
	r := p.Run
	return rundir.Check(r.Out, r.entries(p.method.kind(), p.Options, nil), r.Resume, r.mayChange(p.Options, nil)...)
}

// fits refuses what the model's parts cannot use, and opens the validation data.
func (p *Plan) fits(ctx context.Context) error {
	r := p.Run
	for _, part := range []*weights.Component{p.files.Text, p.files.Text2} {
		if part == nil {
			continue
		}
		c, err := clip.ParseConfig(part.Config)
		if err != nil {
			return options.Failed("model", err)
		}
		if r.ClipSkip >= c.Depth {
			return options.Refuse("clip-skip", "%s: want 0 to %d for a text encoder of %d layers, got %d", options.NameOf("clip-skip"), c.Depth-1, c.Depth, r.ClipSkip)
		}
	}
	factor := 8
	if c, err := vae.ParseConfig(p.files.VAE.Config); err == nil {
		factor = 1 << (len(c.Channels) - 1)
	}
	return p.sizes(ctx, factor)
}

// sizes opens the validation data, and sets the sizes of images for an autoencoder with that many pixels in one of its latents.
func (p *Plan) sizes(ctx context.Context, factor int) error {
	r := p.Run
	if r.ValData != "" {
		var err error
		if p.valData, err = r.set(ctx, "val-data", r.ValData, p.side); err != nil {
			return err
		}
	}
	for _, set := range []*captioned.Set{p.Data, p.valData} {
		if set == nil {
			continue
		}
		for _, b := range set.Summary().Buckets {
			if b.Width%factor != 0 || b.Height%factor != 0 {
				return options.Refuse("resolution", "%s: images of %d×%d pixels do not fit the autoencoder: want sides that are multiples of %d", options.NameOf("resolution"), b.Width, b.Height, factor)
			}
			if set == p.Data && b.Width*b.Height > p.most.X*p.most.Y {
				p.most = image.Pt(b.Width, b.Height)
			}
		}
	}
	size := p.Data.Resolution()
	p.size = image.Pt(max(size.X/factor, 1)*factor, max(size.Y/factor, 1)*factor)
	return nil
}

func (p *Plan) note(format string, args ...any) {
	p.notices = append(p.notices, fmt.Sprintf(format, args...))
}

// Notices are what was decided about the run and its data that whoever started it may want to know, a sentence each.
func (p *Plan) Notices() []string { return append(slices.Clone(p.notices), p.Data.Notices()...) }
