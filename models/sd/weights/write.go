package weights

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// WriteOptions configure how a model is written.
type WriteOptions struct {
	// DType is the data type to convert weights to; nil: no conversion.
	DType *torch.DType
	// Overwrite allows replacing a file or a model's directory; otherwise an existing one is an error that wraps fs.ErrExist.
	Overwrite bool

	Variant  string // of the files in a directory: "fp16" for model.fp16.safetensors
	MaxShard int    // maximum size of a shard in a directory, in bytes, without a variant; 0: 10 GB, as in diffusers

	// DecoderOnly leaves out the encoder of a tiny autoencoder in a directory: the model is smaller, and takes no input images.
	DecoderOnly bool

	// Tokenizer writes a tokenizer's files into an existing directory, for a model without a tokenizer; second selects SDXL's second one.
	// nil: CLIP's tokenizer, as in all published models.
	Tokenizer func(dir string, second bool) error
}

const defaultShard = 10_000_000_000

// source describes a tensor for the file writer, which reads it when it is written.
func source(src nn.Source, name string, dtype *torch.DType) (safetensors.Source, error) {
	shape, d, ok := src.Info(name)
	if !ok {
		return safetensors.Source{}, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	}
	to := d
	if dtype != nil && (d.IsFloat() || d.IsFloat8()) {
		to = *dtype
	}
	kind, ok := fileTypes[to]
	if !ok {
		return safetensors.Source{}, fmt.Errorf("tensor %s: safetensors files do not support %s", quote.Quoted(name), to)
	}
	return safetensors.Source{Name: name, DType: kind, Shape: shape, Data: func() (data []byte, err error) {
		err = torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				t, err := src.Get(s, name)
				if err == nil {
					data = t.To(s, to).Bytes()
				}
				return err
			})
		})
		src.Release(name)
		return data, err
	}}, nil
}

var fileTypes = map[torch.DType]safetensors.DType{
	torch.Float32: safetensors.F32, torch.Float64: safetensors.F64, torch.Float16: safetensors.F16, torch.BFloat16: safetensors.BF16,
	torch.Int64: safetensors.I64, torch.Int32: safetensors.I32, torch.Uint8: safetensors.U8, torch.Bool: safetensors.Bool,
	torch.Float8E4M3: safetensors.F8E4M3, torch.Float8E5M2: safetensors.F8E5M2,
}

// sources describes all tensors of a component.
func sources(src nn.Source, dtype *torch.DType) ([]safetensors.Source, error) {
	var list []safetensors.Source
	for name := range src.Names() {
		v, err := source(src, name, dtype)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// check returns an error for invalid options or an empty model.
func (o WriteOptions) check(m *Model) error {
	if o.DType != nil && !o.DType.IsFloat() {
		return fmt.Errorf("want a floating-point type for weights, got %s", *o.DType)
	}
	if len(m.parts()) == 0 {
		return errors.New("the model has no components")
	}
	if o.DecoderOnly && (m.VAE == nil || !vae.IsTiny(m.VAE.Config)) {
		return errors.New("only a tiny autoencoder can be written without its encoder")
	}
	return nil
}

// parts returns a model's components by the names of their directories.
func (m *Model) parts() map[string]*Component {
	parts := map[string]*Component{}
	for _, p := range slots {
		if c := *p.in(m); c != nil {
			parts[p.name] = c
		}
	}
	return parts
}

// WriteSingle writes a model as one safetensors file in the original layout of CompVis' and Stability's repositories, one tensor after the
// other. The file appears when it is complete; see [safetensors.Write]. Its metadata have the configurations, for [OpenFile] (other
// programs only recognize published shapes), and ModelSpec's keys, from Model.Spec, the kind and the file's name.
func WriteSingle(path string, m *Model, o WriteOptions) error {
	fail := func(err error) error { return fmt.Errorf("write %s: %w", quote.Path(path), err) }
	if err := o.check(m); err != nil {
		return fail(err)
	}
	configs := map[string]json.RawMessage{}
	var all []safetensors.Source
	for _, p := range slots {
		c := *p.in(m)
		if c == nil {
			continue
		}
		configs[p.name] = c.Config
		src, err := m.theirs(p.name, c)
		if err != nil {
			return fail(err)
		}
		list, err := sources(src, o.DType)
		if err != nil {
			return fail(err)
		}
		all = append(all, list...)
	}
	meta := map[string]string{"format": "pt"}
	if m.UNet != nil {
		for _, name := range telling(m.Scheduler) {
			all = append(all, safetensors.Source{Name: name, DType: safetensors.F32, Shape: []int{0}, Data: safetensors.Bytes(nil)})
		}
		maps.Copy(meta, m.spec(path))
		configs["scheduler"] = m.Scheduler
		index, err := m.index()
		if err != nil {
			return fail(err)
		}
		configs["model_index"] = index
	}
	data, err := compact(configs)
	if err != nil {
		return fail(err)
	}
	meta[configKey] = string(data)
	if m.UNet != nil && m.UNet.Guidance.Known() {
		meta[guidanceKey] = m.UNet.Guidance.metadata()
	}
	return safetensors.Write(path, all, safetensors.Options{Metadata: meta, Overwrite: o.Overwrite})
}

// compact joins configurations in one JSON object.
func compact(configs map[string]json.RawMessage) ([]byte, error) {
	for key, v := range configs {
		if len(v) == 0 {
			delete(configs, key)
			continue
		}
		if !json.Valid(v) { // diffusers writes -Infinity
			return nil, fmt.Errorf("the configuration of its %s is not valid JSON", quote.Text(key))
		}
	}
	return json.Marshal(configs)
}

// theirs converts a component to the names and shapes of single files.
func (m *Model) theirs(name string, c *Component) (nn.Source, error) {
	out := newMapping(c)
	has := namesOf(c, "")
	switch name {
	case "unet", "controlnet":
		prefix := "model.diffusion_model."
		if name == "controlnet" {
			prefix = "control_model."
		}
		return out, out.all(ourForm(has).table().theirs, prefix, func(name string) (string, part) { return name, part{name: name} })
	case "vae":
		if vae.IsTiny(c.Config) {
			return nil, errors.New("its vae is a tiny autoencoder, which has no place in the single-file layout: write a directory")
		}
		pairs := vaeTable(has.count("decoder.up_blocks.%d.resnets.0.norm1.weight")).theirs
		return out, out.all(pairs, "first_stage_model.", func(name string) (string, part) {
			p := part{name: name}
			if shape, _, _ := c.Info(name); linear(name) && len(shape) == 2 {
				p.shape = []int{shape[0], shape[1], 1, 1}
			}
			return strings.Replace(name, ourShortcut, theirShortcut, 1), p
		})
	}
	switch {
	case name == "text_encoder_2":
		return out, out.toOpenCLIP("conditioner.embedders.1.model.")
	case m.UNet != nil && KindOf(m.UNet.Config) == SD2:
		return out, out.toOpenCLIP(sd2Text)
	default:
		prefix := "cond_stage_model.transformer."
		if m.Text2 != nil {
			prefix = "conditioner.embedders.0.transformer."
		}
		for name := range c.Names() {
			if name != textProjected {
				out.add(prefix+name, part{name: name})
			}
		}
		return out, nil
	}
}

// all adds the tensors of the source with a prefix. change maps a renamed tensor to its final name and part.
func (m *mapping) all(pairs map[string]string, prefix string, change func(name string) (string, part)) error {
	for name := range m.src.Names() {
		now, p := change(name)
		theirs, ok := rename(pairs, now)
		if !ok {
			theirs, ok = rename(pairs, name)
		}
		if !ok {
			return fmt.Errorf("the single-file layout has no name for tensor %s", quote.Quoted(name))
		}
		m.add(prefix+theirs, p)
	}
	return nil
}

// toOpenCLIP adds the tensors of a text encoder in OpenCLIP's layout.
func (m *mapping) toOpenCLIP(prefix string) error {
	layers := namesOf(m.src, textModel).count("encoder.layers.%d.layer_norm1.weight")
	pairs := openCLIPTable(layers).theirs
	for name := range m.src.Names() {
		if name == textProjected {
			m.add(prefix+theirProjection, part{name: name, turn: true})
			continue
		}
		if at, end, ok := strings.Cut(name, "self_attn.q_proj."); ok {
			theirs, known := rename(pairs, at+"layer_norm1")
			if !known {
				return fmt.Errorf("the single-file layout has no name for tensor %s", quote.Quoted(name))
			}
			m.add(prefix+strings.TrimSuffix(theirs, "ln_1")+"attn.in_proj_"+end, part{name: name, join: []string{
				at + "self_attn.k_proj." + end, at + "self_attn.v_proj." + end,
			}})
			continue
		}
		if strings.Contains(name, "self_attn.k_proj.") || strings.Contains(name, "self_attn.v_proj.") {
			continue // with q_proj
		}
		theirs, ok := rename(pairs, name)
		if !ok {
			return fmt.Errorf("the single-file layout has no name for tensor %s", quote.Quoted(name))
		}
		m.add(prefix+theirs, part{name: name})
	}
	return nil
}

// class is a library's class, as model_index.json has it.
type class [2]*string

func classOf(library, name string) class { return class{&library, &name} }

// index returns the model_index.json.
func (m *Model) index() ([]byte, error) {
	pipeline := "StableDiffusionPipeline"
	switch {
	case m.ControlNet != nil && m.Text2 != nil:
		pipeline = "StableDiffusionXLControlNetPipeline"
	case m.ControlNet != nil:
		pipeline = "StableDiffusionControlNetPipeline"
	case m.Text2 != nil && m.inpaints():
		pipeline = "StableDiffusionXLInpaintPipeline"
	case m.Text2 != nil:
		pipeline = "StableDiffusionXLPipeline"
	case m.inpaints():
		pipeline = "StableDiffusionInpaintPipeline"
	case m.Kind == LCM15:
		pipeline = "LatentConsistencyModelPipeline"
	}
	index := map[string]any{
		"_class_name": pipeline, "_diffusers_version": "0.31.0", // the first version whose classes have all keys of our configurations
		"feature_extractor": class{}, "image_encoder": class{},
		"text_encoder": classOf("transformers", textClass), "tokenizer": classOf("transformers", "CLIPTokenizer"),
		"unet": classOf("diffusers", unetClass), "vae": classOf("diffusers", vaeClass),
	}
	if m.Text2 != nil || m.ZeroNegative {
		index["force_zeros_for_empty_prompt"] = m.ZeroNegative
	}
	if m.Text2 != nil {
		index["text_encoder_2"], index["tokenizer_2"] = classOf("transformers", projectedClass), classOf("transformers", "CLIPTokenizer")
	} else {
		index["safety_checker"], index["requires_safety_checker"] = class{}, false
	}
	found := schedulerClass.FindSubmatch(m.Scheduler)
	if found == nil {
		return nil, errors.New("its scheduler_config.json has no _class_name")
	}
	index["scheduler"] = classOf("diffusers", string(found[1]))
	if m.ControlNet != nil {
		index["controlnet"] = classOf("diffusers", controlNetClass)
	}
	switch {
	case m.VAE == nil:
		index["vae"] = class{}
	case vae.ClassOf(m.VAE.Config) == vae.TinyClass:
		index["vae"] = classOf("diffusers", vae.TinyClass)
	case vae.ClassOf(m.VAE.Config) == vae.PoolClass:
		index["vae"] = classOf("onestep", vae.PoolClass)
	}
	if m.Text == nil {
		index["text_encoder"], index["tokenizer"] = class{}, class{}
	}
	return json.MarshalIndent(index, "", "  ")
}

// schedulerClass finds the class in a scheduler_config.json, which may have numbers that encoding/json cannot read.
var schedulerClass = regexp.MustCompile(`"_class_name"\s*:\s*"(\w+)"`)

// WriteFolder writes a model as a diffusers directory, one tensor after the other. The directory appears when it is complete. A model with
// a single component is written as that component's directory, without a model_index.json.
func WriteFolder(dir string, m *Model, o WriteOptions) error {
	err := o.check(m)
	if err == nil {
		err = m.replaceable(dir, o.Overwrite)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", quote.Path(dir), err)
	}
	return atomicfile.WriteFolder(dir, atomicfile.Options{Overwrite: o.Overwrite}, func(dir string) error { return m.write(dir, o) })
}

// replaceable returns an error if dir must not be replaced: without overwrite, if it is not a directory of weights, or if a component would
// replace a complete model or the reverse.
func (m *Model) replaceable(dir string, overwrite bool) error {
	st, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("want a directory, but it is a file: %w", fs.ErrExist)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	ours := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "model_index.json" || e.Name() == "config.json" })
	switch {
	case len(entries) == 0: // rename replaces it
	case !overwrite:
		return atomicfile.ErrExists
	case !ours:
		return fmt.Errorf("not replaced, since it has no model_index.json: %w", fs.ErrExist)
	}
	if _, err := os.Stat(filepath.Join(dir, "model_index.json")); len(entries) > 0 && (err == nil) != (m.UNet != nil) {
		has := map[bool]string{true: "a complete model, which a single component", false: "a single component, which a complete model"}[err == nil]
		return fmt.Errorf("it is the directory of %s does not replace: %w", has, fs.ErrExist)
	}
	for _, e := range entries {
		if !ofModel(e) {
			return fmt.Errorf("it contains %s, which is not part of a model and would be deleted; move it elsewhere first: %w", quote.Path(e.Name()), fs.ErrExist)
		}
	}
	return nil
}

// ofModel reports whether a directory entry is one of a published model or component, and not added by the user.
func ofModel(e fs.DirEntry) bool {
	name := e.Name()
	if e.IsDir() {
		return slices.Contains([]string{"unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
			"feature_extractor", "safety_checker", "image_encoder", ".cache"}, name)
	}
	for _, weights := range []string{"diffusion_pytorch_model", "model", "pytorch_model"} {
		if rest, ok := strings.CutPrefix(name, weights); ok && (strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "-") || rest == "_index.json") {
			return true
		}
	}
	return slices.Contains([]string{"config.json", "README.md", "LICENSE.md", ".gitattributes"}, name)
}

// write writes the files into dir.
func (m *Model) write(dir string, o WriteOptions) error {
	if m.UNet == nil {
		if parts := m.parts(); len(parts) == 1 {
			for name, c := range parts {
				return c.write(dir, name, o)
			}
		}
		return errors.New("want a model with a unet, or a single component")
	}
	index, err := m.index()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "model_index.json"), index); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "scheduler", "scheduler_config.json"), m.Scheduler); err != nil {
		return err
	}
	for name, c := range m.parts() {
		if err := c.write(filepath.Join(dir, name), name, o); err != nil {
			return err
		}
	}
	if m.Text != nil {
		if err := o.tokenizer(filepath.Join(dir, "tokenizer"), m.Tokenizer, false); err != nil {
			return err
		}
	}
	if m.Text2 != nil {
		return o.tokenizer(filepath.Join(dir, "tokenizer_2"), m.Tokenizer2, true)
	}
	return nil
}

var tokenizerFiles = []string{
	"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "added_tokens.json", "tokenizer.json",
}

// tokenizer copies the model's tokenizer, or writes the default one.
func (o WriteOptions) tokenizer(dir, from string, second bool) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if from == "" {
		if o.Tokenizer != nil {
			return o.Tokenizer(dir, second)
		}
		t := prompt.Default()
		if second {
			t = t.WithPad(0)
		}
		return t.Save(dir)
	}
	for _, name := range tokenizerFiles {
		data, err := plainfile.Read(filepath.Join(from, name), prompt.MaxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	return nil
}

// write writes a component's config.json and weights.
func (c *Component) write(dir, name string, o WriteOptions) error {
	if err := writeFile(filepath.Join(dir, "config.json"), c.Config); err != nil {
		return err
	}
	list, err := sources(c, o.DType)
	if err != nil {
		return err
	}
	if name == "vae" && o.DecoderOnly {
		list = slices.DeleteFunc(list, func(s safetensors.Source) bool { return strings.HasPrefix(s.Name, "encoder.") })
	}
	stem := "diffusion_pytorch_model"
	if strings.HasPrefix(name, "text_encoder") {
		stem = "model"
	}
	to := safetensors.Options{Metadata: map[string]string{"format": "pt"}}
	if c.Guidance.Known() {
		to.Metadata[guidanceKey] = c.Guidance.metadata()
	}
	if o.Variant != "" {
		return safetensors.Write(filepath.Join(dir, stem+"."+o.Variant+".safetensors"), list, to)
	}
	_, err = safetensors.WriteSharded(filepath.Join(dir, stem+".safetensors"), list, cmp.Or(o.MaxShard, defaultShard), to)
	return err
}

// writeFile writes a file and creates its directory.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o666)
}
