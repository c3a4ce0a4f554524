package texttoimage

import (
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
)

// masked encodes the masked image for an inpainting network. diffusers also does it for other networks without using it; since that draws
// noise, it is done here too.
func (net *network) masked(s *torch.Scope, f fixed, streams noise.Streams, n int) {
	if f.mask == nil {
		return
	}
	around := net.p.encode(s, f.masked, streams, n)
	if net.p.o.Model.Inpaints() {
		shape := f.mask.Shape()
		net.around = torch.Cat(s, []*torch.Tensor{f.mask.Expand(s, n, 1, shape[2], shape[3]), around}, 1)
	}
}

// blend replaces the latents outside the mask by those of the input image, noised to the level of the next step.
func (p *Plan) blend(s *torch.Scope, f fixed, run scheduler.Schedule, x, kept, z *torch.Tensor, i int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		outside := kept
		if i+1 < len(run.Timesteps()) {
			outside = run.AddNoise(s, kept, z, i+1)
		}
		keep := f.mask.Neg(s).AddScalar(s, 1)
		return keep.Mul(s, outside).Add(s, f.mask.Mul(s, x))
	})
}
