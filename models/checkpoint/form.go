package checkpoint

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
)

// FormType is a parameterisation: see the types of package models.
type FormType string

// The types of forms.
const (
	EDM      FormType = "edm"      // models.EDM
	DDPM     FormType = "ddpm"     // models.DDPM
	VP       FormType = "vp"       // models.VP
	VE       FormType = "ve"       // models.VE
	Flow     FormType = "flow"     // models.Flow; models.MeanFlow for a trajectory
	TrigFlow FormType = "trigflow" // models.TrigFlow
)

// Form is a network's parameterisation: its inputs and its prediction. Fields that a type does not use are zero.
type Form struct {
	Type FormType `json:"type"`

	Noise models.NoiseEmbedding `json:"noise,omitempty"` // edm

	Predict noise.Prediction `json:"predict,omitempty"`          // ddpm, vp
	Betas   *noise.Betas     `json:"betas,omitempty"`            // ddpm
	Nearest bool             `json:"nearest,omitempty"`          // ddpm
	Learned bool             `json:"learned_variance,omitempty"` // ddpm
	Values  []float64        `json:"values,omitempty"`           // ddpm: β of each timestep, in place of Betas
	BetaD   float64          `json:"beta_d,omitempty"`           // vp
	BetaMin float64          `json:"beta_min,omitempty"`         // vp

	Scale    float64 `json:"scale,omitempty"`    // vp, ve, flow
	Reversed bool    `json:"reversed,omitempty"` // flow
	Interval bool    `json:"interval,omitempty"` // flow, for a trajectory
}

// setChain sets the betas of a discrete chain.
func (f *Form) setChain(c *noise.Chain) {
	if betas, ok := c.Made(); ok {
		f.Betas = &betas
	} else {
		f.Values = c.Betas()
	}
}

// schedule returns the schedule of a form of ddpm without Values: the default one if it has none.
func (f Form) schedule() noise.Betas {
	if f.Betas == nil {
		return noise.Betas{}
	}
	return *f.Betas
}

// formOf returns a parameterisation's form, network and σ_d; 0 if it has no σ_d.
func formOf(p models.Parameterisation) (Form, models.Network, float64, error) {
	for _, k := range forms() {
		if is, ok := k.describe(p); ok {
			is.Type = k.name
			if _, known := network.Of(is.net); is.err != nil && is.net != nil && !known { // the network's is the first reason
				is.err = fmt.Errorf("describe model: %w, got %T", ErrNetwork, is.net)
			}
			return is.Form, is.net, is.sigmaData, is.err
		}
	}
	return Form{}, nil, 0, fmt.Errorf("describe model: %T cannot be saved", p)
}

// registered returns the parameterisation of the form.
func (f Form) registered() (form, error) {
	var names []string
	for _, k := range forms() {
		if k.name == f.Type {
			return k, nil
		}
		names = append(names, string(k.name))
	}
	return form{}, fmt.Errorf("form: want one of %s, got %s", strings.Join(names, ", "), quote.Quoted(f.Type)) //quote: our own names
}

// Denoiser returns a denoiser over net with this parameterisation. sigmaData is the standard deviation of the data's elements.
func (f Form) Denoiser(net models.Network, sigmaData float64) (models.Parameterisation, error) {
	k, err := f.registered()
	if err != nil {
		return nil, err
	}
	return k.build(f, net, sigmaData)
}

// Summary describes the form in a few words.
func (f Form) Summary() string {
	k, err := f.registered()
	if err != nil {
		return "unknown"
	}
	return k.summary(f)
}

// Consistency returns a consistency function that is initialised from the denoiser of this form over net.
func (f Form) Consistency(net models.Network, sigmaData float64, boundary models.Boundary, sigmaMin float64) (*models.Consistency, error) {
	c := &models.Consistency{Net: net, Boundary: boundary, Noise: f.Noise, SigmaData: sigmaData, SigmaMin: sigmaMin}
	if f.Type == EDM {
		return c, nil
	}
	p, err := f.Denoiser(net, sigmaData)
	c.Net = &models.Preconditioned{Model: p, SigmaData: sigmaData}
	return c, err
}

// Trig returns a consistency function in TrigFlow's coordinates, with its boundary at zero, that is initialised from the denoiser of
// this form over net.
func (f Form) Trig(net models.Network, sigmaData float64) (*models.TrigConsistency, error) {
	c := &models.TrigConsistency{Net: net, SigmaData: sigmaData}
	if f.Type == TrigFlow {
		return c, nil
	}
	p, err := f.Denoiser(net, sigmaData)
	c.Net = &models.TrigNetwork{Model: p, SigmaData: sigmaData}
	return c, err
}
