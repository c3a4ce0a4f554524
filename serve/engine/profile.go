package engine

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// profile is what requests are resolved with. It stays known when the model is closed.
type profile struct {
	Info
	pixels *checkpoint.Description // of a pixel-space model; nil: of Stable Diffusion

	few bool // few-step: a consistency model, or a model for the samplers LCM and TCD

	// Of Stable Diffusion.
	factor    int            // width and height are multiples of it
	distilled bool           // the network takes the guidance scale as an input
	scales    weights.Scales // with which it was distilled
	inpaints  bool           // needs an input image and a mask
}

// profileOf reads what an open model is.
func profileOf(m *generate.Model) (*profile, error) {
	p := &profile{Info: Info{Samplers: m.Samplers()}}
	if d, ok := m.Description(); ok {
		shape := d.Network.Shape()
		p.pixels = &d
		p.Kind = map[checkpoint.Kind]string{
			checkpoint.Consistency: "consistency model", checkpoint.Denoiser: "denoiser", checkpoint.Trajectory: "trajectory model",
		}[d.Kind]
		p.few = d.Kind != checkpoint.Denoiser
		p.Guided = d.Network.Guidance() || !p.few && d.Network.Classes() > 0 && d.Network.NullClass() >= 0
		p.Images = true
		p.Height, p.Width = shape[1], shape[2]
		switch {
		case p.few:
			p.Steps = 1
		case d.Levels != nil: // progressively distilled
			p.Steps = len(d.Levels)
		default:
			p.Steps = 18
		}
		for i := range d.Network.Classes() {
			name := fmt.Sprint(i)
			if len(d.ClassNames) > 0 {
				name = d.ClassNames[i]
			}
			p.Classes = append(p.Classes, name)
		}
		return p, nil
	}
	d := m.Diffusion()
	if err := d.Usable(); err != nil {
		return p, err
	}
	var config noise.Config
	if d.Scheduler != nil {
		var err error
		if config, err = noise.ParseConfig(d.Scheduler); err != nil {
			return p, err
		}
	}
	sampler, _ := texttoimage.DefaultSampler(config, d.Distilled())
	p.Kind, p.Prompts, p.Guided = d.Kind.String(), true, true
	p.Width, p.Height = d.Size()
	p.factor, p.distilled, p.scales, p.inpaints = d.VAE.Factor(), d.Distilled(), d.Guidance, d.Inpaints()
	half, ok := d.VAE.(interface{ Encodes() bool })
	p.Images = !ok || half.Encodes()
	p.few = isFew(sampler)
	p.Steps = 25
	if p.few {
		p.Steps = 4
	}
	return p, nil
}

// isFew reports whether a sampler of Stable Diffusion is one for few steps.
func isFew(sampler string) bool { return slices.Contains([]string{"lcm", "tcd"}, sampler) }

// bytesOf returns the size of an open model's weights.
func bytesOf(m *generate.Model) (bytes int64) {
	for _, st := range m.Stores() {
		for _, t := range st.Tensors() {
			bytes += int64(t.NumEl() * t.DType().Size())
		}
	}
	return bytes
}
