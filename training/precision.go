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

// networked is an [Objective] that names the network which its gradients pass through; nil: it is unknown.
type networked interface{ network() models.Network }

func (c *CT) network() models.Network       { return ofConsistency(c.Model) }
func (e *ECT) network() models.Network      { return ofConsistency(e.Model) }
func (c *CTM) network() models.Network      { return c.Model.Net }
func (d *DDPM) network() models.Network     { return d.Model.Net }
func (e *EDM) network() models.Network      { return e.Model.Net }
func (f *FewStep) network() models.Network  { return f.Model.Model.Net }
func (f *Flow) network() models.Network     { return f.Model.Net }
func (c *LCD) network() models.Network      { return c.Model.Model.Net }
func (f *MeanFlow) network() models.Network { return f.Model.Net }
func (p *PD) network() models.Network       { return p.Model.Net }
func (c *SCM) network() models.Network      { return c.Model.Net }
func (f *SoFlow) network() models.Network   { return f.Model.Net }

func (c *CMT) network() models.Network {
	if c.Jumps != nil {
		return c.Jumps.Net
	}
	return ofConsistency(c.Model)
}

func (m *MultistepCM) network() models.Network {
	if d, ok := m.Model.(*models.EDM); ok {
		return d.Net
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
	if o, ok := t.Objective.(networked); ok {
		if net := o.network(); net != nil {
			return models.DTypeOf(net)
		}
	}
	return 0, false
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
