package checkpoint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
)

// function is a registered denoiser or consistency function of package models.
type function struct {
	kind     Kind
	forms    []FormType                                                           // the forms that its network may have; nil: all
	boundary *models.Boundary                                                     // its boundary condition; nil: any
	jumps    bool                                                                 // the network takes the end of a jump
	describe func(f any, d *Description) (net models.Network, ok bool, err error) // not ok: f is of another type
	build    func(d Description, net models.Network) (any, error)
}

// functions returns the registered functions; the first that matches a description is used. To add one, add an entry here.
func functions() []function {
	zero := models.AtZero
	return []function{
		turned(function{kind: Consistency, forms: []FormType{TrigFlow}, boundary: &zero}, func(f *models.TrigConsistency, d *Description) (models.Network, error) {
			d.Boundary, d.SigmaData = models.AtZero, f.SigmaData
			if n, ok := f.Net.(*models.TrigNetwork); ok {
				return d.of(n.Model)
			}
			d.Form = Form{Type: TrigFlow}
			return f.Net, nil
		}, func(d Description, net models.Network) (*models.TrigConsistency, error) {
			return d.Form.Trig(net, d.SigmaData)
		}),

		turned(function{kind: Consistency}, func(f *models.Consistency, d *Description) (models.Network, error) {
			d.Boundary, d.SigmaData, d.SigmaMin = f.Boundary, f.SigmaData, f.SigmaMinimum()
			if p, ok := f.Net.(*models.Preconditioned); ok {
				return d.of(p.Model)
			}
			d.Form = Form{Type: EDM, Noise: f.Noise}
			return f.Net, nil
		}, func(d Description, net models.Network) (*models.Consistency, error) {
			return d.Form.Consistency(net, d.SigmaData, d.Boundary, d.SigmaMin)
		}),

		turned(function{kind: Trajectory, forms: []FormType{EDM}, jumps: true}, func(f *models.Trajectory, d *Description) (models.Network, error) {
			d.SigmaData, d.SigmaMin, d.Form = f.SigmaData, f.SigmaMinimum(), Form{Type: EDM, Noise: f.Noise}
			return f.Net, nil
		}, func(d Description, net models.Network) (*models.Trajectory, error) {
			return &models.Trajectory{Net: net, Noise: d.Form.Noise, SigmaData: d.SigmaData, SigmaMin: d.SigmaMin}, nil
		}),

		turned(function{kind: Trajectory, forms: []FormType{Flow}, jumps: true}, func(f *models.MeanFlow, d *Description) (models.Network, error) {
			d.Form = Form{Type: Flow, Scale: f.Scale, Interval: f.Interval}
			return f.Net, nil
		}, func(d Description, net models.Network) (*models.MeanFlow, error) {
			return &models.MeanFlow{Net: net, Scale: d.Form.Scale, Interval: d.Form.Interval}, nil
		}),

		turned(function{kind: Denoiser}, func(f models.Parameterisation, d *Description) (net models.Network, err error) {
			d.Form, net, d.SigmaData, err = formOf(f)
			return net, err
		}, func(d Description, net models.Network) (models.Parameterisation, error) {
			return d.Form.Denoiser(net, d.SigmaData)
		}),
	}
}

// of sets the form to that of p, the denoiser that a function is initialised from, and returns p's network.
func (d *Description) of(p models.Parameterisation) (net models.Network, err error) {
	d.Form, net, _, err = formOf(p)
	return net, err
}

// turned completes the entry of a type F.
func turned[F any](k function, describe func(f F, d *Description) (models.Network, error), build func(d Description, net models.Network) (F, error)) function {
	k.describe = func(f any, d *Description) (models.Network, bool, error) {
		own, ok := f.(F)
		if !ok {
			return nil, false, nil
		}
		d.Kind = k.kind
		net, err := describe(own, d)
		return net, true, err
	}
	k.build = func(d Description, net models.Network) (any, error) {
		f, err := build(d, net)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	return k
}

// describe fills in d for f, and returns f's network.
func describe(f any, d *Description) (models.Network, error) {
	for _, k := range functions() {
		if net, ok, err := k.describe(f, d); ok {
			return net, err
		}
	}
	return nil, fmt.Errorf("describe model: %w, got %T", ErrFunction, f)
}

// build returns the denoiser or consistency function that d describes, over net.
func build(d Description, net models.Network) (any, error) {
	var kinds, forms []string
	for _, k := range functions() {
		if name := fmt.Sprintf("%q", k.kind); !slices.Contains(kinds, name) {
			kinds = append(kinds, name)
		}
		switch {
		case k.kind != d.Kind:
			continue
		case k.jumps && !d.Network.Until():
			return nil, fmt.Errorf("kind: a %s needs a network that takes the end of a jump (until), and the %s does not", k.kind, d.Network.Name()) //quote: our own names
		case k.boundary != nil && *k.boundary != d.Boundary:
			continue
		case k.forms == nil || slices.Contains(k.forms, d.Form.Type):
			return k.build(d, net)
		}
		for _, f := range k.forms {
			forms = append(forms, string(f))
		}
	}
	if forms != nil {
		return nil, fmt.Errorf("form of a %s: want %s, got %s", quote.Text(d.Kind), strings.Join(forms, " or "), quote.Quoted(d.Form.Type)) //quote: our own names
	}
	last := len(kinds) - 1
	return nil, fmt.Errorf("kind: want %s or %s, got %s", strings.Join(kinds[:last], ", "), kinds[last], quote.Quoted(d.Kind)) //quote: our own names
}
