package models

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Check validates noise labels and conditions for a network that keeps its weights in st. The network has checked the samples x already;
// op names it in errors. c has to set all that the network takes, of in, and nothing else. Check is for networks without prompts: it rejects
// text features, sizes and ControlNet residuals. It panics with a *torch.Error.
func (c Cond) Check(op string, st *nn.Store, x, noise *torch.Tensor, in Inputs) {
	n := x.Dim(0)
	refuse := func(format string, args ...any) { panic(&torch.Error{Op: op, Msg: fmt.Sprintf(format, args...)}) }
	for _, given := range []struct {
		what string
		is   bool
	}{
		{"text features (Cond.Text)", c.Text != nil}, {"pooled text features (Cond.Pooled)", c.Pooled != nil}, {"sizes (Cond.Sizes)", c.Sizes != nil},
		{"residuals of ControlNets (Cond.Control)", c.Control != nil},
	} {
		if given.is {
			refuse("the network does not take %s", given.what)
		}
	}
	c.Adapters.CheckOpen(op)
	st.TakesLabels(op, "the noise labels", noise, n)
	for _, number := range []struct {
		one, all string
		takes    bool
		v        *torch.Tensor
	}{
		{"the end of a jump (Cond.Until)", "the ends of jumps (Cond.Until)", in.Until, c.Until},
		{"a guidance scale (Cond.Guidance)", "the guidance scales (Cond.Guidance)", in.Guidance, c.Guidance},
	} {
		switch {
		case number.v != nil && !number.takes:
			refuse("the network does not take %s", number.one)
		case number.v != nil:
			st.TakesLabels(op, number.all, number.v, n)
		case number.takes:
			refuse("the network needs %s for each sample", number.one)
		}
	}
	none, labels := "", in.Classes
	if in.Null {
		none, labels = fmt.Sprintf(", or %d for the null class", in.Classes), labels+1
	}
	switch {
	case c.Class != nil && in.Classes == 0:
		refuse("the network is unconditional: it does not take a class (Cond.Class)")
	case c.Class != nil:
		if c.Class.Device().IsCUDA() {
			labels = 0 // checking the values would make each step wait for the GPU
		}
		st.TakesIndices(op, "the classes (Cond.Class)", c.Class, labels)
		st.TakesLabels(op, "the classes (Cond.Class)", c.Class, n)
	case in.Classes > 0:
		refuse("the network is class-conditional: it needs a class (Cond.Class) for each sample%s", none)
	}
}

// checkLevels panics if samples x [B, ...] and noise levels t [B] are invalid.
func checkLevels(op string, x, t *torch.Tensor) {
	refuse := func(format string, args ...any) {
		panic(&torch.Error{Op: op, Msg: fmt.Sprintf(format, args...)})
	}
	switch {
	case x == nil || t == nil:
		refuse("want samples and noise levels, got nil")
	case !x.DType().IsFloat():
		refuse("want samples of a floating-point type, got %s; convert with To", x.DType())
	case x.NDim() == 0:
		refuse("want samples [B, ...], got a scalar")
	case t.NDim() != 1 || (t.NumEl() != 1 && t.NumEl() != x.Dim(0)):
		refuse("want one noise level for each of %d samples, [%d], or one for all, [1], got shape %v", x.Dim(0), x.Dim(0), t.Shape())
	case t.Device() != x.Device():
		refuse("want samples and noise levels on the same device, got %s and %s; move one with ToDevice", x.Device(), t.Device())
	}
}
