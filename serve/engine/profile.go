package engine

import (
	"context"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/scheduler"
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
		p.pixels = &d
		p.Kind = map[checkpoint.Kind]string{
			checkpoint.Consistency: "consistency model", checkpoint.Denoiser: "denoiser", checkpoint.Trajectory: "trajectory model",
		}[d.Kind]
		p.few = d.Kind != checkpoint.Denoiser
		p.Guided = d.Network.Guidance() || !p.few && d.Network.Classes() > 0 && d.Network.NullClass() >= 0
		p.Images = true
		plan, err := m.Plan(context.Background(), generate.Request{})
		if err != nil {
			return p, err
		}
		defer plan.Close()
		p.Width, p.Height, p.Steps, p.InputSteps, p.MaskSteps = plan.Width, plan.Height, plan.Steps, plan.Steps, plan.Steps
		if p.few {
			p.InputSteps, p.MaskSteps = generate.StrokeSteps, generate.EditSteps
		}
		if p.Guided {
			p.Guidance = max(plan.Guidance, texttoimage.NoGuidance)
			if in := d.Guidance; len(in) == 2 {
				p.MinGuidance, p.MaxGuidance = in[0], in[1]
			}
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
	method, err := scheduler.Named(sampler)
	if err != nil {
		return p, err
	}
	p.few, p.Steps = scheduler.FewSteps(method), texttoimage.DefaultSteps(method)
	p.InputSteps, p.MaskSteps, p.Negative = p.Steps, p.Steps, !p.distilled
	p.Guidance = texttoimage.DefaultGuidance(method, p.distilled, p.scales)
	p.MinGuidance, p.MaxGuidance = p.scales.Min, p.scales.Max
	if most := p.largestScale(""); !math.IsInf(most, 1) {
		p.MaxGuidance = most
	}
	return p, nil
}

// isFew reports whether a sampler of Stable Diffusion is one for few steps.
func isFew(sampler string) bool {
	method, err := scheduler.Named(sampler)
	return err == nil && scheduler.FewSteps(method)
}

// bytesOf returns the size of an open model's weights.
func bytesOf(m *generate.Model) (bytes int64) {
	for _, st := range m.Stores() {
		for _, t := range st.Tensors() {
			bytes += t.NumBytes()
		}
	}
	return bytes
}
