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
	"github.com/onestep-go/onestep/torch/nn"
)

// Parts are parts from elsewhere that take the places of a model's own. Each is the directory of a part, with or without a config.json, or a
// file that has the part. Of a whole model only that part is taken. "": the model's own.
//
// A part without a configuration has that of the part whose place it takes, if its tensors are the ones that this asks for, else what can be
// read off its tensors. A U-Net also decides how its predictions are read; what changes by that is among Model.Notices.
type Parts struct {
	UNet, VAE   string
	Text, Text2 string // text encoders
}

// of returns what takes the place of the part in a folder of that name.
func (p Parts) of(name string) string {
	return map[string]string{"unet": p.UNet, "vae": p.VAE, "text_encoder": p.Text, "text_encoder_2": p.Text2}[name]
}

// said is what files say of a network's noise, besides its weights.
type said struct {
	prediction string // "": nothing
	zeroSNR    bool
	scheduler  []byte // a scheduler_config.json; nil: none
}

// saidBy is what a scheduler_config.json says.
func saidBy(scheduler []byte) said {
	return said{predicts(scheduler), endsInNoise(scheduler), scheduler}
}

// replace puts the parts from elsewhere in the places of the model's own, and has the network predict what the options say.
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
			s.prediction = "" // which the options say
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

// open opens a part. The note says which weights are read, where that had to be chosen.
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
		c = m.Text // a text encoder alone does not say which it is
	}
	if c == nil {
		return nil, s, "", errors.Join(fmt.Errorf("%s: it has no %s: it is a %s", quote.Path(path), p.name, m.Kind), m.Close())
	}
	c.closer = m.Close
	return c, m.said, note, nil
}

// within finds the part's folder and class in that of a whole model, whose model_index.json has data.
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

// suits tells whether a config.json is one of such a part, by its class.
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

// anyWeights finds a folder's weights: those of the variant, those without one, or the only ones. The note says which of the latter it took.
func anyWeights(dir, variant string) (path, note string, err error) {
	path, err = weightsFile(dir, variant)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return path, "", err
	}
	if variant != "" {
		if path, err := weightsFile(dir, ""); err == nil {
			return path, fmt.Sprintf("%s has no variant %s: %s is read", quote.Path(dir), quote.Quoted(variant), quote.Text(filepath.Base(path))), nil
		}
	}
	entries, e := os.ReadDir(dir)
	if e != nil {
		return "", "", e
	}
	var there []string
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); e.Type().IsRegular() || e.Type()&fs.ModeSymlink != 0 {
			if ext == ".safetensors" || pickled(e.Name()) || strings.Contains(e.Name(), ".index.") {
				there = append(there, e.Name())
			}
		}
	}
	if len(there) != 1 {
		return "", "", err
	}
	return filepath.Join(dir, there[0]), fmt.Sprintf("%s is read, the only weights in %s", quote.Text(there[0]), quote.Path(dir)), nil
}

// adopt gives a part the configuration of the one that it takes the place of, where it has none: tensors do not tell all, such as the number
// of heads, the size of images, or what latents are multiplied by.
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
		err = fmt.Errorf("it has no configuration, and that of the model's own part does not fit its tensors; none is known for tensors of these sizes: %w", c.unknown)
	}
	return err
}

func (c *Component) adoptUNet(own *Component) error {
	config, err := unet.ParseConfig(own.Config)
	if err != nil {
		return nil //nolint:nilerr // that of the tensors stays
	}
	if hasAll(c, unet.Shapes(config)) {
		c.Config = own.Config
		return nil
	}
	t := tensors{c} // what networks of one shape differ by: inpainting, a guidance embedding
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
		return nil //nolint:nilerr // that of the tensors stays
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

// ParseText reads the config.json of a model's text encoder, its first or its second. The second one has a projection, whatever the file
// says: its class, which has one, is in model_index.json.
func ParseText(config []byte, second bool) (clip.Config, error) {
	c, err := clip.ParseConfig(config)
	if second {
		c.Projection = true
	}
	return c, err
}

// adoptText does so for a text encoder. Whether it has a projection follows from its place: files often have one that is not used.
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

// withoutTensor is a source with a tensor hidden.
func withoutTensor(src nn.Source, hidden string) *mapping {
	m := newMapping(src)
	for name := range src.Names() {
		if name != hidden {
			m.add(name, part{name: name})
		}
	}
	return m
}

// distilled tells whether a U-Net has a guidance embedding: whether it is that of a latent consistency model.
func distilled(c *Component) bool {
	var config struct {
		Cond int `json:"time_cond_proj_dim"`
	}
	return c != nil && json.Unmarshal(c.Config, &config) == nil && config.Cond > 0
}

// follow makes a model that of its U-Net, which took the place of its own: its kind, and how predictions are read.
func (m *Model) follow(own *Component, s said) (err error) {
	m.Kind, m.Spec = kindOf(m.UNet.Config), changed(m.Spec)
	if own == nil {
		m.ZeroNegative = m.Kind == SDXL || m.Kind == SSD1B
	}
	note := func(format string, args ...any) { m.Notices = append(m.Notices, fmt.Sprintf(format, args...)) }
	few, known := distilled(m.UNet), m.Scheduler != nil
	switch {
	case known && few == distilled(own):
	case s.scheduler != nil:
		m.Scheduler = s.scheduler
	case known && few && m.Kind != LCM15: // as LCM-SDXL's model card does
		m.Scheduler = schedulerClass.ReplaceAll(m.Scheduler, []byte(`"_class_name": "LCMScheduler"`))
	default:
		if m.Scheduler, err = m.Kind.scheduler(s.prediction, s.zeroSNR); err != nil {
			return err
		}
	}
	switch {
	case own == nil || few == distilled(own):
	case few:
		note("the U-Net has a guidance embedding: it makes the model a latent consistency model (sampler lcm)")
	default:
		note("the U-Net has no guidance embedding: the model is no latent consistency model any more, and its scheduler is the published one of %s", m.Kind)
	}
	if now := predicts(m.Scheduler); s.prediction != "" && s.prediction != now {
		note("the U-Net's file says that it predicts %s; the network that it replaces predicted %s", s.prediction, now)
		if m.Scheduler, err = predicting(m.Scheduler, s.prediction); err != nil {
			return err
		}
	}
	if s.zeroSNR && !endsInNoise(m.Scheduler) {
		note("the U-Net's file says that it was trained with zero terminal SNR; the network that it replaces was not")
		m.Scheduler, err = endingInNoise(m.Scheduler)
	}
	return err
}
