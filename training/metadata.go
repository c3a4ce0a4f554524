package training

import (
	"errors"

	"github.com/onestep-go/onestep/models/checkpoint"
)

// metadata returns a snapshot's metadata for a model that a method has trained; nil for a type that is not registered.
func metadata(f any, method string, sigmaMax float64, step int, images int64, levels ...float64) (map[string]string, error) {
	d, err := checkpoint.Describe(f)
	if errors.Is(err, checkpoint.ErrNetwork) || errors.Is(err, checkpoint.ErrFunction) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d.Levels, d.Method, d.SigmaMax, d.Step, d.Images = levels, method, sigmaMax, step, images
	return d.Metadata()
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (c *SCM) Metadata(step int, images int64) (map[string]string, error) {
	method := "sct"
	if c.Teacher != nil {
		method = "scd"
	}
	return metadata(c.Model, method, 80, step, images)
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (c *CTM) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(c.Model, "ctm", c.withDefaults().SigmaMax, step, images)
}

// Metadata describes a snapshot's model, so that package checkpoint can read it; nothing for a network of the user's own.
func (f *MeanFlow) Metadata(step int, images int64) (map[string]string, error) {
	return metadata(f.Model, "meanflow", 80, step, images)
}

// Metadata describes a snapshot's model, with the levels that its student is for, so that package checkpoint can read it; nothing
// for a network of the user's own.
func (p *PD) Metadata(step int, images int64) (map[string]string, error) {
	levels := p.Levels(max(0, step-1))
	return metadata(p.Model, "pd", p.withDefaults().SigmaMax, step, images, levels[:len(levels)-1]...)
}
