package job

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/training"
)

// Diffusion describes a Stable Diffusion model, one component of it, or an add-on such as a ControlNet.
type Diffusion struct {
	Kind       string `json:"kind"` // sd15, sdxl, …
	Parts      []Part `json:"parts"`
	Parameters int    `json:"parameters"` // of all components
	Configured
}

// Configured holds the settings of a Stable Diffusion model: those of its config files, or those assumed for a single file.
type Configured struct {
	Prediction        string    `json:"prediction,omitempty"` // of the network: "epsilon", "v_prediction" or "sample"; "": no U-Net
	ZeroSNR           bool      `json:"zero_terminal_snr,omitempty"`
	Scheduler         string    `json:"scheduler,omitempty"` // diffusers' class name
	Sampler           string    `json:"sampler,omitempty"`   // the default of generate
	Spacing           string    `json:"timestep_spacing,omitempty"`
	Width             int       `json:"width,omitempty"` // training image size in pixels
	Height            int       `json:"height,omitempty"`
	Inpainting        bool      `json:"inpainting,omitempty"`
	GuidanceEmbedding bool      `json:"guidance_embedding,omitempty"` // the network is guidance-distilled
	GuidanceScales    []float64 `json:"guidance_scales,omitempty"`    // it was distilled with: the least and the greatest
	Notices           []string  `json:"notices,omitempty"`            // what was assumed
}

// Part describes one component of a model.
type Part struct {
	Name     string         `json:"name"`
	Tensors  int            `json:"tensors"`
	Elements int            `json:"elements"`
	DTypes   map[string]int `json:"dtypes"` // tensors by type
}

// DescribeDiffusion describes a Stable Diffusion model, a component, or an add-on, in any layout. variant selects the weights of a directory.
// Tensors that belong to no component come last, as a part of their own.
func DescribeDiffusion(path, variant string) (d Diffusion, err error) {
	defer func() {
		for _, p := range d.Parts {
			d.Parameters += p.Elements
		}
	}()
	o := weights.Options{Variant: variant, Mixed: true}
	if _, err := os.Stat(filepath.Join(path, "config.json")); err == nil {
		c, err := weights.OpenComponent(path, o)
		if err != nil {
			return d, err
		}
		defer c.Close()
		return Diffusion{Kind: "component", Parts: []Part{describePart(filepath.Base(filepath.Clean(path)), c, c.Names())}}, nil
	}
	var all *weights.Tensors // of a single file
	if st, err := os.Stat(path); err == nil && !st.IsDir() {
		if all, err = weights.OpenTensors(path); err != nil {
			return d, err
		}
		defer all.Close()
		kind, err := weights.Sniff(all)
		if err != nil {
			return d, fmt.Errorf("%s: %w", quote.Path(path), err)
		}
		if kind == weights.TAESD || kind == weights.LoRA || kind == weights.Refiner {
			return Diffusion{Kind: kind.String(), Parts: []Part{describePart("all", all, all.Names())}}, nil
		}
	}
	m, err := openModel(path, o)
	if err != nil {
		return d, err
	}
	defer m.Close()
	d.Kind = m.Kind.String()
	if d.Configured, err = configured(m); err != nil {
		return d, err
	}
	for _, p := range []struct {
		name string
		c    *weights.Component
	}{{"unet", m.UNet}, {"vae", m.VAE}, {"text_encoder", m.Text}, {"text_encoder_2", m.Text2}, {"controlnet", m.ControlNet}} {
		if p.c != nil {
			d.Parts = append(d.Parts, describePart(p.name, p.c, p.c.Names()))
		}
	}
	if all != nil && len(m.Ignored) > 0 {
		d.Parts = append(d.Parts, describePart("unused", all, slices.Values(m.Ignored)))
	}
	return d, nil
}

// configured reads a model's config files. A config that generate would refuse is described too, with a notice.
func configured(m *weights.Model) (c Configured, err error) {
	c.Notices = append(c.Notices, m.Notices...)
	if m.UNet == nil {
		return c, nil
	}
	network, err := unet.ParseConfig(m.UNet.Config)
	if err != nil {
		c.Notices = append(c.Notices, "unet: "+err.Error())
		return c, nil
	}
	c.GuidanceEmbedding = network.TimeCondProjDim > 0
	if s := m.UNet.Guidance; c.GuidanceEmbedding && s.Known() {
		c.GuidanceScales = []float64{s.Min, s.Max}
	}
	factor := 8
	if m.VAE != nil {
		auto, err := vae.ParseSpec(m.VAE.Config)
		if err != nil {
			c.Notices = append(c.Notices, "vae: "+err.Error())
		} else {
			factor = auto.Factor()
			c.Inpainting = network.InChannels > auto.Channels()
		}
	}
	switch size := network.SampleSize; len(size) {
	case 0:
	case 1:
		c.Width, c.Height = size[0]*factor, size[0]*factor
	default:
		c.Width, c.Height = size[1]*factor, size[0]*factor
	}
	if m.Scheduler == nil {
		return c, nil
	}
	s, err := noise.ParseConfig(m.Scheduler)
	if err != nil {
		c.Notices = append(c.Notices, "scheduler: "+err.Error())
		return c, nil
	}
	c.Prediction, c.ZeroSNR, c.Scheduler, c.Spacing = s.Predicts.Diffusers(), s.ZeroSNR, s.Class, s.Spacing
	c.Sampler, _ = texttoimage.DefaultSampler(s, c.GuidanceEmbedding)
	return c, nil
}

// describePart counts a component's tensors, elements and dtypes.
func describePart(name string, src nn.Source, names iter.Seq[string]) Part {
	out := Part{Name: name, DTypes: map[string]int{}}
	for name := range names {
		shape, d, _ := src.Info(name)
		n := 1
		for _, v := range shape {
			n *= v
		}
		out.Tensors++
		out.Elements += n
		out.DTypes[short(d)]++
	}
	return out
}

// short is a dtype's short name as flags have it (f16), or PyTorch's.
func short(d torch.DType) string {
	for _, name := range DTypes() {
		if v, _ := training.DTypeNamed(name); v == d {
			return name
		}
	}
	return d.String()
}
