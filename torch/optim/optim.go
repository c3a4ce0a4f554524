package optim

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Zero stands for a setting of exactly 0 in fields whose zero value means a default: Adam{Beta1: Zero} has no momentum.
const Zero = -1

// Group is a parameter group with its own settings.
type Group struct {
	Params iter.Seq2[string, *torch.Tensor]
	// LR is the group's learning rate; 0: the optimizer's. [Optimizer.SetLR] scales it, so that the ratio of the two stays.
	LR float64
	// WeightDecay is the group's weight decay; 0: the optimizer's, [Zero]: none.
	WeightDecay float64
}

// Optimizer updates parameters by their gradients. It owns its state (moments and step counts) until Close, but not the
// parameters. It is not safe for concurrent use.
type Optimizer struct {
	name   string // of its rule, for errors
	rule   rule
	scope  *torch.Scope // of the state
	params []*param
	base   float64 // the configured learning rate
	lr     float64
}

// rule is an optimizer's update rule.
type rule interface {
	// slots names the state tensors of each parameter.
	slots() []string
	// update updates parameters and state in place.
	update(s *torch.Scope, b *batch)
}

// param is a parameter with its state.
type param struct {
	name        string
	t           *torch.Tensor
	dtype       torch.DType
	device      torch.Device
	shape       []int
	strides     []int
	dense       bool    // without gaps in memory
	lr          float64 // as configured
	weightDecay float64
	steps       int             // updates so far
	state       []*torch.Tensor // by slot; nil before the first update
}

// batch is a set of parameters that one kernel call can update: of one dtype and device, with the same settings and the same
// number of updates.
type batch struct {
	key
	params, grads []*torch.Tensor
	state         [][]*torch.Tensor // by slot, in the order of params
	owners        []*param
}

type key struct {
	dtype           torch.DType
	device          torch.Device
	lr, weightDecay float64
	step            int  // step of this update, from 1
	fused           bool // parameters, gradients and state have the same dense memory layout
}

// settings are a rule's learning rate and weight decay with defaults filled in.
type settings struct{ lr, weightDecay float64 }

func newOptimizer(name string, r rule, c settings, groups []Group) (*Optimizer, error) {
	o := &Optimizer{name: name, rule: r, base: c.lr, lr: c.lr}
	names, tensors := map[string]bool{}, map[*torch.Tensor]string{}
	for i, g := range groups {
		if err := fill(name, field{"LR", &g.LR, c.lr}, field{"WeightDecay", &g.WeightDecay, c.weightDecay}); err != nil {
			return nil, fmt.Errorf("group %d: %w", i, err)
		}
		if c.lr == 0 && g.LR != 0 {
			return nil, fmt.Errorf("%s: group %d has the learning rate %g, the optimizer has 0: their ratio is undefined", name, i, g.LR)
		}
		if g.Params == nil {
			return nil, fmt.Errorf("%s: group %d has no Params", name, i)
		}
		for key, t := range g.Params {
			if names[key] {
				return nil, fmt.Errorf("%s: two parameters are named %q", name, key)
			}
			if other, ok := tensors[t]; ok {
				return nil, fmt.Errorf("%s: %q and %q are the same tensor", name, other, key)
			}
			if t == nil || t.Freed() {
				return nil, fmt.Errorf("%s: parameter %q is nil or was freed", name, key)
			}
			if d := t.DType(); !d.IsFloat() {
				return nil, fmt.Errorf("%s: parameter %q is %s, want a floating-point type", name, key, d)
			}
			names[key], tensors[t] = true, key
			p := &param{
				name: key, t: t, dtype: t.DType(), device: t.Device(), shape: t.Shape(), strides: t.Strides(),
				lr: g.LR, weightDecay: g.WeightDecay,
			}
			p.dense = dense(p.shape, p.strides)
			o.params = append(o.params, p)
		}
	}
	if len(o.params) == 0 {
		return nil, fmt.Errorf("%s: there are no parameters to train", name)
	}
	o.scope = torch.NewScope(o.params[0].device)
	return o, nil
}

// field is a setting whose zero value means a default.
type field struct {
	name string
	v    *float64
	def  float64
}

// fill sets defaults and checks that settings are finite and not negative.
func fill(rule string, fields ...field) error {
	for _, f := range fields {
		switch v := *f.v; {
		case v == 0:
			*f.v = f.def
		case v == Zero:
			*f.v = 0
		case !(v > 0) || math.IsInf(v, 1):
			return fmt.Errorf("%s: %s is %g, want a finite number above 0, or optim.Zero", rule, f.name, v)
		}
	}
	return nil
}

// Step updates every parameter that has a gradient; other parameters and their state are unchanged. Temporary tensors in s
// are freed before it returns. It panics with a [*torch.Error] like operators do: call it inside a scope's Run.
func (o *Optimizer) Step(s *torch.Scope) {
	o.check()
	s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		for _, b := range o.batches(s) {
			o.rule.update(s, b)
			for _, p := range b.owners {
				p.steps = b.step
			}
		}
		return nil
	})
}

// check panics with a more helpful message than an operator would.
func (o *Optimizer) check() {
	if o.scope.Closed() {
		panic(&torch.Error{Op: "optim." + o.name, Msg: "the optimizer was closed, which freed its state; close it only after training", Err: torch.ErrFreed})
	}
	for _, p := range o.params {
		if p.t.Freed() {
			panic(&torch.Error{Op: "optim." + o.name, Msg: fmt.Sprintf("the parameter %s was freed; close the network only after training", p.name), Err: torch.ErrFreed})
		}
	}
}

// batches groups the parameters that have gradients, and makes the state of those updated for the first time.
func (o *Optimizer) batches(s *torch.Scope) []*batch {
	slots := len(o.rule.slots())
	byKey := map[key]*batch{}
	var list []*batch
	for _, p := range o.params {
		g := p.t.Grad(s)
		if g == nil {
			continue
		}
		if p.state == nil {
			p.state = o.newState(p)
		}
		k := key{p.dtype, p.device, o.rate(p), p.weightDecay, p.steps + 1, p.alike(g)}
		b := byKey[k]
		if b == nil {
			b = &batch{key: k, state: make([][]*torch.Tensor, slots)}
			byKey[k] = b
			list = append(list, b)
		}
		b.params, b.grads, b.owners = append(b.params, p.t), append(b.grads, g), append(b.owners, p)
		for i, t := range p.state {
			b.state[i] = append(b.state[i], t)
		}
	}
	return list
}

func (o *Optimizer) newState(p *param) []*torch.Tensor {
	state := make([]*torch.Tensor, len(o.rule.slots()))
	for i := range state {
		state[i] = torch.ZerosLike(o.scope, p.t)
	}
	return state
}

// alike reports whether parameter and gradient have the same dense memory layout, as the fused kernels assume. The state of
// a dense parameter has the parameter's layout.
func (p *param) alike(g *torch.Tensor) bool {
	if !p.dense || g.DType() != p.dtype {
		return false
	}
	for i, v := range g.Strides() {
		if p.shape[i] != 1 && v != p.strides[i] {
			return false
		}
	}
	return true
}

// dense reports whether elements with these strides fill a block of memory without gaps and overlaps. Strides of dimensions
// of size 1 are ignored.
func dense(shape, strides []int) bool {
	dims := make([]int, 0, len(shape))
	for i, n := range shape {
		if n != 1 {
			dims = append(dims, i)
		}
	}
	slices.SortFunc(dims, func(a, b int) int { return strides[a] - strides[b] })
	next := 1
	for _, i := range dims {
		if strides[i] != next {
			return false
		}
		next *= shape[i]
	}
	return true
}

// rate is a parameter's current learning rate.
func (o *Optimizer) rate(p *param) float64 {
	if p.lr == o.base {
		return o.lr
	}
	return p.lr * (o.lr / o.base)
}

// ZeroGrad removes all gradients and frees their memory, like PyTorch's zero_grad.
func (o *Optimizer) ZeroGrad() {
	for _, p := range o.params {
		p.t.ZeroGrad()
	}
}

// SetLR sets the learning rate of the next steps. Groups with their own rate keep their ratio to it. It panics with
// a [*torch.Error] when lr is negative or not finite.
func (o *Optimizer) SetLR(lr float64) {
	if !(lr >= 0) || math.IsInf(lr, 1) {
		panic(&torch.Error{Op: "optim." + o.name, Msg: fmt.Sprintf("the learning rate is %g, want a finite number, 0 or above", lr)})
	}
	o.lr = lr
}

// LR returns the learning rate of the next step for groups without their own.
func (o *Optimizer) LR() float64 { return o.lr }

// Close frees the state. The parameters stay.
func (o *Optimizer) Close() { o.scope.Close() }

// byName returns the parameters sorted by name, which does not depend on groups.
func (o *Optimizer) byName() []*param {
	m := make(map[string]*param, len(o.params))
	for _, p := range o.params {
		m[p.name] = p
	}
	list := make([]*param, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, m[name])
	}
	return list
}

// one is a single group of all parameters with the optimizer's settings.
func one(params iter.Seq2[string, *torch.Tensor]) []Group { return []Group{{Params: params}} }
