package texttoimage

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch/nn"
)

// Plan is a [Pipeline] with all defaults filled in: the exported fields are the final settings, and [Plan.Images], [Plan.Results] and
// [Plan.Run] generate with them, any number of times and from several goroutines at once. Making it resizes input images, loads tagged
// adapters and starts the sampler. The Pipeline's model, adapters, ControlNets and tensors have to stay open while the plan is used.
type Plan struct {
	Method      string // the sampler's name, if it has one
	Steps       int    // as requested; with a strength some are skipped
	Timesteps   []float64
	Evaluations int // network evaluations per image, with classifier-free guidance two a step
	Guidance    float64
	Distilled   bool // the network takes the guidance scale as an input
	Width       int
	Height      int
	Strength    float64  // of img2img; 0 without an input image
	Notices     []string // notices to the user, such as options without effect and truncated prompts

	o       Pipeline // with all defaults filled in
	config  noise.Config
	run     scheduler.Schedule // before its first step
	cfg     bool               // classifier-free guidance: two passes of the network, with the prompt and with the negative prompt
	prompts []aPrompt

	plainTags bool // the notice was given
	overTime  bool // likewise
	misnames  map[prompt.Misnamed]bool
}

// aPrompt is a prompt and the settings of its images.
type aPrompt struct {
	text       string
	adapters   nn.Adapters    // those for all prompts and those of its tags
	inversions []sd.Inversion // likewise
}

func (p *Plan) decide(prompts []string) error {
	if err := p.o.Model.Usable(); err != nil {
		return fmt.Errorf("text to image: %w", err)
	}
	if err := p.o.Model.CheckInversions(p.o.Inversions...); err != nil { // before the prompts, so that the error is not attributed to one of them
		return err
	}
	if err := p.check(p.o.Negative, p.o.Inversions); err != nil {
		return fmt.Errorf("the negative prompt: %w", err)
	}
	if a := p.text(p.o.Negative, nil).Adapters(); a != nil {
		return fmt.Errorf("the negative prompt has a tag for the adapter %s, but an adapter applies to the whole image: move the tag to the prompt", quote.Quoted(a[0].Name))
	}
	if err := p.fits(p.o.Adapters); err != nil {
		return err
	}
	words := p.o.Inversions[:len(p.o.Inversions):len(p.o.Inversions)] // of all
	for i, text := range prompts {
		one, err := p.prompt(text)
		if err != nil {
			return fmt.Errorf("prompt %d: %w", i+1, err)
		}
		p.prompts = append(p.prompts, one)
		if own := one.inversions[len(p.o.Inversions):]; len(own) > 0 {
			words = append(words, own...)
			if err := p.check(p.o.Negative, one.inversions); err != nil { // with the words of the prompt's adapters
				return fmt.Errorf("the negative prompt: %w", err)
			}
		}
	}
	if err := p.tags(p.o.Negative, words); err != nil {
		return fmt.Errorf("the negative prompt: %w", err)
	}
	for _, f := range []func() error{p.method, p.latents, p.size, p.images, p.guidance, p.embeds, p.start} {
		if err := f(); err != nil {
			return err
		}
	}
	for i, one := range p.prompts {
		if cut := p.o.Model.Cut(p.text(one.text, one.inversions)); cut != "" {
			p.note("prompt %d is too long for one chunk of tokens and is truncated before %s", i+1, quote.Quoted(cut))
		}
	}
	return nil
}

// prompt loads a prompt's tagged adapters with their embeddings, and checks the prompt.
func (p *Plan) prompt(text string) (aPrompt, error) {
	one := aPrompt{text, p.o.Adapters, p.o.Inversions}
	switch tags := p.text(text, nil).Adapters(); {
	case tags != nil && p.o.Tagged == nil:
		return one, fmt.Errorf("it has a tag for the adapter %s: set Tagged to a function that loads it, or remove the tag", quote.Quoted(tags[0].Name))
	case tags != nil:
		more, err := p.o.Tagged(tags)
		if err != nil {
			return one, err
		}
		one.adapters, one.inversions = one.adapters.And(more.Adapters), slices.Concat(one.inversions, more.Inversions)
		p.o.Grids, p.o.Runs = append(p.o.Grids, more.Grids...), append(p.o.Runs, more.Runs...)
		if err := p.fits(one.adapters); err != nil {
			return one, err
		}
	}
	if err := p.check(text, one.inversions); err != nil {
		return one, err
	}
	return one, p.tags(text, one.inversions)
}

// fits returns an error for adapters of another model.
func (p *Plan) fits(a nn.Adapters) error {
	var controls []*nn.Store
	for _, c := range p.o.Controls {
		if c.Net != nil {
			controls = append(controls, c.Net.Store())
		}
	}
	return p.o.Model.CheckAdapters(a, controls...)
}

// OptionError reports an option of a [Pipeline] that is invalid, or that the sampler or the model does not support.
type OptionError = scheduler.OptionError

func refuse(option, format string, args ...any) error {
	return &OptionError{Option: option, Err: fmt.Errorf(format, args...)}
}

func (p *Plan) note(format string, args ...any) {
	p.Notices = append(p.Notices, fmt.Sprintf(format, args...))
}

// method selects the sampler and the number of steps.
func (p *Plan) method() error {
	m := p.o.Model
	if m.Scheduler != nil {
		var err error
		if p.config, err = noise.ParseConfig(m.Scheduler); err != nil {
			return err
		}
		p.unclip()
	}
	return p.choose(m.Distilled())
}

// unclip turns clip_sample off for Stable Diffusion 1 and 2, as diffusers' pipelines of these models do: their latents exceed ±1, and
// clip_sample is on by default in some classes.
func (p *Plan) unclip() {
	on := p.config.Class == "DDIMScheduler" || p.config.Class == "DDPMScheduler"
	if p.config.Clip != nil {
		on = *p.config.Clip
	}
	if k := p.o.Model.Kind; !on || k != weights.SD15 && k != weights.SD2 {
		return
	}
	off := false
	p.config.Clip = &off
	p.note("clip_sample of the scheduler's configuration is turned off, as in diffusers: it is not meant for latents")
}

// DefaultSampler returns the name of the sampler for models with that scheduler configuration. That of guidance-distilled ones, whose network
// has a guidance embedding, is lcm, or tcd if the configuration has it. exact reports whether it is the configuration's own.
func DefaultSampler(c noise.Config, distilled bool) (name string, exact bool) {
	if name, exact = scheduler.Default(c); distilled && name != "tcd" {
		return "lcm", true
	}
	return name, exact
}

// DefaultSteps is the number of steps of a sampler if none is given.
func DefaultSteps(m scheduler.Method) int {
	if scheduler.FewSteps(m) {
		return 4
	}
	return 25
}

// choose fills in the default sampler and number of steps, which depend on whether the model is guidance-distilled.
func (p *Plan) choose(distilled bool) (err error) {
	name, exact := DefaultSampler(p.config, distilled)
	if p.o.Method == nil {
		if !exact && p.config.Class != "" {
			p.note("the model's own sampler %s is not supported: using %s instead", p.config.Class, name)
		}
		if p.o.Method, err = scheduler.Named(name); err != nil {
			return err
		}
	}
	if p.o.Spacing != "" {
		if p.o.Method, err = scheduler.WithSpacing(p.o.Method, p.o.Spacing); err != nil {
			return err
		}
	}
	p.Method = scheduler.NameOf(p.o.Method)
	if distilled && p.Method != name && (name == "tcd" || !scheduler.FewSteps(p.o.Method)) {
		p.note("the model was distilled for the sampler %s, and images of %s may be worse", name, p.Method)
	}
	p.trained()
	size := p.grid()
	if p.o.Steps == 0 && p.o.Timesteps == nil {
		p.o.Steps = min(DefaultSteps(p.o.Method), size)
	}
	p.Steps = max(p.o.Steps, len(p.o.Timesteps))
	return p.unused()
}

// trained says which sampler the adapters were trained for, if it is another.
func (p *Plan) trained() {
	for _, run := range p.o.Runs {
		switch {
		case p.Method == "tcd":
		case run.Phases > 0:
			p.note("an adapter was trained for %s with the sampler tcd and eta 0; the sampler here is %s", plural.N(run.Phases, "sampling step"), p.Method)
		case run.Trajectory:
			p.note("an adapter was trained for the sampler tcd; the sampler here is %s", p.Method)
		}
	}
}

// grid chooses the grid of timesteps of LCM and TCD, which is that of the adapters if they were distilled on one, and returns its size.
func (p *Plan) grid() int {
	if !scheduler.FewSteps(p.o.Method) {
		return math.MaxInt
	}
	own := p.config.Grid()
	var grids []int
	for _, n := range p.o.Grids {
		if n > 0 && !slices.Contains(grids, n) {
			grids = append(grids, n)
		}
	}
	given := p.o.OriginalSteps
	switch {
	case grids == nil:
		return cmp.Or(given, own)
	case given != 0 && !slices.Contains(grids, given):
		p.note("images may be worse: the timesteps are from a grid of %d, and the adapter was distilled on one of %d", given, grids[0])
	case given == 0 && len(grids) > 1:
		p.note("the adapters were distilled on different grids of timesteps, of %v: the timesteps are from that of %d", grids, grids[0])
	case given == 0 && grids[0] != own:
		p.note("the timesteps are from a grid of %d, on which the adapter was distilled, and not of %d as for the model", grids[0], own)
	}
	p.o.OriginalSteps = cmp.Or(given, grids[0])
	return p.o.OriginalSteps
}

// unused reports options of LCM and TCD that the sampler does not use. Methods from outside package scheduler may use them.
func (p *Plan) unused() error {
	if _, err := scheduler.Named(p.Method); err != nil || scheduler.FewSteps(p.o.Method) {
		return nil
	}
	if p.o.Shorten {
		return refuse("Shorten", "taking all steps with a strength is only for the samplers lcm and tcd: the sampler %s skips the first steps", quote.Text(p.Method))
	}
	if p.o.OriginalSteps != 0 {
		p.note("the number of original steps (%d) has no effect: only the samplers lcm and tcd use it, not %s", p.o.OriginalSteps, p.Method)
	}
	return nil
}

// Try checks the sampler's options against a model's files before its weights are loaded; Model may be nil. Invalid configurations are
// errors; missing components are not.
func (p Pipeline) Try(files *weights.Model) error {
	plan := &Plan{o: p}
	if files.Scheduler != nil {
		var err error
		if plan.config, err = noise.ParseConfig(files.Scheduler); err != nil {
			return fmt.Errorf("%s: %w", quote.Path(files.Path), err)
		}
	}
	if files.UNet == nil {
		return nil
	}
	network, err := unet.ParseConfig(files.UNet.Config)
	if err != nil {
		return fmt.Errorf("%s: unet: %w", quote.Path(files.Path), err)
	}
	if err := plan.choose(network.TimeCondProjDim > 0); err != nil {
		return err
	}
	if p.Init != nil {
		plan.Strength = plan.strength()
	}
	return plan.start()
}

// options returns the scheduler's options.
func (p *Plan) options() scheduler.Options {
	return scheduler.Options{Steps: p.o.Steps, Timesteps: p.o.Timesteps, OriginalSteps: p.o.OriginalSteps, Strength: p.Strength, Shorten: p.o.Shorten}
}

// start starts the scheduler: every batch goes through the run from its beginning.
func (p *Plan) start() (err error) {
	if p.run, err = p.o.Method.Start(p.config, p.options()); err != nil {
		return err
	}
	p.Notices = append(p.Notices, p.run.Notices()...)
	p.Timesteps = p.run.Timesteps()
	if p.Evaluations = len(p.Timesteps); p.cfg {
		p.Evaluations *= 2
	}
	return nil
}
