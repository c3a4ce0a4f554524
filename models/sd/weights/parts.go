package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch/component"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/saved"
)

// Parts are replacements for a model's components. Each is the path of a component's directory, with or without a config.json, or of a file
// with the component. From a complete model only that component is taken. "": the model's own.
//
// A component without a configuration uses that of the component it replaces, if its tensors match, else one inferred from its tensors. A
// replaced U-Net also determines the prediction type and noise schedule; changes are in Model.Notices.
type Parts struct {
	UNet, VAE   string
	Text, Text2 string // text encoders
}

// of returns the replacement for the component with that name.
func (p Parts) of(name string) string {
	return map[string]string{"unet": p.UNet, "vae": p.VAE, "text_encoder": p.Text, "text_encoder_2": p.Text2}[name]
}

// said is what files say about a network's noise schedule.
type said struct {
	prediction string // "": unknown
	zeroSNR    bool
	scheduler  []byte // a scheduler_config.json; nil: none
}

// saidBy returns what a scheduler_config.json says.
func saidBy(scheduler []byte) said {
	return said{predicts(scheduler), endsInNoise(scheduler), scheduler}
}

// replace replaces components and sets the prediction type from the options.
func (m *Model) replace(o Options) (err error) {
	for _, p := range slots {
		path := o.Parts.of(p.name)
		if path == "" {
			continue
		}
		own := *p.in(m)
		c, s, note, err := p.open(path, o.Variant)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		m.closers = append(m.closers, c.Close)
		for _, n := range []string{note, c.notice} {
			if n != "" {
				m.notice(p.name + ": " + n)
			}
		}
		if err := c.adopt(p.name, own); err != nil {
			return fmt.Errorf("%s: %s: %w", p.name, quote.Path(path), err)
		}
		*p.in(m) = c
		if p.name != "unet" {
			continue
		}
		if o.Prediction != "" {
			s.prediction = "" // set by the options
		}
		if err := m.follow(own, s); err != nil {
			return fmt.Errorf("%s: %s: %w", p.name, quote.Path(path), err)
		}
	}
	if m.Scheduler != nil && o.Prediction != "" && o.Prediction != predicts(m.Scheduler) {
		m.Scheduler, err = predicting(m.Scheduler, o.Prediction)
	}
	return err
}

// open opens a replacement. The note says which weights were chosen, if there was a choice.
func (p slot) open(path, variant string) (c *Component, s said, note string, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, s, "", err
	}
	if st.IsDir() {
		dir, class := path, ""
		data, err := readConfig(filepath.Join(path, "model_index.json"))
		if err == nil {
			if dir, class, s, err = p.within(path, data); err != nil {
				return nil, s, "", err
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, s, "", err
		}
		if path, note, err = anyWeights(dir, variant); err != nil {
			return nil, s, "", err
		}
		config, err := readConfig(filepath.Join(dir, "config.json"))
		if err == nil {
			if err := p.suits(config); err != nil {
				return nil, s, "", fmt.Errorf("%s: %w", quote.Path(filepath.Join(dir, "config.json")), err)
			}
			c, err = openPart(dir, path, class)
			return c, s, note, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, s, "", err
		}
	}
	m, err := OpenFile(path, Options{asPart: true})
	if err != nil {
		return nil, s, "", err
	}
	c = *p.in(m)
	if c == nil && p.name == "text_encoder_2" && m.UNet == nil {
		c = m.Text // a lone text encoder may be either
	}
	if c == nil {
		return nil, s, "", errors.Join(fmt.Errorf("%s: it is a %s without a %s", quote.Path(path), m.Kind, p.name), m.Close())
	}
	c.closer = m.Close
	return c, m.said, note, nil
}

// within finds a component's directory and class in a complete model; data is its model_index.json.
func (p slot) within(path string, data []byte) (dir, class string, s said, err error) {
	index, err := parseModelIndex(data)
	if err != nil {
		return "", "", s, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if class = index.classes[p.name]; class == "" {
		return "", "", s, fmt.Errorf("%s: the model has no %s", quote.Path(path), p.name)
	}
	if p.name == "unet" && index.classes["scheduler"] != "" {
		config, err := readConfig(filepath.Join(path, "scheduler", "scheduler_config.json"))
		if err != nil {
			return "", "", s, err
		}
		s = saidBy(config)
	}
	return filepath.Join(path, p.name), class, s, nil
}

// suits returns an error if a config.json has the class of another component.
func (p slot) suits(config []byte) error {
	var c struct {
		Class         string   `json:"_class_name"`
		Architectures []string `json:"architectures"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return quote.Error(err)
	}
	class := c.Class
	if class == "" && len(c.Architectures) > 0 {
		class = c.Architectures[0]
	}
	text := strings.HasPrefix(p.name, "text_encoder")
	if class == "" || slices.Contains(p.classes, class) || text && slices.Contains([]string{textClass, projectedClass, wholeClass}, class) {
		return nil
	}
	return fmt.Errorf("its class is %s: want %s", quote.Text(class), strings.Join(p.classes, " or "))
}

// anyWeights finds the weights in a directory: those of the variant, those without a variant, or the only ones. The note says which it
// chose if not the first.
func anyWeights(dir, variant string) (path, note string, err error) {
	path, err = component.Find(dir, variant)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return path, "", err
	}
	if variant != "" {
		if path, err := component.Find(dir, ""); err == nil {
			return path, fmt.Sprintf("%s has no variant %s: loading %s instead", quote.Path(dir), quote.Quoted(variant), quote.Text(filepath.Base(path))), nil
		}
	}
	entries, e := os.ReadDir(dir)
	if e != nil {
		return "", "", e
	}
	var there []string
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); e.Type().IsRegular() || e.Type()&fs.ModeSymlink != 0 {
			if ext == ".safetensors" || saved.Named(e.Name()) || strings.Contains(e.Name(), ".index.") {
				there = append(there, e.Name())
			}
		}
	}
	if len(there) != 1 {
		return "", "", err
	}
	return filepath.Join(dir, there[0]), fmt.Sprintf("loading %s, the only weights in %s", quote.Text(there[0]), quote.Path(dir)), nil
}

// adopt gives a replacement without a configuration that of the component it replaces: the number of attention heads, the image size and
// the scaling factor cannot be inferred from tensors.
func (c *Component) adopt(name string, own *Component) (err error) {
	switch {
	case strings.HasPrefix(name, "text_encoder"):
		err = c.adoptText(own, name == "text_encoder_2")
	case !c.Inferred || own == nil:
	case name == "unet":
		err = c.adoptUNet(own)
	default:
		err = c.adoptVAE(own)
	}
	if err == nil && c.Config == nil {
		err = fmt.Errorf("it has no configuration, that of the component it replaces does not match its tensors, and none can be inferred from them: %w", c.unknown)
	}
	return err
}

func (c *Component) adoptUNet(own *Component) error {
	config, err := unet.ParseConfig(own.Config)
	if err != nil {
		return nil //nolint:nilerr // keep the inferred one
	}
	if hasAll(c, unet.Shapes(config)) {
		c.Config = own.Config
		return nil
	}
	t := tensors{c} // networks of one shape may differ in these: inpainting channels, guidance embedding
	config.InChannels, config.OutChannels = t.dim(1, "conv_in.weight"), t.dim(0, "conv_out.weight")
	config.TimeCondProjDim = t.dim(1, "time_embedding.cond_proj.weight")
	if config.Validate() != nil || !hasAll(c, unet.Shapes(config)) {
		return nil
	}
	c.Config, err = json.Marshal(config)
	return err
}

func (c *Component) adoptVAE(own *Component) error {
	config, err := vae.ParseConfig(own.Config)
	if err != nil {
		return nil //nolint:nilerr // keep the inferred one
	}
	if hasAll(c, vae.Shapes(config)) {
		c.Config = own.Config
		return nil
	}
	if c.Config == nil {
		return nil
	}
	found, err := vae.ParseConfig(c.Config)
	if err != nil {
		return err
	}
	found.ScalingFactor = config.ScalingFactor
	c.Config, err = json.Marshal(found)
	return err
}

// ParseText parses the config.json of a model's first or second text encoder. The second one always has a projection: its class is in
// model_index.json.
func ParseText(config []byte, second bool) (clip.Config, error) {
	c, err := clip.ParseConfig(config)
	if second {
		c.Projection = true
	}
	return c, err
}

// adoptText is adopt for a text encoder. Only the second one has a projection: files often have an unused one.
func (c *Component) adoptText(own *Component, second bool) error {
	projected := second || own != nil && projects(own.Config)
	if _, _, ok := c.Info(textProjected); ok && !projected {
		c.Source = withoutTensor(c.Source, textProjected)
	}
	if own != nil && c.Inferred {
		if config, err := clip.ParseConfig(own.Config); err == nil {
			if config.Projection = projected; hasAll(c, clip.Shapes(config)) {
				c.Config = own.Config
				return nil
			}
		}
	}
	if c.Config == nil {
		return nil
	}
	config, err := clip.ParseConfig(c.Config)
	if err != nil || config.Projection == projected {
		return err
	}
	config.Projection = projected
	c.Config, err = json.Marshal(config)
	return err
}

// withoutTensor hides a tensor of a source.
func withoutTensor(src nn.Source, hidden string) *mapping {
	m := newMapping(src)
	for name := range src.Names() {
		if name != hidden {
			m.add(name, part{name: name})
		}
	}
	return m
}

// distilled reports whether a U-Net has a guidance embedding, as a latent consistency model has.
func distilled(c *Component) bool {
	var config struct {
		Cond int `json:"time_cond_proj_dim"`
	}
	return c != nil && json.Unmarshal(c.Config, &config) == nil && config.Cond > 0
}

// follow sets the model's kind, prediction type and noise schedule to those of its replaced U-Net.
func (m *Model) follow(own *Component, s said) (err error) {
	m.Kind, m.Spec = KindOf(m.UNet.Config), changed(m.Spec)
	if own == nil {
		m.ZeroNegative = m.Kind == SDXL || m.Kind == SSD1B
	}
	note := func(format string, args ...any) { m.Notices = append(m.Notices, fmt.Sprintf(format, args...)) }
	few, known := distilled(m.UNet), m.Scheduler != nil
	switch {
	case known && few == distilled(own):
	case s.scheduler != nil:
		m.Scheduler = s.scheduler
	case known && few && m.Kind != LCM15: // as in LCM-SDXL's model card
		m.Scheduler = schedulerClass.ReplaceAll(m.Scheduler, []byte(`"_class_name": "LCMScheduler"`))
	default:
		if m.Scheduler, err = m.Kind.scheduler(s.prediction, s.zeroSNR); err != nil {
			return err
		}
	}
	switch {
	case own == nil || few == distilled(own):
	case few:
		note("the U-Net has a guidance embedding: the model is now a latent consistency model (sampler lcm)")
	default:
		note("the U-Net has no guidance embedding: the model is no longer a latent consistency model, and uses the published scheduler of %s", m.Kind)
	}
	if now := predicts(m.Scheduler); s.prediction != "" && s.prediction != now {
		note("the prediction type is now %s, from the U-Net's file; that of the replaced U-Net was %s", s.prediction, now)
		if m.Scheduler, err = predicting(m.Scheduler, s.prediction); err != nil {
			return err
		}
	}
	if s.zeroSNR && !endsInNoise(m.Scheduler) {
		note("the noise schedule now has zero terminal SNR, from the U-Net's file; that of the replaced U-Net did not")
		m.Scheduler, err = endingInNoise(m.Scheduler)
	}
	return err
}
