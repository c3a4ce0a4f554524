package generate

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
)

// Guided returns the denoiser with classifier-free guidance of that scale, 0 or 1 for none, with the network's null class as
// the unconditional prediction. The denoiser of a network with a guidance embedding is returned unchanged: see [Request.Cond].
func Guided(d models.Denoiser, c network.Config, scale float64) (models.Denoiser, error) {
	switch {
	case scale == 0 || scale == 1 || c.Guidance():
		return d, nil
	case c.Classes() == 0:
		return nil, refuse("Guidance", "the denoiser is not class-conditional")
	case c.NullClass() < 0:
		return nil, refuse("Guidance", "the denoiser was not trained without classes: train it with label dropout, such as 0.1")
	}
	return guidedByClass{d, c.NullClass(), scale}, nil
}

// guidedByClass is models.Guided with the null condition as a label instead of a tensor.
type guidedByClass struct {
	model models.Denoiser
	null  int
	scale float64
}

func (g guidedByClass) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		null := models.Cond{Class: torch.FromSlice(s, []int64{int64(g.null)})}
		return (&models.Guided{Model: g.model, Null: null, Scale: g.scale}).Denoise(s, x, t, c)
	})
}
