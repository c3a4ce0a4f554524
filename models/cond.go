package models

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Cond is a network's conditioning: all its inputs besides the samples and their noise level. The zero value is unconditional, in
// evaluation mode. A network panics on inputs that it does not take. Tensors have one row for each of the B samples.
type Cond struct {
	Class *torch.Tensor // [B] int64; nil: none
	// Until is the time at the end of a jump, for networks of two times: [B], in the form that the network embeds; nil: none.
	Until *torch.Tensor
	// Guidance is the guidance scale g of a guidance-distilled network, D_∅ + g·(D_c - D_∅), where 1 is no guidance: [B], or [1]
	// for all; nil: none. Networks of latent consistency models embed w = g - 1 (Luo et al. 2023). They subtract in float64, so that
	// a float64 scale is rounded only once, to w.
	Guidance *torch.Tensor

	Text   *torch.Tensor // [B, T, W], the text encoders' features of T tokens; nil: none
	Pooled *torch.Tensor // [B, P], the pooled text features; nil: none
	// Sizes is [B, K], in pixels: for Stable Diffusion XL the original height and width, the top and left of the crop, and the target
	// height and width; nil: none.
	Sizes   *torch.Tensor
	Control *Residuals // of ControlNets; nil: none

	// Adapters apply deltas to single layers in this call; nil: none. Adapters of layers that the network does not have are ignored.
	Adapters nn.Adapters
	Dropout  Dropout // where dropout masks come from; zero: no dropout, as in evaluation
	// Checkpointing is gradient checkpointing block by block: backward computes each block again instead of keeping its intermediate
	// results. Results and gradients are the same to the bit. Without gradients it has no effect. All networks of this library have it.
	Checkpointing bool
	// Precision is mixed precision: the half-precision type in which a network with float32 weights computes, torch.BFloat16 or
	// torch.Float16. Its weights are cast as its layers use them, and their gradients are float32. Samples and results, the embeddings of
	// noise levels, classes and scales, and the statistics of norms stay in float32. Float32: none. It has no effect on networks with
	// weights of another type, nor on those that do not support it.
	Precision torch.DType
}

// Computes returns the type in which a network with weights of type d computes: d, or in mixed precision [Cond.Precision].
func (c Cond) Computes(d torch.DType) torch.DType {
	if d == torch.Float32 && (c.Precision == torch.BFloat16 || c.Precision == torch.Float16) {
		return c.Precision
	}
	return d
}

// Residuals are a ControlNet's outputs (Zhang et al. 2023): Down is added to a U-Net's skip connections, from the largest resolution to
// the smallest, and Mid to the output of its middle block. All are [B, C, H, W]; nil: none.
type Residuals struct {
	Down []*torch.Tensor
	Mid  *torch.Tensor
}

// each returns r with f applied to its tensors.
func (r *Residuals) each(f func(t *torch.Tensor) *torch.Tensor) *Residuals {
	if r == nil {
		return nil
	}
	to := &Residuals{Down: make([]*torch.Tensor, len(r.Down))}
	if r.Down == nil {
		to.Down = nil
	}
	for i, t := range r.Down {
		to.Down[i] = f(t)
	}
	if r.Mid != nil {
		to.Mid = f(r.Mid)
	}
	return to
}

// field is one of the tensors that have one row for each sample.
type field struct {
	name string
	t    **torch.Tensor
}

func (c *Cond) fields() []field {
	return []field{
		{"Class", &c.Class}, {"Until", &c.Until}, {"Guidance", &c.Guidance}, {"Text", &c.Text}, {"Pooled", &c.Pooled}, {"Sizes", &c.Sizes},
	}
}

// Rows returns the conditions of the samples at the indices places [n] int64 of the batch. A single row for all samples is expanded
// to n rows.
func (c Cond) Rows(s *torch.Scope, places *torch.Tensor) Cond {
	rows := func(t *torch.Tensor) *torch.Tensor {
		switch {
		case t.NDim() == 0:
			return t
		case t.Dim(0) == 1:
			return expand(s, t, places.NumEl())
		}
		return t.IndexSelect(s, 0, places)
	}
	for _, f := range c.fields() {
		if *f.t != nil {
			*f.t = rows(*f.t)
		}
	}
	c.Control = c.Control.each(rows)
	return c
}

// expand returns t [1, ...] as [n, ...], and t [n, ...] unchanged.
func expand(s *torch.Scope, t *torch.Tensor, n int) *torch.Tensor {
	return t.Expand(s, append([]int{n}, t.Shape()[1:]...)...)
}

// Twice returns the conditions of a doubled batch of n samples, for classifier-free guidance in one call of a network: n unconditional
// rows, then n conditional ones. null is the unconditional input, with one row for all samples or one for each: the label of the null
// class, or the text and pooled features of the empty or negative prompt. Fields that are nil in null are c's in both halves, as are
// Control, Adapters and Dropout. It panics with a *torch.Error if null is empty, or sets a field that is nil in c.
func (c Cond) Twice(s *torch.Scope, null Cond, n int) Cond {
	c.needs(null)
	nulls := null.fields()
	for i, f := range c.fields() {
		none, some := *nulls[i].t, *f.t
		if some == nil {
			continue
		}
		if none == nil {
			none = some
		}
		*f.t = s.Tidy(func(s *torch.Scope) *torch.Tensor { return rowsOfBoth(s, f.name, none, some, n) })
	}
	c.Control = c.Control.each(func(t *torch.Tensor) *torch.Tensor { return torch.Cat(s, []*torch.Tensor{t, t}, 0) })
	return c
}

// needs panics if null, the unconditional input, is empty or sets a field that is nil in c.
func (c Cond) needs(null Cond) {
	if null.Empty() {
		refuseGuidance("%s", emptyNull)
	}
	nulls := null.fields()
	for i, f := range c.fields() {
		if *nulls[i].t != nil && *f.t == nil {
			refuseGuidance("Cond.%s is nil, but the null condition sets it: classifier-free guidance needs both; set it, or use the denoiser without guidance", f.name)
		}
	}
}

// Empty reports whether c has none of the tensors with one row for each sample.
func (c Cond) Empty() bool {
	return !slices.ContainsFunc(c.fields(), func(f field) bool { return *f.t != nil })
}

const emptyNull = "the null condition is empty: want the null class, or the text features of an empty or negative prompt"

// rowsOfBoth returns n rows of none, then n of some.
func rowsOfBoth(s *torch.Scope, name string, none, some *torch.Tensor, n int) *torch.Tensor {
	pair := []*torch.Tensor{none, some}
	for i, t := range pair {
		if t.NDim() == 0 {
			t = t.Reshape(s, 1)
		}
		if t.Dim(0) != 1 && t.Dim(0) != n {
			refuseGuidance("Cond.%s: want one row for each of %d samples, or one for all, got shape %v", name, n, t.Shape())
		}
		pair[i] = expand(s, t, n)
	}
	if a, b := pair[0].Shape()[1:], pair[1].Shape()[1:]; !slices.Equal(a, b) {
		refuseGuidance("Cond.%s: want rows of the same shape, got %v in the null condition and %v in the samples' condition", name, a, b)
	}
	pair[0] = pair[0].To(s, some.DType())
	return torch.Cat(s, pair, 0)
}

func refuseGuidance(format string, args ...any) {
	panic(&torch.Error{Op: "guidance", Msg: fmt.Sprintf(format, args...)})
}
