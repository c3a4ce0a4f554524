package models

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Check is for networks, called op, that keep their weights in st: it makes sure that they can compute with noise labels and c for the
// samples x, which they have checked. labels is how many labels of classes the network has. What is missing in c is the network's
// matter. It is for networks without text, and refuses what goes with it. It panics with a *torch.Error.
func (c Cond) Check(op string, st *nn.Store, x, noise *torch.Tensor, labels int) {
	n := x.Dim(0)
	for _, given := range []struct {
		what string
		is   bool
	}{
		{"text features (Cond.Text)", c.Text != nil}, {"pooled text features (Cond.Pooled)", c.Pooled != nil}, {"sizes (Cond.Sizes)", c.Sizes != nil},
		{"residuals of ControlNets (Cond.Control)", c.Control != nil},
	} {
		if given.is {
			panic(&torch.Error{Op: op, Msg: "the network does not take " + given.what + ", but they were given"})
		}
	}
	c.Adapters.CheckOpen(op)
	st.TakesLabels(op, "the noise labels", noise, n)
	if c.Until != nil {
		st.TakesLabels(op, "the ends of jumps (Cond.Until)", c.Until, n)
	}
	if c.Guidance != nil {
		st.TakesLabels(op, "the guidance scales (Cond.Guidance)", c.Guidance, n)
	}
	if c.Class == nil || labels < 2 {
		return
	}
	below := labels
	if c.Class.Device().IsCUDA() {
		below = 0 // looking would make each step wait for the GPU
	}
	st.TakesIndices(op, "the classes (Cond.Class)", c.Class, below)
	st.TakesLabels(op, "the classes (Cond.Class)", c.Class, n)
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
