package training

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// DTypeNamed returns the data type that options call f32, bf16 or f16.
func DTypeNamed(name string) (d torch.DType, ok bool) {
	switch name {
	case "f32":
		return torch.Float32, true
	case "bf16":
		return torch.BFloat16, true
	case "f16":
		return torch.Float16, true
	}
	return 0, false
}

// slowPrecision returns a notice about a type in which the device has no fast arithmetic, or "".
func (t *Trainer) slowPrecision() string {
	switch {
	case t.Device.IsCUDA():
	case t.Precision == torch.Float16:
		return "most CPUs have no fast float16 arithmetic: bfloat16 is faster, and needs no loss scaling"
	case t.Precision == torch.BFloat16 && !torch.Packs(torch.BFloat16):
		return "this CPU has no bfloat16 arithmetic: float32 is faster"
	}
	return ""
}

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

// weightsType returns the type of the weights that gradients pass through.
func (t *Trainer) weightsType() (d torch.DType, known bool) {
	net := networkOf(t.Objective)
	if net == nil {
		return 0, false
	}
	return models.DTypeOf(net)
}

// unscaled reports whether gradients pass through a network in float16 without loss scaling.
func (t *Trainer) unscaled() bool {
	d, known := t.weightsType()
	return t.LossScale == nil && known && models.Cond{Precision: t.Precision}.Computes(d) == torch.Float16
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
