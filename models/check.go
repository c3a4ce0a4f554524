package models

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Takes tells which conditions a network takes; it needs each of them, too.
type Takes struct {
	Classes         int  // how many; 0: none
	NoClass         bool // the label Classes stands for no class
	Until, Guidance bool
}

// Check is for networks, called op, that keep their weights in st: it makes sure that they can compute with noise labels and c for the
// samples x, which they have checked, and that c has what the network takes, and no more. It is for networks without text, and refuses what
// goes with it. It panics with a *torch.Error.
func (c Cond) Check(op string, st *nn.Store, x, noise *torch.Tensor, takes Takes) {
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
			refuse("the network does not take %s, but they were given", given.what)
		}
	}
	c.Adapters.CheckOpen(op)
	st.TakesLabels(op, "the noise labels", noise, n)
	for _, number := range []struct {
		one, all string
		takes    bool
		v        *torch.Tensor
	}{
		{"an end of the jump (Cond.Until)", "the ends of jumps (Cond.Until)", takes.Until, c.Until},
		{"a guidance scale (Cond.Guidance)", "the guidance scales (Cond.Guidance)", takes.Guidance, c.Guidance},
	} {
		switch {
		case number.v != nil && !number.takes:
			refuse("the network does not take %s, but one was given", number.one)
		case number.v != nil:
			st.TakesLabels(op, number.all, number.v, n)
		case number.takes:
			refuse("the network needs %s for each sample", number.one)
		}
	}
	none, labels := "", takes.Classes
	if takes.NoClass {
		none, labels = fmt.Sprintf(", or %d for none", takes.Classes), labels+1
	}
	switch {
	case c.Class != nil && takes.Classes == 0:
		refuse("the network has no classes, but a class was given (Cond.Class)")
	case c.Class != nil:
		if c.Class.Device().IsCUDA() {
			labels = 0 // looking would make each step wait for the GPU
		}
		st.TakesIndices(op, "the classes (Cond.Class)", c.Class, labels)
		st.TakesLabels(op, "the classes (Cond.Class)", c.Class, n)
	case takes.Classes > 0:
		refuse("the network is conditional: it needs a class (Cond.Class) for each sample%s", none)
	}
}

// checkLevels panics where samples x [B, ...] and noise levels t [B] are none, with what to do.
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
		refuse("want samples [B, ...], got a single number")
	case t.NDim() != 1 || (t.NumEl() != 1 && t.NumEl() != x.Dim(0)):
		refuse("want one noise level for each of %d samples, [%d], or one for all, [1], got shape %v", x.Dim(0), x.Dim(0), t.Shape())
	case t.Device() != x.Device():
		refuse("want samples and noise levels on the same device, got %s and %s; move one with ToDevice", x.Device(), t.Device())
	}
}
