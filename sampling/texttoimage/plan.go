package texttoimage

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch/nn"
)

// Plan is what a [Pipeline] will do, with all that was left open decided.
type Plan struct {
	Method      string // its name, if it has one
	Steps       int    // as they were asked for; a strength leaves some out
	Timesteps   []float64
	Evaluations int // of the network, for each picture; with guidance each is of two
	Guidance    float64
	Distilled   bool // the network is told the guidance
	Width       int
	Height      int
	Strength    float64
	Notices     []string // what the user may want to know: options without effect, texts that are cut off
}

// Plan decides what was left open, and reports what cannot work, without generating.
func (p Pipeline) Plan(texts ...string) (Plan, error) {
	texts, err := p.prompts(texts)
	if err != nil {
		return Plan{}, err
	}
	d, err := p.decide(texts...)
	if err != nil {
		return Plan{}, err
	}
	for i, text := range texts {
		d.Inversions = d.words[i]
		if cut := p.Model.Cut(d.text(text)); cut != "" {
			d.plan.Notices = append(d.plan.Notices, fmt.Sprintf("text %d is too long for one chunk of tokens and is cut off before %q", i+1, cut))
		}
	}
	return d.plan, nil
}

// decision is a Pipeline with nothing left open.
type decision struct {
	Pipeline
	plan   Plan
	config noise.Config
	cfg    bool // classifier-free guidance: two passes of the network, with the prompt and with the negative one

	tagged []nn.Adapters    // of each text
	own    []sd.Inversion   // of all
	words  [][]sd.Inversion // of each text

	plainTags bool // their notice is there
	overTime  bool // likewise
}

func (p Pipeline) decide(texts ...string) (*decision, error) {
	d := &decision{Pipeline: p, own: p.Inversions}
	if err := p.Model.Usable(); err != nil {
		return nil, fmt.Errorf("text to image: %w", err)
	}
	if err := d.check(p.Negative); err != nil {
		return nil, fmt.Errorf("the negative prompt: %w", err)
	}
	if a := d.text(p.Negative).Adapters(); a != nil {
		return nil, fmt.Errorf("the negative prompt asks for the adapter %s by a tag: an adapter acts on the whole image; move the tag to the prompt", quote.Quoted(a[0].Name))
	}
	for i, text := range texts {
		if err := d.tag(i, text); err != nil {
			return nil, err
		}
		if err := d.check(text); err != nil {
			return nil, fmt.Errorf("text %d: %w", i+1, err)
		}
		if err := d.tags(text); err != nil {
			return nil, fmt.Errorf("text %d: %w", i+1, err)
		}
		if len(d.Inversions) == len(d.own) {
			continue
		}
		if err := d.check(p.Negative); err != nil { // with the words of the text's adapters
			return nil, fmt.Errorf("the negative prompt: %w", err)
		}
	}
	d.Inversions = slices.Concat(append(d.words, p.Inversions)...)
	if err := d.tags(p.Negative); err != nil {
		return nil, fmt.Errorf("the negative prompt: %w", err)
	}
	d.Inversions = p.Inversions
	for _, f := range []func() error{d.method, d.latents, d.size, d.pictures, d.guidance, d.embeds, d.start} {
		if err := f(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// tag finds the adapters of a text, and the embeddings that come with them.
func (d *decision) tag(i int, text string) error {
	all, words := d.Adapters, d.own
	switch tags := d.text(text).Adapters(); {
	case tags != nil && d.Tagged == nil:
		return fmt.Errorf("text %d asks for the adapter %s by a tag: want a function that finds it (Tagged), or no tag", i+1, quote.Quoted(tags[0].Name))
	case tags != nil:
		more, with, err := d.Tagged(tags)
		if err != nil {
			return fmt.Errorf("text %d: %w", i+1, err)
		}
		all, words = all.And(more), append(words[:len(words):len(words)], with...)
	}
	if err := d.fits(all); err != nil {
		return err
	}
	d.tagged, d.words, d.Inversions = append(d.tagged, all), append(d.words, words), words
	return nil
}

// fits reports adapters of another model.
func (p Pipeline) fits(a nn.Adapters) error {
	var controls []*nn.Store
	for _, c := range p.Controls {
		if c.Net != nil {
			controls = append(controls, c.Net.Store())
		}
	}
	return p.Model.CheckAdapters(a, controls...)
}

func (d *decision) note(format string, args ...any) {
	d.plan.Notices = append(d.plan.Notices, fmt.Sprintf(format, args...))
}

// method chooses method and number of steps.
func (d *decision) method() error {
	m := d.Model
	if m.Scheduler != nil {
		var err error
		if d.config, err = noise.ParseConfig(m.Scheduler); err != nil {
			return err
		}
		d.unclip()
	}
	return d.choose(m.Distilled())
}

// unclip turns clip_sample off for Stable Diffusion 1 and 2, as diffusers' pipelines of these models do: their latents go beyond ±1. It is
// on by default in some classes.
func (d *decision) unclip() {
	on := d.config.Class == "DDIMScheduler" || d.config.Class == "DDPMScheduler"
	if d.config.Clip != nil {
		on = *d.config.Clip
	}
	if k := d.Model.Kind; !on || k != weights.SD15 && k != weights.SD2 {
		return
	}
	off := false
	d.config.Clip = &off
	d.note("the scheduler's configuration has clip_sample on, which is not for latents: it is off, as in diffusers")
}

// choose fills in what is not said of the method, for a model that is told its guidance or not.
func (d *decision) choose(distilled bool) (err error) {
	if d.Method == nil {
		name, exact := scheduler.Default(d.config)
		switch {
		case distilled:
			name = "lcm"
		case !exact && d.config.Class != "":
			d.note("the model's own sampler, %s, is not supported: %s is used instead", d.config.Class, name)
		}
		if d.Method, err = scheduler.Named(name); err != nil {
			return err
		}
	}
	if d.Spacing != "" {
		if d.Method, err = scheduler.WithSpacing(d.Method, d.Spacing); err != nil {
			return err
		}
	}
	d.plan.Method = scheduler.NameOf(d.Method)
	if d.Steps == 0 && d.Timesteps == nil {
		d.Steps = 25
		if d.few() {
			d.Steps = 4
		}
	}
	d.plan.Steps = max(d.Steps, len(d.Timesteps))
	return d.unused()
}

// unused reports options that only LCM and TCD have, for another of scheduler's methods; what is not of that package may have them.
func (d *decision) unused() error {
	if _, err := scheduler.Named(d.plan.Method); err != nil || d.few() {
		return nil
	}
	if d.Shorten {
		return fmt.Errorf("only the samplers lcm and tcd can take all steps from a strength on: the sampler %s leaves the first ones out", quote.Text(d.plan.Method))
	}
	if d.OriginalSteps != 0 {
		d.note("the number of original steps, %d, has no effect: the samplers lcm and tcd have them, and %s does not", d.OriginalSteps, d.plan.Method)
	}
	return nil
}

// few tells whether the method is for models that were distilled to few steps.
func (d *decision) few() bool {
	switch d.Method.(type) {
	case scheduler.LCM, scheduler.TCD:
		return true
	}
	return false
}

// Try tells whether the method can work with a model of that scheduler's configuration, before there is one. distilled is
// [sd.Model.Distilled].
func (p Pipeline) Try(config noise.Config, distilled bool) error {
	d := &decision{Pipeline: p, config: config}
	if err := d.choose(distilled); err != nil {
		return err
	}
	if d.Init != nil {
		d.plan.Strength = d.strength()
	}
	return d.start()
}

// options are the scheduler's.
func (d *decision) options() scheduler.Options {
	return scheduler.Options{Steps: d.Steps, Timesteps: d.Timesteps, OriginalSteps: d.OriginalSteps, Strength: d.plan.Strength, Shorten: d.Shorten}
}

// start tries the scheduler, for its errors and notices.
func (d *decision) start() error {
	run, err := d.Method.Start(d.config, d.options())
	if err != nil {
		return err
	}
	d.plan.Notices = append(d.plan.Notices, run.Notices()...)
	d.plan.Timesteps = run.Timesteps()
	d.plan.Evaluations = len(d.plan.Timesteps)
	return nil
}
