package infotext

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	outside "github.com/onestep-go/onestep/internal/quote"
)

// ErrNone is returned for images without generation parameters.
var ErrNone = errors.New("it has no generation parameters")

// From reads the generation parameters of an image: in A1111's format (also Forge, SD.Next, stable-diffusion.cpp, Civitai), or JSON of
// Fooocus, SwarmUI and ComfyUI, whose settings are renamed to A1111's. program is "" for A1111's format. Texts of other programs, and
// unsupported ones, are an error that names the program. text returns the image's text for a keyword.
func From(text func(keyword string) (string, bool)) (t Text, program string, err error) {
	if v, ok := text(Keyword); ok {
		object := fields(v)
		if object == nil {
			return Parse(v), "", nil
		}
		scheme, _ := text("fooocus_scheme")
		switch {
		case object["sui_image_params"] != nil:
			t, err = swarm(fields(string(object["sui_image_params"])))
			return t, "SwarmUI", err
		case scheme == "fooocus" || object["adm_guidance"] != nil || object["base_model"] != nil:
			t, err = fooocus(object)
			return t, "Fooocus", err
		}
		return t, "", fmt.Errorf("its %s are JSON in an unknown format, with %s", Keyword, list(slices.Sorted(maps.Keys(object))))
	}
	if v, ok := text("prompt"); ok && fields(v) != nil {
		t, err = comfy(v)
		return t, "ComfyUI", err
	}
	for _, p := range []struct{ keyword, program string }{
		{"workflow", "ComfyUI"}, {"invokeai_metadata", "InvokeAI"}, {"invokeai_graph", "InvokeAI"}, {"sd-metadata", "InvokeAI"}, {"Dream", "InvokeAI"},
	} {
		if _, ok := text(p.keyword); ok {
			return t, p.program, fmt.Errorf("it has settings of %s, which are not supported: pass the prompt and the settings yourself", p.program)
		}
	}
	if v, _ := text("Software"); v == "NovelAI" {
		return t, v, fmt.Errorf("it has settings of %s, which are not supported: pass the prompt and the settings yourself", "NovelAI")
	}
	return t, "", ErrNone
}

// fields decodes a JSON object; nil for anything else.
func fields(text string) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if !strings.HasPrefix(strings.TrimSpace(text), "{") || json.Unmarshal([]byte(text), &m) != nil {
		return nil
	}
	return m
}

// plain is a JSON value as text: strings without their quotation marks.
func plain(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	v = bytes.TrimSpace(v)
	if string(v) == "null" {
		return ""
	}
	return string(v)
}

// taken renames settings to A1111's names, in A1111's order, and appends all others unchanged.
func taken(object map[string]json.RawMessage, names [][2]string, without ...string) Text {
	var t Text
	for _, n := range names {
		if v, ok := object[n[0]]; ok {
			t.Add(n[1], plain(v))
			without = append(without, n[0])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(without, k) {
			t.Add(k, plain(object[k]))
		}
	}
	return t
}

// fooocus reads Fooocus' own format (modules/meta_parser.py).
func fooocus(o map[string]json.RawMessage) (Text, error) {
	if o["prompt"] == nil {
		return Text{}, errors.New("settings of Fooocus without a prompt")
	}
	if r := plain(o["resolution"]); r != "" { // "(1152, 896)"
		var w, h int
		if n, _ := fmt.Sscanf(r, "(%d, %d)", &w, &h); n == 2 {
			o["resolution"] = json.RawMessage(fmt.Sprintf(`"%dx%d"`, w, h))
		}
	}
	t := taken(o, [][2]string{{"steps", "Steps"}, {"sampler", "Sampler"}, {"scheduler", "Schedule type"}, {"guidance_scale", "CFG scale"},
		{"seed", "Seed"}, {"resolution", "Size"}, {"base_model_hash", "Model hash"}, {"base_model", "Model"}, {"version", "Version"}},
		"prompt", "negative_prompt", "metadata_scheme")
	t.Prompt, t.Negative = plain(o["prompt"]), plain(o["negative_prompt"])
	return t, nil
}

// swarm reads SwarmUI's format.
func swarm(o map[string]json.RawMessage) (Text, error) {
	if o["prompt"] == nil {
		return Text{}, errors.New("settings of SwarmUI without a prompt")
	}
	if w, h := plain(o["width"]), plain(o["height"]); w != "" && h != "" {
		o["width"] = json.RawMessage(strconv.Quote(w + "x" + h))
		delete(o, "height")
	}
	t := taken(o, [][2]string{{"steps", "Steps"}, {"sampler", "Sampler"}, {"scheduler", "Schedule type"}, {"cfgscale", "CFG scale"},
		{"seed", "Seed"}, {"width", "Size"}, {"model", "Model"}, {"swarm_version", "Version"}}, "prompt", "negativeprompt", "aspectratio", "images")
	t.Prompt, t.Negative = plain(o["prompt"]), plain(o["negativeprompt"])
	return t, nil
}

// node is a node of a ComfyUI graph: inputs are values, or links to another node's output.
type node struct {
	Class  string                     `json:"class_type"`
	Inputs map[string]json.RawMessage `json:"inputs"`
}

// link returns the id of the node that an input is linked to.
func (n node) link(name string) string {
	var l []json.RawMessage
	if json.Unmarshal(n.Inputs[name], &l) != nil || len(l) != 2 {
		return ""
	}
	return plain(l[0])
}

// comfy reads a ComfyUI graph if it is the basic one: one KSampler with text encoders, a checkpoint and an empty latent image.
func comfy(text string) (Text, error) {
	var t Text
	refuse := func(format string, args ...any) (Text, error) {
		return Text{}, fmt.Errorf("it has a workflow of ComfyUI %s: pass the prompt and the settings yourself", fmt.Sprintf(format, args...))
	}
	var graph map[string]node
	if err := json.Unmarshal([]byte(text), &graph); err != nil {
		return refuse("that cannot be read")
	}
	var samplers []string
	for _, id := range slices.Sorted(maps.Keys(graph)) {
		if c := graph[id].Class; c == "KSampler" || c == "KSamplerAdvanced" || strings.HasPrefix(c, "SamplerCustom") {
			samplers = append(samplers, id)
		}
	}
	if len(samplers) != 1 || graph[samplers[0]].Class != "KSampler" {
		return refuse("with %d samplers where one KSampler is expected", len(samplers))
	}
	k := graph[samplers[0]]
	for _, f := range []struct {
		to   *string
		name string
	}{{&t.Prompt, "positive"}, {&t.Negative, "negative"}} {
		from := graph[k.link(f.name)]
		var words string
		if from.Class == "ConditioningZeroOut" && f.name == "negative" {
			continue
		}
		if from.Class != "CLIPTextEncode" || json.Unmarshal(from.Inputs["text"], &words) != nil {
			return refuse("whose %s prompt does not come from a text in a CLIPTextEncode, but %s", f.name, named(from.Class))
		}
		*f.to = words
	}
	size := graph[k.link("latent_image")]
	if !strings.HasPrefix(size.Class, "Empty") {
		return refuse("that starts from %s, not from an empty latent image", named(size.Class))
	}
	t.Add("Steps", plain(k.Inputs["steps"]))
	t.Add("Sampler", plain(k.Inputs["sampler_name"]))
	schedule := plain(k.Inputs["scheduler"])
	if schedule == "beta" { // ComfyUI applies the quantiles to timesteps; A1111 and diffusers apply them to noise levels
		schedule = "beta of ComfyUI"
	}
	t.Add("Schedule type", schedule)
	t.Add("CFG scale", plain(k.Inputs["cfg"]))
	t.Add("Seed", plain(k.Inputs["seed"]))
	if w, h := plain(size.Inputs["width"]), plain(size.Inputs["height"]); w != "" && h != "" {
		t.Add("Size", w+"x"+h)
	}
	// Nodes between the sampler and the checkpoint, such as adapters, are named, since they are not reproduced.
	seen := map[string]bool{}
	for id := k.link("model"); id != "" && !seen[id]; id = graph[id].link("model") {
		seen[id] = true
		n := graph[id]
		if name, ok := n.Inputs["ckpt_name"]; ok {
			t.Add("Model", plain(name))
			break
		}
		value := n.Class
		if name := plain(n.Inputs["lora_name"]); name != "" {
			value = name + " at " + plain(n.Inputs["strength_model"])
		}
		t.Add(n.Class, value)
	}
	if d := plain(k.Inputs["denoise"]); d != "" && d != "1" && d != "1.0" {
		return refuse("with a denoising strength of %s", outside.Text(d))
	}
	return t, nil
}

func named(class string) string {
	if class == "" {
		return "nothing"
	}
	return "a node " + outside.Quoted(class)
}

// list formats the first few names for an error.
func list(names []string) string {
	const most = 5
	var out []string
	for _, n := range names[:min(len(names), most)] {
		if len(n) > 32 {
			n = n[:32]
		}
		out = append(out, strconv.Quote(n))
	}
	if len(out) == 0 {
		return "no fields"
	}
	return strings.Join(out, ", ")
}
