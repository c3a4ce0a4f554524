package blocks

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Level is the units of one resolution of a U-Net in pixel space, in one direction, and the resampling after them.
type Level struct {
	Units    []Unit
	Resample Resampler // nil: none
}

// Unit is a residual block and the attention after it, if any. With models.Cond.Checkpointing both are computed again for gradients.
type Unit struct {
	Residual  *Residual
	Attention *SelfAttention // or nil
}

// Resampler halves or doubles images x; emb is silu of the embedding, which not all take.
type Resampler interface {
	Forward(s *torch.Scope, x, emb *torch.Tensor, c models.Cond) *torch.Tensor
}

// Residuals are the residual blocks in the order of a forward pass.
func (l Level) Residuals() (all []*Residual) {
	for _, u := range l.Units {
		all = append(all, u.Residual)
	}
	if r, ok := l.Resample.(*Residual); ok {
		all = append(all, r)
	}
	return all
}

// Resize runs the resampling, which there has to be, after a level's units. With models.Cond.Checkpointing it is computed again for gradients.
func (l Level) Resize(s *torch.Scope, h, emb *torch.Tensor, c models.Cond) *torch.Tensor {
	return Checkpoint(s, c.Checkpointing, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
		return l.Resample.Forward(s, x[0], x[1], c)
	}, h, emb)
}

// Forward maps images x [n, in, h, w] to [n, out, h, w]; emb is as for [Residual.Forward].
func (u Unit) Forward(s *torch.Scope, x, emb *torch.Tensor, c models.Cond) *torch.Tensor {
	return Checkpoint(s, c.Checkpointing, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
		return u.compute(s, x[0], x[1], c)
	}, x, emb)
}

// Join is Forward of h and the skip connection, concatenated. It frees both.
func (u Unit) Join(s *torch.Scope, h, skip, emb *torch.Tensor, c models.Cond) *torch.Tensor {
	free := func() {
		h.Free()
		skip.Free()
	}
	own := !s.GradEnabled() // then they are freed as early as possible
	y := Checkpoint(s, c.Checkpointing, func(s *torch.Scope, x []*torch.Tensor) *torch.Tensor {
		both := torch.Cat(s, x[:2], 1)
		if own {
			free()
		}
		return Release(u.compute(s, both, x[2], c), both)
	}, h, skip, emb)
	free()
	return y
}

func (u Unit) compute(s *torch.Scope, x, emb *torch.Tensor, c models.Cond) *torch.Tensor {
	h := u.Residual.Forward(s, x, emb, c)
	if u.Attention == nil {
		return h
	}
	return Release(u.Attention.Forward(s, h, c.Adapters), h)
}

// shrink and grow are the resamplers that take no embedding.
type (
	shrink struct{ *Downsample }
	grow   struct{ *Upsample }
)

// NewShrink makes a [Downsample] as a level's resampling.
func NewShrink(p nn.Path, channels int, padAfter bool) Resampler {
	return shrink{NewDownsample(p, channels, padAfter)}
}

// NewGrow makes an [Upsample] as a level's resampling.
func NewGrow(p nn.Path, channels int) Resampler { return grow{NewUpsample(p, channels)} }

func (d shrink) Forward(s *torch.Scope, x, _ *torch.Tensor, c models.Cond) *torch.Tensor {
	return d.Downsample.Forward(s, x, c.Adapters)
}

func (u grow) Forward(s *torch.Scope, x, _ *torch.Tensor, c models.Cond) *torch.Tensor {
	return u.Double(s, x, c.Adapters)
}
