package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch/component"
)

// readConfig reads a configuration.
func readConfig(path string) ([]byte, error) { return plainfile.Read(path, configjson.Most) }

// Classes of a model's components in diffusers and transformers.
const (
	unetClass       = "UNet2DConditionModel"
	vaeClass        = "AutoencoderKL"
	textClass       = "CLIPTextModel"
	projectedClass  = "CLIPTextModelWithProjection"
	wholeClass      = "CLIPModel" // with an image encoder
	controlNetClass = "ControlNetModel"
)

// slot is a subdirectory of a diffusers directory that has weights.
type slot struct {
	name    string
	classes []string
	in      func(m *Model) **Component
}

var slots = []slot{
	{"text_encoder", []string{textClass, projectedClass}, func(m *Model) **Component { return &m.Text }},
	{"text_encoder_2", []string{projectedClass}, func(m *Model) **Component { return &m.Text2 }},
	{"unet", []string{unetClass}, func(m *Model) **Component { return &m.UNet }},
	{"vae", []string{vaeClass, vae.TinyClass, vae.PoolClass}, func(m *Model) **Component { return &m.VAE }},
	{"controlnet", []string{controlNetClass}, func(m *Model) **Component { return &m.ControlNet }},
}

// foreignParts are components of other model families.
var foreignParts = []string{"transformer", "text_encoder_3", "prior", "image_unet", "super_res_first", "motion_adapter", "vqvae"}

// modelIndex is the content of model_index.json.
type modelIndex struct {
	pipeline string            // the pipeline's class
	classes  map[string]string // of the components, without null ones
	zero     bool              // force_zeros_for_empty_prompt
}

// knownPipeline matches the supported pipelines of diffusers. Others may use the same components in unknown ways.
var knownPipeline = regexp.MustCompile(`^(StableDiffusion(XL)?(ControlNet)?(PAG)?(Img2Img|Inpaint)?|LatentConsistencyModel(Img2Img)?)Pipeline$`)

// parseModelIndex parses a model_index.json. Models of other families are errors.
func parseModelIndex(data []byte) (modelIndex, error) {
	p, err := component.ParsePipeline(data)
	index := modelIndex{pipeline: p.Class, classes: p.Classes}
	if err != nil {
		return index, err
	}
	if raw, ok := p.Keys["force_zeros_for_empty_prompt"]; ok {
		if err := json.Unmarshal(raw, &index.zero); err != nil {
			return index, fmt.Errorf("force_zeros_for_empty_prompt: want true or false, got %s", quote.Text(raw))
		}
	}
	const want = "want a model of Stable Diffusion 1, 2 or XL"
	is := "it"
	if index.pipeline != "" {
		is = fmt.Sprintf("it is a %s, which", quote.Text(index.pipeline))
	}
	for _, key := range foreignParts {
		if class, ok := index.classes[key]; ok {
			return index, fmt.Errorf("%s has a %s (%s): %s", is, key, quote.Text(class), want)
		}
	}
	for _, p := range slots {
		if class, ok := index.classes[p.name]; ok && !slices.Contains(p.classes, class) {
			return index, fmt.Errorf("%s has a %s as %s: %s, with a %s", is, quote.Text(class), p.name, want, strings.Join(p.classes, " or "))
		}
	}
	switch {
	case index.classes["unet"] == "":
		return index, fmt.Errorf("%s has no unet: %s", is, want)
	case index.classes["text_encoder"] == "" && index.classes["text_encoder_2"] != "":
		return index, fmt.Errorf("%s has only the second text encoder, like the refiner of Stable Diffusion XL: %s", is, want)
	}
	return index, nil
}

// there names what the model has by its index and the directory lacks, unless it is replaced: a download that was interrupted leaves such a
// directory.
func (m modelIndex) there(dir string, replaced Parts) error {
	var lacks []string
	want := func(name, file string) {
		if m.classes[name] == "" || replaced.of(name) != "" {
			return
		}
		for _, at := range []string{name, filepath.Join(name, file)} {
			if _, err := os.Stat(filepath.Join(dir, at)); errors.Is(err, fs.ErrNotExist) {
				lacks = append(lacks, at)
				return
			}
		}
	}
	for _, p := range slots {
		want(p.name, "config.json")
	}
	want("scheduler", "scheduler_config.json")
	if len(lacks) == 0 {
		return nil
	}
	return fmt.Errorf("%s: the directory is incomplete: its model_index.json also wants %s; download or copy the model again", quote.Path(dir), quote.Text(strings.Join(lacks, ", ")))
}

// OpenFolder opens a diffusers directory: model_index.json and a subdirectory for each component, or config.json and the weights of an
// autoencoder or a ControlNet, which is a model with only that component. Weights are memory-mapped. A component without the requested
// variant is an error, unless Options.Mixed is set and another component has the variant.
func OpenFolder(dir string, o Options) (_ *Model, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Config != "" {
		return nil, fmt.Errorf("%s: a directory for the configurations (%s) is only for single files: a diffusers directory has its own", quote.Path(dir), quote.Path(o.Config))
	}
	if o.EMA {
		return nil, fmt.Errorf("%s: selecting EMA weights is only for single files: a diffusers directory may have them as a variant", quote.Path(dir))
	}
	path := filepath.Join(dir, "model_index.json")
	data, err := readConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		return openLone(dir, o)
	}
	if err != nil {
		return nil, err
	}
	index, err := parseModelIndex(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	m := &Model{Path: dir, ZeroNegative: index.zero, Spec: specOf(dir, nil)}
	if index.pipeline != "" && !knownPipeline.MatchString(index.pipeline) {
		m.notice(fmt.Sprintf("unknown pipeline class %s: the model is loaded as Stable Diffusion, by its components", quote.Text(index.pipeline)))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if err := index.there(dir, o.Parts); err != nil {
		return nil, err
	}
	files, err := weightsFiles(dir, index, o)
	if err != nil {
		return nil, err
	}
	for _, p := range slots {
		if files[p.name] == "" {
			if err := m.replaced(dir, p, o); err != nil {
				return nil, err
			}
			continue
		}
		c, err := openPart(filepath.Join(dir, p.name), files[p.name], index.classes[p.name])
		if err != nil {
			return nil, err
		}
		m.closers = append(m.closers, c.Close)
		m.notice(c.notice)
		*p.in(m) = c
	}
	for key, at := range map[string]*string{"tokenizer": &m.Tokenizer, "tokenizer_2": &m.Tokenizer2} {
		if index.classes[key] != "" {
			*at = filepath.Join(dir, key)
		}
	}
	if index.classes["scheduler"] != "" {
		if m.Scheduler, err = readConfig(filepath.Join(dir, "scheduler", "scheduler_config.json")); err != nil {
			return nil, err
		}
	}
	if m.UNet != nil {
		m.Kind = KindOf(m.UNet.Config)
	}
	return m, m.replace(o)
}

// replaced adds only the configuration, if there is one, of a component that is replaced and has no weights.
func (m *Model) replaced(dir string, p slot, o Options) error {
	if o.Parts.of(p.name) == "" {
		return nil
	}
	config, err := readConfig(filepath.Join(dir, p.name, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	*p.in(m) = &Component{Config: config, Source: newMapping(nil)}
	return err
}

// openLone opens the directory of an autoencoder or a ControlNet as a model with only that component.
func openLone(dir string, o Options) (*Model, error) {
	config, err := readConfig(filepath.Join(dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: want a diffusers directory with a model_index.json, but there is none", quote.Path(dir))
	}
	if err != nil {
		return nil, err
	}
	m := &Model{Path: dir, Kind: KindOf(config)}
	to := map[Kind]**Component{VAE: &m.VAE, ControlNet: &m.ControlNet}[m.Kind]
	if to == nil {
		return nil, fmt.Errorf("%s: want a diffusers directory with a model_index.json, but it is the directory of one component", quote.Path(dir))
	}
	c, err := OpenComponent(dir, o)
	if err != nil {
		return nil, err
	}
	m.closers = []func() error{c.Close}
	*to = c
	return m, nil
}

// weightsFiles finds the weights files of all components.
func weightsFiles(dir string, index modelIndex, o Options) (map[string]string, error) {
	files := map[string]string{}
	var without []slot
	var missing error
	var dirs []string // of the components
	for _, p := range slots {
		if index.classes[p.name] == "" {
			continue
		}
		file, err := component.Find(filepath.Join(dir, p.name), o.Variant)
		if err == nil || o.Parts.of(p.name) == "" {
			dirs = append(dirs, filepath.Join(dir, p.name))
		}
		switch {
		case err == nil:
			files[p.name] = file
		case errors.Is(err, fs.ErrNotExist) && o.Parts.of(p.name) != "":
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		default:
			missing = errors.Join(missing, err)
			without = append(without, p)
		}
	}
	if missing != nil && (o.Variant == "" || len(files) == 0 || !o.Mixed) {
		return nil, component.WithVariants(dir, o.Variant, len(files) > 0, missing, dirs...)
	}
	for _, p := range without {
		file, err := component.Find(filepath.Join(dir, p.name), "")
		if err != nil {
			return nil, err
		}
		files[p.name] = file
	}
	return files, nil
}

// KindOf returns the model family of a U-Net, or the kind of another component, by its config.json.
func KindOf(config []byte) Kind {
	var c struct {
		Class  string `json:"_class_name"`
		In     int    `json:"in_channels"`
		Added  string `json:"addition_embed_type"`
		Mid    string `json:"mid_block_type"`
		Cond   int    `json:"time_cond_proj_dim"`
		Linear bool   `json:"use_linear_projection"`
	}
	if json.Unmarshal(config, &c) != nil {
		return Unknown
	}
	switch {
	case c.Class == controlNetClass:
		return ControlNet
	case c.Class == vaeClass:
		return VAE
	case c.Class != "" && c.Class != unetClass:
		return Unknown
	case c.Added == "text_time" && c.Mid == "UNetMidBlock2D":
		return SSD1B
	case c.Added == "text_time":
		return SDXL
	case c.Linear:
		return SD2
	case c.In == 9:
		return Inpaint15
	case c.Cond > 0:
		return LCM15
	}
	return SD15
}

// OpenComponent opens a single component, such as a ControlNet or an autoencoder, from its directory with a config.json or from a single
// file.
func OpenComponent(path string, o Options) (*Component, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return openOnly(path, o)
	}
	if _, err := os.Stat(filepath.Join(path, "model_index.json")); err == nil {
		return nil, fmt.Errorf("%s: it is the directory of a complete model: want that of one component, such as %s", quote.Path(path), quote.Path(filepath.Join(path, "vae")))
	}
	file, err := component.Find(path, o.Variant)
	if o.Mixed && o.Variant != "" && errors.Is(err, fs.ErrNotExist) {
		file, err = component.Find(path, "")
	}
	if err != nil {
		return nil, component.WithVariants(path, o.Variant, false, err, path)
	}
	return openPart(path, file, "")
}

// openOnly opens a file that has a single component.
func openOnly(path string, o Options) (*Component, error) {
	m, err := OpenFile(path, o)
	if err != nil {
		return nil, err
	}
	var only *Component
	n := 0
	for _, p := range slots {
		if c := *p.in(m); c != nil {
			only = c
			n++
		}
	}
	if m.Kind == ControlNet && m.ControlNet != nil { // the first ControlNets were published with their base model in one file
		only, n = m.ControlNet, 1
	}
	if n != 1 {
		return nil, errors.Join(fmt.Errorf("%s: it is a complete model (%s): want a file with a single component", quote.Path(path), m.Kind), m.Close())
	}
	only.closer = m.Close
	return only, nil
}

// openPart opens config.json from a directory, and weights. class may be "".
func openPart(dir, path, class string) (*Component, error) {
	config, err := readConfig(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	w, err := openWeights(path)
	if err != nil {
		return nil, err
	}
	c := &Component{Config: config, Source: today(w, class == projectedClass || projects(config)), Files: pathsOf(path, w), notice: noticeOf(w), closer: w.Close}
	if n := c.readGuidance(metadataOf(w)); n != "" {
		c.notice = strings.TrimPrefix(c.notice+"; "+n, "; ")
	}
	return c, nil
}
