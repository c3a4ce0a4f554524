package engine

import (
	"cmp"
	"context"
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
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// resolved is a request as it is generated.
type resolved struct {
	generate.Request
	as  Resolved // as far as it is known before the plan
	key string   // requests with the same key can be served in one batch; "": only alone
}

// notes collects what a user should know.
type notes struct{ to *[]string }

func (n notes) add(format string, args ...any) { *n.to = append(*n.to, fmt.Sprintf(format, args...)) }

func refuse(field, format string, args ...any) error {
	return &RequestError{field, fmt.Sprintf(format, args...)}
}

// unknown is the error of a model's name.
func (e *Engine) unknown(name string) error {
	var names []string
	for _, m := range e.models {
		names = append(names, m.Name)
	}
	return refuse("Model", "%s", suggest.OneOf(name, names))
}

// MaxSide is the largest width and height of images, in pixels.
const MaxSide = 1 << 14

const (
	maxPrompt = 10_000 // bytes of a prompt, whose encoding takes the longer the more it has
	maxLoRAs  = 16
)

// validate reports values that are invalid for every model, and brings the mask to the size of the input image.
func (r *Request) validate() error {
	switch {
	case r.N < 0:
		return refuse("N", "want at least 1 image, got %d", r.N)
	case r.Steps < 0:
		return refuse("Steps", "want at least 1, got %d", r.Steps)
	case r.Width < 0 || r.Width > MaxSide:
		return refuse("Width", "want 1 to %d pixels, got %d", MaxSide, r.Width)
	case r.Height < 0 || r.Height > MaxSide:
		return refuse("Height", "want 1 to %d pixels, got %d", MaxSide, r.Height)
	case !(r.Guidance >= 0 && r.Guidance <= 1000):
		return refuse("Guidance", "want a scale from 0 to 1000, got %g", r.Guidance)
	case !(r.Strength >= 0 && r.Strength <= 1):
		return refuse("Strength", "want more than 0, at most 1, got %g", r.Strength)
	case r.Deadline < 0:
		return refuse("Deadline", "want a duration above 0, got %s", r.Deadline)
	case r.Previews < 0:
		return refuse("Previews", "want at least 0, got %d", r.Previews)
	case len(r.Prompt) > maxPrompt:
		return refuse("Prompt", "want at most %d bytes, got %d", maxPrompt, len(r.Prompt))
	case len(r.Negative) > maxPrompt:
		return refuse("Negative", "want at most %d bytes, got %d", maxPrompt, len(r.Negative))
	case strings.ContainsRune(r.Prompt, 0):
		return refuse("Prompt", "want text without NUL characters")
	case strings.ContainsRune(r.Negative, 0):
		return refuse("Negative", "want text without NUL characters")
	case len(r.LoRAs) > maxLoRAs:
		return refuse("LoRAs", "want at most %d adapters, got %d", maxLoRAs, len(r.LoRAs))
	case r.Mask != nil && r.Init == nil:
		return refuse("Mask", "a mask needs an input image")
	case r.Init != nil && r.Init.Bounds().Empty():
		return refuse("Init", "the input image is empty")
	case r.Mask != nil && r.Mask.Bounds().Empty():
		return refuse("Mask", "the mask is empty")
	}
	for _, l := range r.LoRAs {
		if err := l.Check(); err != nil {
			return refuse("LoRAs", "%v", err)
		}
	}
	r.Labels, r.Classes, r.LoRAs = slices.Clone(r.Labels), slices.Clone(r.Classes), slices.Clone(r.LoRAs)
	if r.Mask != nil {
		if want := r.Init.Bounds().Size(); r.Mask.Bounds().Size() != want {
			r.Mask = vision.Resize(r.Mask, want.X, want.Y, vision.Bilinear)
		}
	}
	return nil
}

// resolve returns what the model generates for a valid request. It only looks at what is known of the model.
func (p *profile) resolve(r Request, o Options) (resolved, error) {
	var is resolved
	note := notes{&is.as.Notices}
	is.N, is.Seed = max(r.N, 1), *r.Seed
	if is.N > o.MaxImages {
		note.add("%d images exceed the limit: %d are generated", is.N, o.MaxImages)
		is.N = o.MaxImages
	}
	if is.Seed > math.MaxUint64-uint64(is.N-1) {
		return is, refuse("Seed", "want one that leaves seeds for %d images, got %d", is.N, is.Seed)
	}
	made, given := p.sizes(r, o.MaxPixels, note)
	is.as.Width, is.as.Height = given.X, given.Y
	var err error
	if is.Sampler, err = p.sampler(r.Sampler, note); err != nil {
		return is, err
	}
	is.Steps = p.steps(r.Steps, is.Sampler, r.Mask != nil, o.MaxSteps, note)
	is.Guidance = p.guidance(r.Guidance, is.Sampler, note)
	is.Batch = together(made, o.Batch)
	if p.pixels == nil {
		err = p.diffusion(&is, r, made, o.LoRA.Dir, note)
	} else {
		err = p.inPixels(&is, r, note)
	}
	if r.Init == nil {
		is.key = fmt.Sprintf("%q %d %g %q %v %#v %#v", is.Sampler, is.Steps, is.Guidance, is.Negative, made, is.LoRAs, tagsOf(is.Prompts))
	}
	return is, err
}

// batchPixels is how many pixels are generated together, at most: smaller images take far less time together than one after the other, and
// larger ones take as long and more memory.
const batchPixels = 256 * 256

// together returns how many images of a size are generated together, at most.
func together(size image.Point, most int) int {
	return min(max(batchPixels/(size.X*size.Y), 1), most)
}

// tagsOf returns the adapter tags of prompts.
func tagsOf(prompts []string) (tags []prompt.LoRA) {
	for _, text := range prompts {
		_, own := prompt.Parse(text)
		tags = append(tags, own...)
	}
	return tags
}

// diffusion resolves what only Stable Diffusion uses.
func (p *profile) diffusion(is *resolved, r Request, made image.Point, adapters string, note notes) error {
	switch {
	case p.inpaints && (r.Init == nil || r.Mask == nil):
		return refuse("Init", "this is an inpainting model: want an input image and a mask")
	case r.Init != nil && !p.Images:
		return refuse("Init", "the model's autoencoder has only a decoder and cannot encode an input image")
	}
	tags := tagsOf([]string{r.Prompt})
	if len(tags) > maxLoRAs {
		return refuse("Prompt", "want at most %d adapters, got %d", maxLoRAs, len(tags))
	}
	if err := present("Prompt", tags, adapters); err != nil {
		return err
	}
	if err := present("LoRAs", r.LoRAs, adapters); err != nil {
		return err
	}
	is.Prompts, is.Negative, is.LoRAs = []string{r.Prompt}, r.Negative, r.LoRAs
	is.Width, is.Height = made.X, made.Y
	if len(r.Labels)+len(r.Classes) > 0 {
		note.add("labels have no effect: the model takes prompts, not classes")
	}
	if r.Init != nil {
		strength := p.strength(r, is.Steps, is.Sampler, note)
		is.More = func(t *texttoimage.Pipeline) { t.Init, t.Mask, t.Strength = r.Init, r.Mask, strength }
	} else if r.Strength != 0 && r.Strength != 1 {
		note.add("the strength has no effect: there is no input image")
	}
	return nil
}

// LeastStrength is a strength that changes an input image as little as the model can: by one step at its lowest noise level.
const LeastStrength = 1e-9

// strength returns the strength for a request to Stable Diffusion; 0: the default. One that leaves no step is raised to that of one step, which few-step
// models meet often.
func (p *profile) strength(r Request, steps int, sampler string, note notes) float64 {
	if steps == 0 {
		steps = p.Steps
		if method, err := scheduler.Named(sampler); err == nil {
			steps = texttoimage.DefaultSteps(method)
		}
	}
	asked := cmp.Or(r.Strength, texttoimage.DefaultStrength(r.Mask != nil))
	left := func(of float64) bool { return float64(steps)*of >= 1 }
	if steps == 0 || left(asked) {
		return r.Strength
	}
	least := 1 / float64(steps)
	for !left(least) {
		least = math.Nextafter(least, 1)
	}
	if asked == LeastStrength {
		asked = 0
	}
	note.add("the strength %.4g leaves none of %s: one is used, which is the strength %.4g", asked, plural.N(steps, "step"), least)
	return least
}

// present reports the first adapter that is not there.
func present(field string, tags []prompt.LoRA, dir string) error {
	for _, tag := range tags {
		if dir == "" {
			return refuse(field, "adapter %s: the server has no adapters", quote.Quoted(tag.Name))
		}
		if _, err := lora.Find(dir, tag.Name); err != nil {
			names, _ := lora.Names(dir) // for a suggestion alone
			return refuse(field, "there is no adapter %s%s", quote.Quoted(tag.Name), suggest.Hint(tag.Name, names))
		}
	}
	return nil
}

// inPixels resolves what only pixel-space models use.
func (p *profile) inPixels(is *resolved, r Request, note notes) error {
	text := r.Prompt
	if tags := prompt.AllTags(text); len(tags) > 0 {
		for _, tag := range tags {
			text = strings.ReplaceAll(text, tag.Text, "")
		}
		note.add("the tag %s has no effect: the model has no adapters", quote.Quoted(tags[0].Text))
	}
	text = strings.TrimSpace(text)
	classes := p.pixels.Network.Classes()
	if r.Labels == nil && classes > 0 {
		for _, class := range r.Classes {
			label, err := p.pixels.ClassNamed(class)
			if err != nil {
				return refuse("Classes", "%v", err)
			}
			r.Labels = append(r.Labels, label)
		}
	}
	switch {
	case len(r.Classes) > 0 && classes == 0:
		note.add("classes have no effect: the model is unconditional")
	case len(r.Labels) > 0 && classes == 0:
		note.add("labels have no effect: the model is unconditional")
	case len(r.Labels) > 0:
		for _, label := range r.Labels {
			if label < 0 || label >= classes {
				return refuse("Labels", "want classes from 0 to %d, got %d", classes-1, label)
			}
		}
		is.Labels = r.Labels
		if text != "" {
			note.add("the prompt has no effect: the labels say which classes are generated")
		}
	case text != "" && classes == 0:
		note.add("the prompt has no effect: the model is unconditional")
	case text != "":
		label, notice, err := classOf(*p.pixels, text)
		if err != nil {
			return err
		}
		if is.Labels = []int{label}; notice != "" {
			note.add("%s", notice)
		}
	}
	if r.Negative != "" {
		note.add("the negative prompt has no effect: the model takes no prompts")
	}
	if len(r.LoRAs) > 0 {
		note.add("adapters have no effect: the model takes none")
	}
	switch {
	case r.Mask != nil:
		is.Edit = &generate.Edit{Task: generate.Inpaint, Image: r.Init, Mask: r.Mask}
		if r.Strength != 0 && r.Strength != 1 {
			note.add("the strength has no effect with a mask: what is white is repainted completely")
		}
	case r.Init != nil:
		is.Edit = &generate.Edit{Task: generate.Stroke, Image: r.Init, Sigma: p.sigma(r.Strength)}
	case r.Strength != 0 && r.Strength != 1:
		note.add("the strength has no effect: there is no input image")
	}
	return nil
}

// sigma is the noise level of a strength: the one at which a sampler with Karras's levels starts when it skips the fraction 1 - strength of
// its steps. 0: the default of generate, by the size of the images.
func (p *profile) sigma(strength float64) float64 {
	switch strength {
	case 0:
		return 0
	case 1:
		return p.pixels.SigmaMax // without rounding
	}
	const rho = 7
	low, high := math.Pow(p.pixels.SigmaMin, 1.0/rho), math.Pow(p.pixels.SigmaMax, 1.0/rho)
	return math.Pow(low+strength*(high-low), rho)
}

const mostReason = 1000 // characters of what is wrong with an adapter

// without returns a message with the paths of files in a directory shortened to those below it: where the directory lies is no matter of clients.
func without(msg, dir string) string {
	for _, of := range []string{absolute(dir), filepath.Clean(dir)} {
		msg = strings.ReplaceAll(msg, of+string(filepath.Separator), "")
	}
	return msg
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return filepath.Clean(dir)
}

// requestError returns the error of a plan of a request with adapters, in dir and in tags of its prompt. A plan only checks a request and loads its
// adapters, so that what it refuses is the request's fault, unless the model or a file fails.
func requestError(err error, adapters []prompt.LoRA, dir string) error {
	var bad *generate.RequestError
	var option *texttoimage.OptionError
	var tag *lora.TagError
	switch {
	case errors.As(err, &bad):
		return &RequestError{bad.Field, bad.Msg}
	case errors.As(err, &option):
		return &RequestError{option.Option, option.Err.Error()}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, torch.ErrFreed):
		return err
	case errors.As(err, &tag):
		field := "Prompt"
		if slices.ContainsFunc(adapters, func(l prompt.LoRA) bool { return l.Name == tag.Name }) {
			field = "LoRAs"
		}
		return refuse(field, "adapter %s: %s", quote.Quoted(tag.Name), quote.Long(without(tag.Err.Error(), dir), mostReason))
	}
	text := strings.TrimPrefix(err.Error(), "prompt 1: ")
	if strings.HasPrefix(text, "the negative prompt") {
		return &RequestError{"Negative", text}
	}
	return &RequestError{"Prompt", text}
}
