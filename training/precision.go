package training

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// networkOf returns the network that an objective's gradients pass through; nil if it is unknown.
func networkOf(o Objective) models.Network {
	switch o := o.(type) {
	case *CT:
		return ofConsistency(o.Model)
	case *CD:
		return ofConsistency(o.Model)
	case *ECT:
		return ofConsistency(o.Model)
	case *CTM:
		return o.Model.Net
	case *DDPM:
		return o.Model.Net
	case *EDM:
		return o.Model.Net
	case *FewStep:
		return o.Model.Model.Net
	case *Flow:
		return o.Model.Net
	case *LCD:
		return o.Model.Model.Net
	case *MeanFlow:
		return o.Model.Net
	case *PD:
		return o.Model.Net
	case *SCM:
		return o.Model.Net
	}
	return nil
}

func ofConsistency(m ConsistencyModel) models.Network {
	switch m := m.(type) {
	case *models.Consistency:
		return m.Net
	case *models.Latent:
		return m.Model.Net
	}
	return nil
}

// unscaled reports whether gradients pass through a network in float16 without loss scaling.
func (t *Trainer) unscaled() bool {
	net := networkOf(t.Objective)
	if t.LossScale != nil || net == nil {
		return false
	}
	d, known := models.DTypeOf(net)
	return known && d == torch.Float16
}

func isHalf(d torch.DType) bool { return d == torch.Float16 || d == torch.BFloat16 }

// halfParameters returns the name of a trained parameter in half precision, in which most updates would be rounded away.
func (t *Trainer) halfParameters() string {
	for name, p := range t.Model.Parameters() {
		if isHalf(p.DType()) {
			return name
		}
	}
	return ""
}
