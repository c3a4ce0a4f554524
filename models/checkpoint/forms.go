package checkpoint

import (
	"fmt"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
)

// form is a registered parameterisation of package models.
type form struct {
	name     FormType
	describe func(p models.Parameterisation) (described, bool) // false: p has another form
	build    func(f Form, net models.Network, sigmaData float64) (models.Parameterisation, error)
	summary  func(f Form) string
}

// described is the description of a parameterisation.
type described struct {
	Form      // without its type
	net       models.Network
	sigmaData float64 // 0: none
	err       error   // why a file cannot hold it
}

// forms returns all parameterisations. To add one, add an entry here, and to Form the fields that it needs.
func forms() []form {
	return []form{
		registered(EDM,
			func(p *models.EDM) described {
				return described{Form: Form{Noise: p.Noise}, net: p.Net, sigmaData: p.SigmaData}
			},
			func(f Form, net models.Network, sigmaData float64) (*models.EDM, error) {
				return &models.EDM{Net: net, Noise: f.Noise, SigmaData: sigmaData}, nil
			},
			func(f Form) string { return "noise label " + word(f.Noise) }),
		registered(DDPM,
			func(p *models.DDPM) described {
				f := Form{Predict: p.Predict, Nearest: p.Nearest, Learned: p.LearnedVariance}
				f.setChain(p.Process())
				return described{Form: f, net: p.Net}
			},
			func(f Form, net models.Network, _ float64) (*models.DDPM, error) {
				chain, err := f.schedule().Chain()
				if f.Values != nil {
					chain, err = noise.NewChain(f.Values)
				}
				return &models.DDPM{Net: net, Chain: chain, Predict: f.Predict, Nearest: f.Nearest, LearnedVariance: f.Learned}, err
			},
			func(f Form) string {
				if f.Values != nil {
					return fmt.Sprintf("ddpm of %d steps, predicts the %s", len(f.Values), word(f.Predict)) //quote: words for our own values
				}
				if f.Betas == nil {
					return "ddpm, predicts the " + word(f.Predict)
				}
				return fmt.Sprintf("ddpm of %d steps, betas %s, predicts the %s", f.Betas.Steps, word(f.Betas.Schedule), word(f.Predict)) //quote: words for our own values
			}),
		registered(VP,
			func(p *models.VP) described {
				return described{Form: Form{Predict: p.Predict, BetaD: p.BetaD, BetaMin: p.BetaMin, Scale: p.Scale}, net: p.Net}
			},
			func(f Form, net models.Network, _ float64) (*models.VP, error) {
				return &models.VP{Net: net, Predict: f.Predict, BetaD: f.BetaD, BetaMin: f.BetaMin, Scale: f.Scale}, nil
			},
			func(f Form) string { return "vp, predicts the " + word(f.Predict) }),
		registered(VE,
			func(p *models.VE) described { return described{Form: Form{Scale: p.Scale}, net: p.Net} },
			func(f Form, net models.Network, _ float64) (*models.VE, error) {
				return &models.VE{Net: net, Scale: f.Scale}, nil
			},
			func(Form) string { return "ve, predicts σ times the score" }),
		registered(Flow,
			func(p *models.Flow) described {
				return described{Form: Form{Scale: p.Scale, Reversed: p.Reversed}, net: p.Net}
			},
			func(f Form, net models.Network, _ float64) (*models.Flow, error) {
				return &models.Flow{Net: net, Scale: f.Scale, Reversed: f.Reversed}, nil
			},
			func(Form) string { return string(Flow) }),
		registered(TrigFlow,
			func(p *models.TrigFlow) described { return described{net: p.Net, sigmaData: p.SigmaData} },
			func(_ Form, net models.Network, sigmaData float64) (*models.TrigFlow, error) {
				return &models.TrigFlow{Net: net, SigmaData: sigmaData}, nil
			},
			func(Form) string { return string(TrigFlow) }),
	}
}

// registered makes the entry of a parameterisation P.
func registered[P models.Parameterisation](name FormType, describe func(p P) described, build func(f Form, net models.Network, sigmaData float64) (P, error),
	summary func(f Form) string) form {
	return form{
		name: name,
		describe: func(p models.Parameterisation) (described, bool) {
			own, ok := p.(P)
			if !ok {
				return described{}, false
			}
			return describe(own), true
		},
		build: func(f Form, net models.Network, sigmaData float64) (models.Parameterisation, error) {
			p, err := build(f, net, sigmaData)
			if v, ok := any(p).(interface{ Validate() error }); ok && err == nil {
				err = v.Validate()
			}
			if err != nil {
				return nil, err
			}
			return p, nil
		},
		summary: summary,
	}
}

// word is a value's name in files.
func word(v interface{ MarshalText() ([]byte, error) }) string {
	text, err := v.MarshalText()
	if err != nil {
		return "unknown"
	}
	return string(text)
}
