package models

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Cond is a network's conditioning: all its inputs besides the samples and their noise level. The zero value is the unconditional
// case, in evaluation. A network refuses what it does not take. Tensors have a row for each of the B samples.
type Cond struct {
	Class *torch.Tensor // [B] int64; nil: none
	// Until is the end of a jump, for networks of two times: [B], in the form that the network embeds; nil: none.
	Until *torch.Tensor
	// Guidance is, for a guidance-distilled network, the scale g of classifier-free guidance, D_∅ + g·(D_c - D_∅), in which 1 is no
	// guidance: [B], or [1] for all; nil: none. Networks of latent consistency models embed w = g - 1 (Luo et al. 2023). They subtract in
	// float64, so that a float64 scale loses no bit before it is rounded to w.
	Guidance *torch.Tensor

	Text   *torch.Tensor // [B, T, W], the text encoders' features of T tokens; nil: none
	Pooled *torch.Tensor // [B, P], the pooled text features; nil: none
	// Sizes are [B, K] numbers in pixels; for Stable Diffusion XL heights and widths of the original image, of the corner that was
	// cropped off, and of the target image. nil: none.
	Sizes   *torch.Tensor
	Control *Residuals // of ControlNets; nil: none

	// Adapters change single layers in this call; nil: none. Those of layers that a network does not have do nothing there.
	Adapters nn.Adapters
	Dropout  Dropout // where dropout masks come from; zero: no dropout, as in evaluation
}

// Residuals are a ControlNet's outputs (Zhang et al. 2023): what is added to each skip connection of a U-Net, from the largest image to
// the smallest, and to the output of its middle block. All are [B, C, H, W]; nil: nothing.
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

// field is one of the tensors that have a row for each sample.
type field struct {
	name string
	t    **torch.Tensor
}

func (c *Cond) fields() []field {
	return []field{
		{"Class", &c.Class}, {"Until", &c.Until}, {"Guidance", &c.Guidance}, {"Text", &c.Text}, {"Pooled", &c.Pooled}, {"Sizes", &c.Sizes},
	}
}

// Rows returns the conditions of some samples, by their places [n] int64 in the batch. What has one row for all samples has one for
// each of these.
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

// expand returns t [1, ...] as [n, ...], and t [n, ...] as it is.
func expand(s *torch.Scope, t *torch.Tensor, n int) *torch.Tensor {
	return t.Expand(s, append([]int{n}, t.Shape()[1:]...)...)
}

// Twice returns the conditions of a batch of n samples that is there twice, for classifier-free guidance in one call of a network: first
// without what null replaces, then as c has it. null has what stands for no condition, as one row for all samples or a row for
// each: the label of no class, the text features and pooled features of the empty prompt. What null does not have is c's both times.
// Control, Adapters and Dropout are c's. It panics with a *torch.Error where null replaces nothing, or something that c does not have.
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

// needs panics where null, which stands for no condition, has nothing, or something that c does not have.
func (c Cond) needs(null Cond) {
	if null.empty() {
		refuseGuidance("%s", emptyNull)
	}
	nulls := null.fields()
	for i, f := range c.fields() {
		if *nulls[i].t != nil && *f.t == nil {
			refuseGuidance("there is no condition to guide to: Cond.%s is nil, but not that of the null condition; give it, or use the denoiser without guidance", f.name)
		}
	}
}

// empty tells whether c has none of the tensors with a row for each sample.
func (c Cond) empty() bool {
	return !slices.ContainsFunc(c.fields(), func(f field) bool { return *f.t != nil })
}

const emptyNull = "the null condition is empty: want a class, or text features, that stand for no condition"

// rowsOfBoth returns n rows of none, then n of some.
func rowsOfBoth(s *torch.Scope, name string, none, some *torch.Tensor, n int) *torch.Tensor {
	pair := []*torch.Tensor{none, some}
	for i, t := range pair {
		if t.NDim() == 0 {
			t = t.Reshape(s, 1)
		}
		if t.Dim(0) != 1 && t.Dim(0) != n {
			refuseGuidance("Cond.%s: want a row for each of %d samples, or one for all, got shape %v", name, n, t.Shape())
		}
		pair[i] = expand(s, t, n)
	}
	if a, b := pair[0].Shape()[1:], pair[1].Shape()[1:]; !slices.Equal(a, b) {
		refuseGuidance("Cond.%s: want rows of one shape, got %v for no condition and %v for the samples", name, a, b)
	}
	pair[0] = pair[0].To(s, some.DType())
	return torch.Cat(s, pair, 0)
}

func refuseGuidance(format string, args ...any) {
	panic(&torch.Error{Op: "guidance", Msg: fmt.Sprintf(format, args...)})
}
