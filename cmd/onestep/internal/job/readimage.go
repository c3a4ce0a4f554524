package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch/vision"
)

// ReadImage takes the settings from the metadata of an image file: ours, or those of other programs that package infotext reads. given
// reports whether a flag such as "clip-skip" overrides a setting; nil: none does.
func (o *Generate) ReadImage(path string, given func(flag string) bool) error {
	o.origin = origin{image: path, given: given}
	data, err := plainfile.Read(path, 256<<20)
	if err != nil {
		return err
	}
	texts, err := vision.ReadTexts(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	text := func(keyword string) (string, bool) {
		i := slices.IndexFunc(texts, func(t vision.Text) bool { return t.Keyword == keyword })
		if i < 0 {
			return "", false
		}
		return texts[i].Value, true
	}
	if own, ok := text("onestep"); ok {
		dec := json.NewDecoder(strings.NewReader(own))
		dec.DisallowUnknownFields()
		err := dec.Decode(o)
		if err == nil && (o.N < 0 || o.Tile < 0 || o.Index < 0) {
			err = fmt.Errorf("want n, tile and index from 0 on, got %d, %d and %d", o.N, o.Tile, o.Index)
		}
		if err == nil {
			err = o.takePaths()
		}
		if err != nil {
			return fmt.Errorf("%s: its settings are not settings of generate: %w", quote.Path(path), quote.Error(err))
		}
		o.Prompts, o.N = []string{o.Prompt}, max(o.N, 1)
		return nil
	}
	info, program, err := infotext.From(text)
	if err != nil {
		return fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if program != "" {
		o.remarks = append(o.remarks, fmt.Sprintf("the settings were written by %s: the image will differ", program))
	}
	if err := o.readInfo(info); err != nil {
		return fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	return nil
}

// readInfo takes the settings from A1111's parameters.
func (o *Generate) readInfo(t infotext.Text) error {
	var bad error
	whole := func(name string, to *int) {
		if v := t.Get(name); v != "" {
			n, err := wholeNumber(v)
			if err != nil || n > math.MaxInt32 {
				bad = errors.Join(bad, fmt.Errorf("%s: want a whole number, got %s", name, quote.Quoted(v)))
				return
			}
			*to = int(n)
		}
	}
	number := func(name string, to *float64) {
		if v := t.Get(name); v != "" {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil {
				bad = errors.Join(bad, fmt.Errorf("%s: want a number, got %s", name, quote.Quoted(v)))
				return
			}
			*to = n
		}
	}
	o.Prompts, o.Negative, o.origin.model = []string{t.Prompt}, t.Negative, t.Get("Model")
	whole("Steps", &o.Steps)
	skip := 0
	whole("Clip skip", &skip)
	if o.origin.of("clip-skip") {
		o.ClipSkip, o.foreignSkip = 0, max(skip-1, 0) // counted from 1 there
	}
	if t.Get("CFG scale") != "" {
		o.Guidance = new(0.0)
		number("CFG scale", o.Guidance)
	}
	if v := t.Get("TI hashes"); v != "" {
		o.EmbeddingHashes = strings.Split(v, ", ")
	}
	number("Denoising strength", &o.Strength)
	number("Variation seed strength", &o.VariationStrength)
	for name, to := range map[string]*uint64{"Seed": nil, "Variation seed": &o.VariationSeed} {
		v := t.Get(name)
		if v == "" {
			continue
		}
		if v == "-1" && to == nil { // means a random seed in all of these programs
			o.remarks = append(o.remarks, "the image's settings have the seed -1, which is a random one: a new one is chosen")
			continue
		}
		n, err := wholeNumber(v)
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("%s: want a whole number from 0 on, got %s", name, quote.Quoted(v)))
			continue
		}
		if to == nil {
			o.Seed = &n
		} else {
			*to = n
		}
	}
	if v := t.Get("Size"); v != "" {
		if n, err := fmt.Sscanf(v, "%dx%d", &o.Width, &o.Height); n != 2 || err != nil {
			bad = errors.Join(bad, fmt.Errorf("size: want WxH, got %s", quote.Quoted(v)))
		}
	}
	if len(t.Fields) == 0 {
		o.remarks = append(o.remarks, "the image's metadata has no settings: all of it is taken as the prompt")
	}
	if o.Init == "" && o.Strength != 0 {
		if t.Get("Hires upscale") == "" && t.Get("Hires upscaler") == "" && bad == nil {
			bad = errors.New("it was generated from an input image, which its metadata does not have: pass --init-image")
		}
		o.Strength = 0 // strength of the hires pass, which is not supported
	}
	exact := true
	if v := t.Get("Sampler"); v != "" {
		var err error
		if o.Sampler, exact, err = samplerOf(withVariant(v, t.Get("UniPC variant")), t.Get("Schedule type")); err != nil {
			bad = errors.Join(bad, err)
		}
	}
	if left := notRepeated(t, exact); left != nil {
		o.remarks = append(o.remarks, "settings of the image that are not applied: "+strings.Join(left, ", "))
	}
	return bad
}

// wholeNumber reads an integer that some programs write with a fraction of zeros.
func wholeNumber(v string) (uint64, error) {
	if whole, fraction, ok := strings.Cut(v, "."); ok && strings.Trim(fraction, "0") == "" {
		v = whole
	}
	return strconv.ParseUint(v, 10, 64)
}

// samplerOf returns our name of a sampler with a schedule type. exact is false if the schedule type is dropped.
func samplerOf(name, schedule string) (string, bool, error) {
	if method, spacing, exact := infotext.Sampler(name, schedule); method != "" {
		if spacing != "" {
			method += "_" + spacing
		}
		if m, err := scheduler.Named(method); err == nil {
			return scheduler.NameOf(m), exact, nil
		}
	}
	if m, err := scheduler.Named(name); err == nil { // written by onestep
		return scheduler.NameOf(m), schedule == "", nil
	}
	if schedule != "" {
		name += " with the schedule type " + schedule
	}
	return "", false, fmt.Errorf("the sampler %s is not supported: pass another --sampler", quote.Quoted(name))
}

// skipAsThere applies another program's Clip skip where that program does: A1111 applies it to Stable Diffusion 1 only.
func (o *Generate) skipAsThere(t *texttoimage.Pipeline, note func(string)) {
	if o.foreignSkip == 0 {
		return
	}
	switch t.Model.Kind {
	case weights.SD15, weights.Inpaint15, weights.LCM15:
		o.ClipSkip, t.ClipSkip = o.foreignSkip, o.foreignSkip
	default:
		note(fmt.Sprintf("Clip skip %d of the image's settings is not applied: A1111 ignores it for models of this kind (%s)", o.foreignSkip+1, t.Model.Kind))
	}
}

// repeated lists the settings in A1111's parameters that are applied, or that do not affect the image.
var repeated = []string{
	"Steps", "Clip skip", "CFG scale", "Denoising strength", "Variation seed", "Variation seed strength", "Seed", "Size", "Sampler", "UniPC variant",
	"Model", "Model hash", "VAE", "VAE hash", "Version", "Lora hashes", "TI hashes",
}

// notRepeated lists the settings that are not applied although they may affect the image. spaced says whether the schedule type is
// applied.
func notRepeated(t infotext.Text, spaced bool) (list []string) {
	for _, f := range t.Fields {
		switch {
		case slices.Contains(repeated, f.Name), f.Name == "RNG" && f.Value == "CPU", f.Name == "Schedule type" && spaced:
		default:
			list = append(list, quote.Text(f.Name+": "+f.Value))
		}
	}
	const most = 20
	if n := len(list) - most; n > 0 {
		list = append(list[:most], fmt.Sprintf("and %d more", n))
	}
	return list
}
