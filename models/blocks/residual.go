package blocks

import (
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Residual is the residual block of U-Nets and autoencoders (He et al. 2016; Ho et al. 2020; Rombach et al. 2022), diffusers' ResnetBlock2D:
//
//	h = conv1(resize(silu(norm1(x)))) + emb
//	y = scale·(shortcut(resize(x)) + conv2(dropout(silu(norm2(h)))))
//
// With ScaleShift the embedding modulates the second norm instead: norm2(h)·(1 + a) + b, for a and b from one layer (Dhariwal & Nichol 2021).
type Residual struct {
	Norm1, Norm2 nn.GroupNorm
	Conv1, Conv2 nn.Conv2D
	Emb          *nn.Linear // projection of the embedding; nil: the block takes no embedding
	Shortcut     *nn.Conv2D // nil: identity
	ResidualOptions
}

// ResidualOptions configure a residual block.
type ResidualOptions struct {
	GroupsIn, GroupsOut int // groups of the first and second group norm
	Eps                 float64
	Embedding           int // width of the embedding; 0: none
	ScaleShift          bool

	// Resize changes the image size, before the first convolution and on the shortcut; nil: no resizing. It returns a new tensor.
	Resize       func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
	ConvShortcut bool    // the shortcut is a 1×1 convolution even if the number of channels does not change
	Last         nn.Init // initialisation of the last convolution's weight, with bias 0; nil: PyTorch's
	Scale        float64 // factor of the sum; 0: 1

	Dropout float64 // dropout probability, applied if models.Cond.Dropout is set
	Place   int     // the dropout layer's number in its network: see models.Dropout
}

// NewResidual makes a block that maps images with in channels to images with out channels.
func NewResidual(p nn.Path, in, out int, o ResidualOptions) *Residual {
	r := &Residual{ResidualOptions: o}
	r.Norm1 = nn.NewGroupNorm(p.Sub("norm1"), o.GroupsIn, in, o.Eps)
	r.Conv1 = NewConv(p.Sub("conv1"), in, out, 3)
	if o.Embedding > 0 {
		width := out
		if o.ScaleShift {
			width = 2 * out
		}
		r.Emb = new(nn.NewLinear(p.Sub("time_emb_proj"), o.Embedding, width))
	}
	r.Norm2 = nn.NewGroupNorm(p.Sub("norm2"), o.GroupsOut, out, o.Eps)
	if o.Last != nil {
		r.Conv2 = nn.NewConv2DInit(p.Sub("conv2"), out, out, 3, torch.Conv2DOptions{Padding: 1}, o.Last, nn.Zeros)
	} else {
		r.Conv2 = NewConv(p.Sub("conv2"), out, out, 3)
	}
	if in != out || o.ConvShortcut {
		r.Shortcut = new(NewConv(p.Sub("conv_shortcut"), in, out, 1))
	}
	return r
}

// Forward maps images x [n, in, h, w] to [n, out, h', w']. emb [n or 1, Embedding] is silu of the embedding, nil for blocks without one;
// with images in half precision it may be in float32. Of c it uses Adapters and Dropout only.
func (r *Residual) Forward(s *torch.Scope, x, emb *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := r.Norm1.AdaptedSiLU(s, x, c.Adapters)
		if r.Resize != nil {
			h = Release(r.Resize(s, h), h)
		}
		h = Release(r.Conv1.Adapted(s, h, c.Adapters), h)
		var e *torch.Tensor
		if r.Emb != nil {
			e = r.Emb.Adapted(s, emb, c.Adapters).Unsqueeze(s, -1).Unsqueeze(s, -1)
		}
		if e != nil && !r.ScaleShift {
			h.AddInPlace(s, e.To(s, h.DType())) // no operator saved the convolution's result
		}
		if e != nil && r.ScaleShift {
			h = Release(r.Norm2.Adapted(s, h, c.Adapters), h)
			parts := e.Chunk(s, 2, 1)
			h = SiLU(s, h.Mul(s, parts[0].AddScalar(s, 1).To(s, h.DType())).Add(s, parts[1].To(s, h.DType())))
		} else {
			h = Release(r.Norm2.AdaptedSiLU(s, h, c.Adapters), h)
		}
		h = c.Dropout.Apply(s, h, r.Dropout, r.Place)
		h = Release(r.Conv2.Adapted(s, h, c.Adapters), h)
		skip := x
		if r.Resize != nil {
			skip = r.Resize(s, x)
		}
		if r.Shortcut != nil {
			skip = r.Shortcut.Adapted(s, skip, c.Adapters)
		}
		h.AddInPlace(s, skip)
		if r.Scale != 0 && r.Scale != 1 {
			h.MulScalarInPlace(s, r.Scale)
		}
		return h
	})
}
