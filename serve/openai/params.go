package openai

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/serve/engine"
)

// Limits of parameters. What a model can do is up to the engine.
const (
	maxPrompt   = 10_000  // characters, of which the engine takes as many bytes
	maxName     = 1000    // of models, samplers and adapters
	maxInt      = 1 << 20 // of images and steps
	maxList     = 100     // adapters, classes
	maxPartials = 3
)

// kind is one of the three paths.
type kind struct {
	event         string // prefix of the types of events
	prompt, image bool   // required
	forms         bool
}

var (
	generation = kind{event: "image_generation", prompt: true}
	edit       = kind{event: "image_edit", prompt: true, image: true, forms: true}
	variation  = kind{event: "image_edit", image: true, forms: true}
)

// params is a request, resolved as far as the engine need not be asked.
type params struct {
	kind
	request engine.Request
	format  string // png, jpeg or webp
	quality int    // of a JPEG
	url     bool   // images are served by URL
	stream  bool
	notices []string
}

// background of generated images.
const background = "opaque"

func (p *params) notice(format string, args ...any) {
	p.notices = append(p.notices, fmt.Sprintf(format, args...))
}

// params makes a request of what a client sent.
func (h *handler) params(k kind, in *input) (*params, error) {
	p := &params{kind: k, format: "png", quality: 95}
	for _, read := range []func(*input) error{h.embedded, p.text, h.choose(p), p.numbers, p.size, p.lists, p.output, p.streaming} {
		if err := read(in); err != nil {
			return nil, err
		}
	}
	if err := p.images(in); err != nil {
		return nil, err
	}
	p.ignored(in)
	return p, nil
}

func (p *params) text(in *input) error {
	var (
		ok  bool
		err error
	)
	r := &p.request
	if r.Prompt, ok, err = in.text(maxPrompt, "prompt"); err != nil {
		return err
	}
	if !ok && p.prompt && !in.has("labels") && !in.has("label") {
		return &Error{Status: 400, Param: "prompt", Code: "missing_required_parameter", Msg: "prompt: want a description of the image"}
	}
	if r.Negative, _, err = in.text(maxPrompt, "negative_prompt"); err != nil {
		return err
	}
	r.Sampler, _, err = in.text(maxName, "sampler")
	return err
}

// choose finds the model.
func (h *handler) choose(p *params) func(*input) error {
	return func(in *input) error {
		name, _, err := in.text(maxName, "model")
		if err != nil {
			return err
		}
		if p.request.Model, err = h.known(name); err != nil {
			return err
		}
		if name != p.request.Model {
			p.notice("model: there is no %s; the default model is used", quote.Text(name))
		}
		p.url = isDALLE(name)
		return nil
	}
}

func (p *params) numbers(in *input) error {
	var err error
	r := &p.request
	if r.N, _, err = in.integer(1, maxInt, "n"); err != nil {
		return err
	}
	if r.Seed, err = in.seed(); err != nil {
		return err
	}
	var ok bool
	if r.Steps, ok, err = in.integer(0, maxInt, "steps", "step", "num_inference_steps"); err != nil {
		return err
	} else if ok && r.Steps == 0 {
		p.notice("steps 0: the model's default is used")
	}
	if r.Guidance, ok, err = in.number(0, 1000, "guidance", "guidance_scale", "cfg_scale"); err != nil {
		return err
	} else if ok && r.Guidance == 0 {
		r.Guidance = 1
		p.notice("guidance 0 is served as 1: no guidance")
	}
	if r.Strength, ok, err = in.number(0, 1, "strength"); ok {
		r.Strength = max(r.Strength, engine.LeastStrength)
	}
	return err
}

var sizes = regexp.MustCompile(`^\s*([0-9]{1,9})\s*[xX×]\s*([0-9]{1,9})\s*$`)

func (p *params) size(in *input) error {
	raw, ok := in.get("size")
	if !ok {
		return nil
	}
	s, err := asText("size", raw, maxName)
	if err != nil || s == "" || s == "auto" {
		return err
	}
	m := sizes.FindStringSubmatch(s)
	if m == nil {
		return invalid("size", "want WIDTHxHEIGHT, such as 512x512, or auto, got %s", quote.Text(s))
	}
	w, _ := strconv.Atoi(m[1])
	h, _ := strconv.Atoi(m[2])
	if w < 1 || h < 1 || w > engine.MaxSide || h > engine.MaxSide {
		return invalid("size", "want 1 to %d pixels per side, got %s", engine.MaxSide, quote.Text(s))
	}
	p.request.Width, p.request.Height = w, h
	return nil
}

func size(w, h int) string { return strconv.Itoa(w) + "x" + strconv.Itoa(h) }

func (p *params) lists(in *input) error {
	if raw, ok := in.get("labels", "label"); ok {
		all, err := elements("labels", raw)
		if err != nil {
			return err
		}
		if len(all) > maxList {
			return invalid("labels", "want at most %d, got %d", maxList, len(all))
		}
		if err := p.classes(all); err != nil {
			return err
		}
	}
	raw, ok := in.get("loras", "lora")
	if !ok {
		return nil
	}
	all, err := elements("loras", raw)
	if err != nil {
		return err
	}
	if len(all) > maxList {
		return invalid("loras", "want at most %d, got %d", maxList, len(all))
	}
	for _, one := range all {
		l, err := adapter(one)
		if err != nil {
			return err
		}
		p.request.LoRAs = append(p.request.LoRAs, l)
	}
	return nil
}

// classes are numbers of classes, or names if one of them is no number.
func (p *params) classes(all []json.RawMessage) error {
	text := func(one json.RawMessage) bool { return one[0] == '"' }
	named := slices.ContainsFunc(all, func(one json.RawMessage) bool {
		_, isNumber := literal(one)
		return text(one) && !isNumber
	})
	for _, one := range all {
		if text(one) {
			if _, err := asText("labels", one, maxName); err != nil {
				return err
			}
		}
		if named && text(one) {
			p.request.Classes = append(p.request.Classes, scalar(one))
			continue
		}
		label, err := asInteger("labels", one, 0, maxInt)
		if err != nil {
			return err
		}
		if named {
			p.request.Classes = append(p.request.Classes, strconv.Itoa(label))
		} else {
			p.request.Labels = append(p.request.Labels, label)
		}
	}
	return nil
}

// adapter is an object with name and weight, or a string, name or name:weight.
func adapter(raw json.RawMessage) (prompt.LoRA, error) {
	const param, most = "loras", 1000
	one := prompt.LoRA{Weight: 1}
	var (
		err    error
		text   string
		object map[string]json.RawMessage
	)
	switch {
	case json.Unmarshal(raw, &text) == nil:
		if one.Name, err = asText(param, raw, maxName); err != nil {
			return one, err
		}
		if at := strings.LastIndexByte(one.Name, ':'); at >= 0 {
			if one.Weight, err = asNumber(param, json.RawMessage(strconv.Quote(one.Name[at+1:])), -most, most); err != nil {
				return one, err
			}
			one.Name = one.Name[:at]
		}
	case json.Unmarshal(raw, &object) == nil && object != nil:
		for key := range object {
			if key != "name" && key != "weight" && key != "scale" {
				return one, invalid(param, "want name and weight of an adapter, got %s", quote.Quoted(key))
			}
		}
		if name, ok := object["name"]; ok {
			if one.Name, err = asText(param, name, maxName); err != nil {
				return one, err
			}
		}
		for _, name := range []string{"weight", "scale"} {
			if value, ok := object[name]; ok {
				if one.Weight, err = asNumber(param, value, -most, most); err != nil {
					return one, err
				}
			}
		}
	default:
		return one, wrongType(param, "adapters, each a name or an object with name and weight", raw)
	}
	if one.Name == "" {
		return one, invalid(param, "want the name of an adapter, got none")
	}
	one.Text = one.Weight
	return one, nil
}

func (p *params) output(in *input) error {
	format, _, err := in.text(maxName, "output_format")
	if err != nil {
		return err
	}
	switch format {
	case "":
	case "png", "jpeg", "webp":
		p.format = format
	case "jpg":
		p.format = "jpeg"
	default:
		return invalid("output_format", "want png, jpeg or webp, got %s", quote.Text(format))
	}
	compression, ok, err := in.integer(0, 100, "output_compression")
	switch {
	case err != nil:
		return err
	case ok && p.format == "jpeg":
		p.quality = max(compression, 1)
	case ok && compression < 100:
		p.notice("output_compression is for jpeg: %s is lossless here", p.format)
	}
	response, _, err := in.text(maxName, "response_format")
	switch {
	case err != nil:
		return err
	case response == "":
	case response == "url" || response == "b64_json":
		p.url = response == "url"
	default:
		return invalid("response_format", "want url or b64_json, got %s", quote.Text(response))
	}
	return nil
}

func (p *params) streaming(in *input) error {
	var err error
	if p.stream, err = in.flag("stream"); err != nil {
		return err
	}
	partial, ok, err := in.integer(0, maxPartials, "partial_images")
	if err != nil {
		return err
	}
	switch {
	case p.stream:
		p.request.Previews = partial
		if p.url && in.has("response_format") {
			p.notice("response_format: a stream has b64_json")
		}
		p.url = false
	case ok && partial > 0:
		p.notice("partial_images are sent with stream: true only")
	}
	return nil
}

// images are those that a form or JSON has. Without a size the images have that of the first one.
func (p *params) images(in *input) error {
	r := &p.request
	r.Init = in.image
	if r.Init == nil && p.image {
		return &Error{Status: 400, Param: "image", Code: "missing_required_parameter", Msg: "image: want an input image"}
	}
	if in.images > 1 {
		p.notice("image: the first one is used, %s not: a request edits one image", plural.N(in.images-1, "further image"))
	}
	if r.Init != nil && r.Width == 0 {
		b := r.Init.Bounds()
		r.Width, r.Height = b.Dx(), b.Dy()
	}
	if in.mask == nil {
		return nil
	}
	if r.Init == nil {
		return invalid("mask", "want an image, too, of which a part is repainted")
	}
	if in.opaque {
		p.notice("mask: no pixel is transparent; white is repainted")
	}
	if in.maskSize != in.imageSize {
		p.notice("mask: its %s pixels are resized to the image's %s", size(in.maskSize.X, in.maskSize.Y), size(in.imageSize.X, in.imageSize.Y))
	}
	r.Mask = in.mask
	return nil
}

// ignored adds a notice of what is not used. What OpenAI's clients send without being asked, with the value that changes nothing, is left out.
func (p *params) ignored(in *input) {
	const most = 20
	var names []string
	for _, name := range in.unused() {
		value := string(in.byName[name])
		harmless := value == `"auto"` || name == "background" && value == `"`+background+`"`
		if !harmless {
			names = append(names, quote.Text(name))
		}
	}
	slices.Sort(names)
	if n := len(names); n > most {
		names = append(names[:most], fmt.Sprintf("and %d more", n-most))
	}
	if names != nil {
		p.notice("not used: %s", strings.Join(names, ", "))
	}
}
