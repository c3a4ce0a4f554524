package models

import (
	"iter"

	"github.com/onestep-go/onestep/torch"
)

// VE turns a network of the variance-exploding process (Song et al. 2021) into a denoiser. It takes the noisy data as they are, and the
// logarithm of the noise level, and predicts the noise's negative, σ times the score:
//
//	D = x + σ·F(x, ln(Scale·σ))
//
// Scale is 1 for NCSN++ as diffusers has it, whose UNet2DModel itself takes the logarithm of σ and divides its prediction by σ, and 1/2 for
// the preconditioning of that name in Karras et al. 2022, table 1.
type VE struct {
	Net   Network
	Scale float64 // 0: 1
}

// Parameters yields the network's parameters.
func (d *VE) Parameters() iter.Seq2[string, *torch.Tensor] { return d.Net.Parameters() }

func (d *VE) network() Network { return d.Net }

func (d *VE) form(s *torch.Scope, t *torch.Tensor) form {
	one := torch.Ones(s, torch.Float64, 1)
	return form{skip: one, out: t, in: one, label: t.MulScalar(s, orOne(d.Scale)).ClampMin(s, leastLevel).Log(s)}
}

// Denoise returns D(x; t) for x [B, ...] at noise levels t [B].
func (d *VE) Denoise(s *torch.Scope, x, t *torch.Tensor, c Cond) *torch.Tensor {
	return denoise(s, d, x, t, c)
}

// Validate reports a missing network and values out of range.
func (d *VE) Validate() error {
	if err := validNetwork("ve", d.Net); err != nil {
		return err
	}
	return validScale("ve", d.Scale)
}
