package checkpoint

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
)

// FormType is what a network predicts: see the types of package models.
type FormType string

// The types of forms.
const (
	EDM      FormType = "edm"      // models.EDM
	DDPM     FormType = "ddpm"     // models.DDPM
	VP       FormType = "vp"       // models.VP
	Flow     FormType = "flow"     // models.Flow; of a trajectory, models.MeanFlow
	TrigFlow FormType = "trigflow" // models.TrigFlow
)

// Form is what a network is given and predicts, the parameterisation. Fields that a type does not use are zero.
type Form struct {
	Type FormType `json:"type"`

	Noise models.NoiseEmbedding `json:"noise,omitempty"` // edm

	Predict noise.Prediction `json:"predict,omitempty"`  // ddpm, vp
	Betas   *noise.Betas     `json:"betas,omitempty"`    // ddpm
	Nearest bool             `json:"nearest,omitempty"`  // ddpm
	BetaD   float64          `json:"beta_d,omitempty"`   // vp
	BetaMin float64          `json:"beta_min,omitempty"` // vp

	Scale    float64 `json:"scale,omitempty"`    // vp, flow
	Reversed bool    `json:"reversed,omitempty"` // flow
	Interval bool    `json:"interval,omitempty"` // flow, of a trajectory
}

// formOf describes a parameterisation, and returns its network and σ_d besides; 0 where it has none.
func formOf(p models.Parameterisation) (Form, models.Network, float64, error) {
	switch p := p.(type) {
	case *models.EDM:
		return Form{Type: EDM, Noise: p.Noise}, p.Net, p.SigmaData, nil
	case *models.DDPM:
		betas, ok := p.Process().Made()
		if !ok {
			return Form{}, nil, 0, errors.New("describe model: its chain was made of bare numbers, which files do not hold: make it by noise.Betas.Chain")
		}
		return Form{Type: DDPM, Predict: p.Predict, Betas: &betas, Nearest: p.Nearest}, p.Net, 0, nil
	case *models.VP:
		return Form{Type: VP, Predict: p.Predict, BetaD: p.BetaD, BetaMin: p.BetaMin, Scale: p.Scale}, p.Net, 0, nil
	case *models.Flow:
		return Form{Type: Flow, Scale: p.Scale, Reversed: p.Reversed}, p.Net, 0, nil
	case *models.TrigFlow:
		return Form{Type: TrigFlow}, p.Net, p.SigmaData, nil
	}
	return Form{}, nil, 0, fmt.Errorf("describe model: there is no form for a %T", p)
}

// Denoiser returns the denoiser that the network is in this form. sigmaData is the standard deviation of the data's elements.
func (f Form) Denoiser(net models.Network, sigmaData float64) (models.Parameterisation, error) {
	var p interface {
		models.Parameterisation
		Validate() error
	}
	switch f.Type {
	case EDM:
		return &models.EDM{Net: net, Noise: f.Noise, SigmaData: sigmaData}, nil
	case DDPM:
		var betas noise.Betas
		if f.Betas != nil {
			betas = *f.Betas
		}
		chain, err := betas.Chain()
		if err != nil {
			return nil, err
		}
		p = &models.DDPM{Net: net, Chain: chain, Predict: f.Predict, Nearest: f.Nearest}
	case VP:
		p = &models.VP{Net: net, Predict: f.Predict, BetaD: f.BetaD, BetaMin: f.BetaMin, Scale: f.Scale}
	case Flow:
		p = &models.Flow{Net: net, Scale: f.Scale, Reversed: f.Reversed}
	case TrigFlow:
		p = &models.TrigFlow{Net: net, SigmaData: sigmaData}
	default:
		return nil, fmt.Errorf("form: want one of %s, %s, %s, %s, %s, got %s", EDM, DDPM, VP, Flow, TrigFlow, quote.Quoted(f.Type))
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return p, nil
}

// Consistency returns the consistency function that starts from the denoiser that the network is in this form.
func (f Form) Consistency(net models.Network, sigmaData float64, boundary models.Boundary, sigmaMin float64) (*models.Consistency, error) {
	c := &models.Consistency{Net: net, Boundary: boundary, Noise: f.Noise, SigmaData: sigmaData, SigmaMin: sigmaMin}
	if f.Type == EDM {
		return c, nil
	}
	p, err := f.Denoiser(net, sigmaData)
	c.Net = &models.Preconditioned{Model: p, SigmaData: sigmaData}
	return c, err
}

// Trig returns the consistency function in TrigFlow's coordinates, with its boundary at zero, that starts from the denoiser
// that the network is in this form.
func (f Form) Trig(net models.Network, sigmaData float64) (*models.TrigConsistency, error) {
	c := &models.TrigConsistency{Net: net, SigmaData: sigmaData}
	if f.Type == TrigFlow {
		return c, nil
	}
	p, err := f.Denoiser(net, sigmaData)
	c.Net = &models.TrigNetwork{Model: p, SigmaData: sigmaData}
	return c, err
}
