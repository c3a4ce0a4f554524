package generate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/edit"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Samplers of models that jump, in addition to package sampling's samplers for denoisers.
const (
	multistep = "multistep" // for a consistency function
	ctm       = "ctm"       // for a jump model
)

// PixelSamplers returns the names of all samplers of pixel-space models. [Model.Samplers] are those of one model.
func PixelSamplers() []string {
	return slices.Concat([]string{multistep, ctm}, sampling.Names(), overTimesteps)
}

// pixels is a pixel-space model, by the description of its network. Functions that it does not have are nil.
type pixels struct {
	description checkpoint.Description
	net         network.Network
	name        string
	title       string   // name in the settings of images; "": by name
	notices     []string // about the file
	origins     models.ConsistencyFunction
	jumps       models.Jumper
	denoiser    models.Denoiser
}

// is sets the functions that f implements.
func (m *pixels) is(f any) error {
	m.origins, _ = f.(models.ConsistencyFunction)
	m.jumps, _ = f.(models.Jumper)
	m.denoiser, _ = f.(models.Denoiser)
	if m.origins == nil && m.jumps == nil && m.denoiser == nil {
		return fmt.Errorf("model %s: want a consistency function, a denoiser or a jump model, got %T", quote.Path(m.name), f)
	}
	if shape := m.description.Network.Shape(); len(shape) != 3 {
		return fmt.Errorf("model %s: it generates samples of shape %v: want images [channels, height, width]", quote.Path(m.name), shape)
	}
	return nil
}

func (m pixels) samplers() (can []string) {
	if m.origins != nil {
		can = append(can, multistep)
	}
	if m.jumps != nil {
		can = append(can, ctm)
	}
	if m.denoiser != nil {
		can = append(can, sampling.Names()...)
		if _, ok := m.description.Chain(); ok {
			can = append(can, overTimesteps...)
		}
	}
	return can
}

// course is the sampling of a batch, from noise x at the first of the levels.
type course struct {
	levels    []float64
	timesteps []float64 // of a sampler over timesteps, in place of levels
	start     float64   // standard deviation of the noise that it starts from; 0: the first level
	each      int       // network evaluations per call of the function
	edit      *editing  // nil: images are generated from noise alone
	sample    func(ctx context.Context, s *torch.Scope, e *edit.Edit, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error)
}

func (m pixels) plan(_ context.Context, r Request) (*Plan, error) {
	if err := m.takes(r); err != nil {
		return nil, err
	}
	if r.N == 0 && r.Edit != nil && r.Edit.Task == Interpolate {
		r.N = frameCount
	}
	if r.Seeds != nil {
		if r.Edit != nil && r.Edit.Task == Interpolate {
			return nil, refuse("Seeds", "interpolate generates images of one seed")
		}
		r.N = len(r.Seeds)
	}
	r.N, r.Labels, r.Times, r.Seeds = max(r.N, 1), slices.Clone(r.Labels), slices.Clone(r.Times), slices.Clone(r.Seeds)
	if r.Batch == 0 {
		r.Batch = 64
	}
	if r.Steps == 0 {
		r.Steps = len(r.Times)
	}
	byDefault := r.Sampler == ""
	if err := m.choose(&r); err != nil {
		return nil, err
	}
	p := &Plan{}
	var e *editing
	if r.Edit != nil {
		var err error
		if e, p.Notices, err = m.editing(&r); err != nil {
			return nil, err
		}
		if p.Given, err = e.given(m); err != nil {
			return nil, err
		}
		r.Edit = &e.Edit
	}
	steps := m.many
	switch {
	case r.Sampler == multistep || r.Sampler == ctm:
		steps = m.few
	case slices.Contains(overTimesteps, r.Sampler):
		steps = m.discrete
	}
	c, err := steps(&r)
	if err != nil {
		return nil, err
	}
	if c.start == 0 {
		c.start = c.levels[0]
	}
	// By rounding, Karras's levels may exceed the largest one.
	if largest := m.description.SigmaMax; len(r.Times) > 0 && r.Times[0] > largest*(1+1e-9) {
		return nil, refuse("Times", "want noise levels up to %g, the largest of the model's training, got %g", largest, r.Times[0])
	}
	shape := m.description.Network.Shape()
	c.edit = e
	p.Sampler, p.Steps, p.Times, p.Evaluations, p.Guidance = r.Sampler, r.Steps, slices.Clone(r.Times), c.each, r.Guidance
	p.Timesteps = c.timesteps
	p.Width, p.Height = shape[2], shape[1]
	p.Notices = append(slices.Clone(m.notices), p.Notices...)
	if e != nil && e.Task == Denoise && r.Steps == 1 && r.N > 1 && (len(r.Labels) == 1 || m.description.Network.Classes() == 0) {
		p.Notices = append(p.Notices, "denoise in one step draws no noise: all images are the same")
	}
	if note := m.publishedNotice(r.Sampler); byDefault && note != "" {
		p.Notices = append(p.Notices, note)
	}
	if levels := m.description.Levels; levels != nil && r.Edit == nil && !sameLevels(r.Times, levels) {
		p.Notices = append(p.Notices, fmt.Sprintf("the model was trained for %s, at noise levels %.4g: others are outside its training",
			plural.N(len(levels), "sampling step"), levels))
	}
	if note := m.guidanceNotice(r.Guidance); note != "" {
		p.Notices = append(p.Notices, note)
	}
	p.settings = func() ([]vision.Text, error) { return m.texts(r, r.Labels) }
	p.run = func(ctx context.Context, yield func(Progress) bool) error { return m.run(ctx, r, c, yield) }
	return p, nil
}

// sameLevels compares noise levels, which may have been rounded to four digits.
func sameLevels(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(x, y float64) bool { return math.Abs(x-y) <= 1e-3*y })
}

// takes refuses what a pixel-space model does not take.
func (m pixels) takes(r Request) error {
	for _, given := range []struct {
		field string
		is    bool
	}{
		{"Prompts", r.Prompts != nil}, {"Negative", r.Negative != ""}, {"LoRAs", r.LoRAs != nil},
		{"Adapters", r.Adapters != nil}, {"More", r.More != nil}, {"Width", r.Width != 0}, {"Height", r.Height != 0},
	} {
		if given.is {
			return refuse(given.field, "the model %s is a pixel-space model, not Stable Diffusion, and does not use it", quote.Text(filepath.Base(m.name)))
		}
	}
	classes := m.description.Network.Classes()
	for _, label := range r.Labels {
		switch {
		case classes == 0:
			return refuse("Labels", "the model is not class-conditional")
		case label >= classes:
			return refuse("Labels", "want 0 to %d, got %d", classes-1, label)
		}
	}
	return nil
}

// choose fills in the default sampler, or returns an error for an unsupported one.
func (m pixels) choose(r *Request) error {
	can := m.samplers()                        //quote: our own names
	_, trained := m.jumps.(*models.Trajectory) // MeanFlow's one step goes to noise level 0, jumps end at SigmaMin
	switch {
	case r.Sampler == "" && trained && r.Edit == nil:
		r.Sampler = ctm
	case r.Sampler == "" && m.origins != nil:
		r.Sampler = multistep
	case r.Sampler == "" && m.description.Levels != nil:
		r.Sampler = "euler"
	case r.Sampler == "" && r.Edit != nil && r.Edit.joins():
		r.Sampler = "dpmpp_2s_a" // one that adds noise: see edit.Edit.SampleDenoiser
	case r.Sampler == "":
		r.Sampler = "heun"
	case !slices.Contains(PixelSamplers(), r.Sampler):
		return refuse("Sampler", "%s", suggest.OneOf(r.Sampler, can))
	case !slices.Contains(can, r.Sampler):
		return refuse("Sampler", "%s cannot sample from a %s model: want %s", quote.Text(r.Sampler), quote.Text(m.description.Kind), strings.Join(can, ", "))
	}
	if r.Edit != nil && r.Sampler == ctm {
		return refuse("Sampler", "ctm does not edit images: want %s", strings.Join(slices.DeleteFunc(can, func(name string) bool { return name == ctm }), ", "))
	}
	if r.Gamma != 0 && r.Sampler != ctm {
		return refuse("Gamma", "only the sampler %[2]s uses it, not %[1]s", quote.Text(r.Sampler), ctm)
	}
	return nil
}

// few plans multistep sampling or jumps.
func (m pixels) few(r *Request) (course, error) {
	d := m.description
	if r.Guidance != 0 && r.Guidance != 1 && !d.Network.Guidance() {
		if m.denoiser != nil {
			return course{}, refuse("Guidance", "the sampler %s does not support guidance: choose a denoiser's sampler, such as heun", quote.Text(r.Sampler))
		}
		return course{}, ErrNotGuided
	}
	grid, published := d.Grid()
	published = published && r.Sampler == multistep
	if err := m.fromTimesteps(r, grid, published); err != nil {
		return course{}, err
	}
	r.Steps = max(1, r.Steps)
	if r.Gamma != 0 && r.Steps == 1 {
		return course{}, refuse("Gamma", "noise is added between jumps, and one step has a single jump: use 2 or more steps")
	}
	switch {
	case r.Times == nil && published:
		times, err := grid.Spaced(r.Steps)
		if err != nil {
			return course{}, refuse("Steps", "%v", err)
		}
		r.Times, r.Steps = times, len(times)
	case r.Times == nil:
		r.Times = sampling.Levels(d.SigmaMax, r.Steps)[:r.Steps]
	}
	by := sampling.Multistep{SigmaMin: d.SigmaMin, Clamp: published && grid.Clip}
	if err := validTimes(r.Times, by); err != nil {
		return course{}, err
	}
	c := course{levels: append(slices.Clone(r.Times), d.SigmaMin)}
	c.each = by.Evaluations(c.levels)
	c.sample = func(ctx context.Context, s *torch.Scope, e *edit.Edit, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error) {
		f := m.origins
		if e != nil {
			f = e.Function(s, f)
		}
		return by.Sample(ctx, s, f, x, o)
	}
	if r.Sampler == ctm {
		jumps := sampling.Jumps{Gamma: r.Gamma, SigmaMin: d.SigmaMin}
		c.sample = func(ctx context.Context, s *torch.Scope, _ *edit.Edit, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error) {
			return jumps.Sample(ctx, s, m.jumps, x, o)
		}
	}
	return c, nil
}

// fromTimesteps sets the noise levels of timesteps.
func (m pixels) fromTimesteps(r *Request, grid noise.ConsistencyConfig, published bool) error {
	switch {
	case r.Timesteps == nil:
		return nil
	case !published:
		return refuse("Timesteps", "the model's noise levels have no numbers: choose noise levels instead")
	case r.Times != nil:
		return refuse("Timesteps", "want either noise levels or timesteps, not both")
	case r.Steps != 0 && r.Steps != len(r.Timesteps):
		return refuse("Timesteps", "%s for %s: want only one of them, or as many timesteps as steps", plural.N(len(r.Timesteps), "timestep"), plural.N(r.Steps, "step"))
	}
	times, err := grid.Levels(r.Timesteps)
	if err != nil {
		return refuse("Timesteps", "%v", err)
	}
	r.Times, r.Steps = times, len(times)
	return nil
}

// denoiserSteps is the number of steps of denoisers' samplers.
const denoiserSteps = 18

// many plans a denoiser's sampler, down to noise level 0.
func (m pixels) many(r *Request) (course, error) {
	d := m.description
	if r.Timesteps != nil {
		return course{}, refuse("Timesteps", "the sampler %s takes noise levels, not timesteps", quote.Text(r.Sampler))
	}
	denoiser, err := Guided(m.denoiser, d.Network, r.Guidance)
	if err != nil {
		return course{}, err
	}
	each := 1
	if _, guided := denoiser.(guidedByClass); guided {
		each = 2
	}
	largest := d.SigmaMax
	if r.Edit != nil && r.Edit.Sigma != 0 {
		largest = r.Edit.Sigma
	}
	if d.Levels != nil && r.Times == nil && largest == d.SigmaMax && (r.Steps == 0 || r.Steps == len(d.Levels)) {
		r.Times = slices.Clone(d.Levels)
		r.Steps = len(r.Times)
	}
	if r.Steps == 0 {
		r.Steps = denoiserSteps
	}
	if r.Times == nil {
		r.Times = noise.Karras(r.Steps, largest, d.SigmaMin, 7)
		if strings.HasPrefix(r.Sampler, "flow_") {
			r.Times = noise.Flow(r.Steps, largest, d.SigmaMin, 1)
		}
	}
	by, err := sampling.Named(r.Sampler)
	if err != nil {
		return course{}, err
	}
	levels := append(slices.Clone(r.Times), 0) // the last step ends with a prediction of x_0
	return course{levels: levels, each: each * by.Evaluations(levels), sample: func(ctx context.Context, s *torch.Scope, e *edit.Edit, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error) {
		d := denoiser
		if e != nil {
			d = e.Denoiser(s, d)
		}
		return by.Sample(ctx, s, d, x, o)
	}}, nil
}

// guidanceNotice is the notice about a guidance scale outside of the range that a guidance-distilled model was trained with, or "".
func (m pixels) guidanceNotice(scale float64) string {
	d := m.description
	if !d.Network.Guidance() || len(d.Guidance) != 2 {
		return ""
	}
	given := "guidance scale"
	if scale == 0 {
		given, scale = "default guidance scale", 1
	}
	if scale >= d.Guidance[0] && scale <= d.Guidance[1] {
		return ""
	}
	return fmt.Sprintf("the %s %g is outside of the range that the model was trained with, %g to %g", given, scale, d.Guidance[0], d.Guidance[1])
}

// validTimes checks the noise levels at which steps start.
func validTimes(times []float64, m sampling.Multistep) error {
	switch n := len(times); {
	case n == 0:
		return refuse("Times", "want at least one noise level")
	case n > 1 && times[n-1] == 0:
		return refuse("Times", "want noise levels above 0, got 0 at the end: leave it out, since the last step always ends without noise")
	}
	if err := m.Validate(append(slices.Clone(times), 0)); err != nil {
		return refuse("Times", "%s", strings.TrimPrefix(err.Error(), "noise levels: "))
	}
	return nil
}

// ErrNotGuided is the error of a guidance scale for a few-step model without a guidance embedding.
var ErrNotGuided error = &RequestError{"Guidance", "the model was not trained for it: distil a guided teacher"}

// errStop ends sampling when the caller leaves the loop.
var errStop = errors.New("stopped")

// run samples in batches and yields each step.
func (m pixels) run(ctx context.Context, r Request, c course, yield func(Progress) bool) error {
	if m.net.Store().Closed() {
		return fmt.Errorf("model %s: the model was closed (%w)", quote.Path(m.name), torch.ErrFreed)
	}
	err := torch.Run(m.net.Store().Device(), func(s *torch.Scope) error {
		for at := 0; at < r.N; at += r.Batch {
			st := Progress{First: at, N: min(r.Batch, r.N-at)}
			onStep := func(s *torch.Scope, step sampling.Step) error {
				if st.I, st.Steps = step.Index+1, step.Count; st.I == st.Steps {
					return nil // it is yielded with the images
				}
				st.preview = func(vae.Autoencoder) ([]image.Image, error) { return vision.ToImages(step.Origin) }
				if !yield(st) {
					return errStop
				}
				return nil
			}
			var err error
			if st.Images, err = m.batch(ctx, s, r, c, at, st.N, onStep); err != nil {
				return err
			}
			if !yield(st) {
				return errStop
			}
		}
		return nil
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// seeds are those of the noise of images at to at+n-1.
func (c course) seeds(r Request, at, n int) []uint64 {
	if c.edit.frames() {
		return slices.Repeat([]uint64{r.Seed}, n)
	}
	if r.Seeds != nil {
		return r.Seeds[at : at+n]
	}
	return noise.Seeds(r.Seed+uint64(at), n)
}

// points samples images at to at+n-1: values from about -1 to 1, [n, ...].
func (m pixels) points(ctx context.Context, s *torch.Scope, r Request, c course, at, n int, onStep func(*torch.Scope, sampling.Step) error) (*torch.Tensor, error) {
	o := sampling.Options{Levels: c.levels, Streams: noise.NewStreams(s, c.seeds(r, at, n)...), Cond: r.Cond(s, m.description.Network, at, n), OnStep: onStep}
	if c.edit == nil {
		x := o.Streams.Randn(s, torch.Float32, m.description.Network.Shape()...).MulScalar(s, c.start)
		return c.sample(ctx, s, nil, x, o)
	}
	its, err := c.edit.of(s, m, at, n, r.N, o)
	if err != nil {
		return nil, err
	}
	x, err := its.Start(s, o)
	if err != nil {
		return nil, err
	}
	return c.sample(ctx, s, &its, x, o)
}

// batch generates images at to at+n-1.
func (m pixels) batch(ctx context.Context, s *torch.Scope, r Request, c course, at, n int, onStep func(*torch.Scope, sampling.Step) error) (out []Image, err error) {
	seeds := c.seeds(r, at, n)
	return out, s.Inference(func(s *torch.Scope) error {
		x, err := m.points(ctx, s, r, c, at, n, onStep)
		if err != nil {
			return err
		}
		images, err := vision.ToImages(x)
		if err != nil {
			return err
		}
		for i, img := range images {
			one := Image{Image: img, Seed: seeds[i], Label: r.Label(m.description.Network, at+i)}
			alone := r
			if alone.N, alone.Seed, alone.Seeds = 1, seeds[i], nil; c.edit.frames() {
				alone.N, alone.frame = r.N, new(at+i)
			}
			if one.Texts, err = m.texts(alone, []int{one.Label}); err != nil {
				return err
			}
			out = append(out, one)
		}
		return nil
	})
}

// settings are the settings in an image file, from which it can be reproduced.
type settings struct {
	Model    string    `json:"model"` // the file's name
	Sampler  string    `json:"sampler,omitempty"`
	Steps    int       `json:"steps"`
	Times    []float64 `json:"times"`
	At       []int     `json:"timesteps,omitempty"` // custom timesteps of a sampler over timesteps
	Gamma    float64   `json:"gamma,omitempty"`
	Guidance float64   `json:"guidance,omitempty"`
	Label    int       `json:"label"` // -1: from Labels, by the seed, or none
	Labels   []int     `json:"labels,omitempty"`
	N        int       `json:"n"`
	Seed     uint64    `json:"seed"`
	Seeds    []uint64  `json:"seeds,omitempty"` // in place of Seed

	// Of edits.
	Task   Task    `json:"task,omitempty"`
	Image  string  `json:"image,omitempty"`
	Image2 string  `json:"image2,omitempty"`
	Mask   string  `json:"mask,omitempty"`
	Factor int     `json:"factor,omitempty"`
	Sigma  float64 `json:"sigma,omitempty"`
	Seed2  *uint64 `json:"seed2,omitempty"`
	Frame  *int    `json:"frame,omitempty"` // of N, from 0
}

// texts returns the settings of a request for images with these classes.
func (m pixels) texts(r Request, labels []int) ([]vision.Text, error) {
	is := settings{
		Model: cmp.Or(m.title, filepath.Base(m.name)), Sampler: r.Sampler, Steps: r.Steps, Times: r.Times, Gamma: r.Gamma, Guidance: r.Guidance,
		Label: -1, Labels: labels, N: r.N, Seed: r.Seed, Seeds: r.Seeds,
	}
	if e := r.Edit; e != nil {
		is.Task, is.Image, is.Image2, is.Mask, is.Factor, is.Sigma, is.Seed2, is.Frame = e.Task, e.ImageName, e.Image2Name, e.MaskName, e.Factor, e.Sigma, e.Seed2, r.frame
	}
	if r.Times == nil {
		is.At = r.Timesteps
	}
	if len(labels) == 1 {
		is.Label, is.Labels = labels[0], nil
	}
	text, err := json.Marshal(is)
	return []vision.Text{{Keyword: "Software", Value: "onestep"}, {Keyword: "onestep", Value: string(text)}}, err
}
