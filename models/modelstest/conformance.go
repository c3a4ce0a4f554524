package modelstest

import (
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Expect is what a network is like, for Network and Consistency.
type Expect struct {
	Shape    []int   // of one sample, [C, H, W]
	Out      int     // channels of the result; 0: as many as the input has
	Classes  int     // 0: unconditional
	NoClass  bool    // the label Classes stands for no class
	Until    bool    // the network takes the end of a jump: models.Cond.Until
	Guidance bool    // the network takes a guidance scale: models.Cond.Guidance
	Text     []int   // the network takes text features, [T, W] for a sample: models.Cond.Text
	Pooled   int     // the network takes pooled text features, as many: models.Cond.Pooled
	Sizes    int     // the network takes sizes, as many: models.Cond.Sizes
	Dropout  bool    // the network drops out when it is given a stream
	Initial  float64 // the largest absolute output of initial weights, which is not 0; 0: any
}

// Made is a network with weights of its own.
type Made interface {
	models.Network
	Tensors() iter.Seq2[string, *torch.Tensor]
	Close()
}

// reporter is what a kit tells its findings: a *testing.T.
type reporter interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
}

// kit is a network under test.
type kit struct {
	t      reporter
	dev    torch.Device
	net    models.Network
	make   func(dtype torch.DType, seed uint64) (Made, error)
	clone  func() (Made, error) // nil: it has no clones
	expect Expect
}

var checks = []struct {
	name string
	run  func(k kit, s *torch.Scope)
}{
	{"initial weights", kit.initialWeights},
	{"shapes", kit.shapes},
	{"inputs", kit.inputs},
	{"inputs stay", kit.inputsStay},
	{"independence", kit.independence},
	{"modes", kit.modes},
	{"types", kit.types},
	{"memory format", kit.memoryFormat},
	{"dropout", kit.dropout},
	{"gradients", kit.gradients},
	{"derivative", kit.derivative},
	{"clone", kit.clones},
	{"refusals", kit.refusals},
	{"leaks", kit.leaks},
}

// Network runs the checks that every network has to pass, on a device: initial weights that follow from the seed, shapes, dependence on
// all inputs, which stay as they are, samples that do not see each other, equal results in all grad modes and memory formats, computing
// in the weights' type, dropout that repeats, gradients for every parameter, forward-mode derivatives, clones (of networks that have a method
// Clone), refusals, and no tensor left behind. make makes the network with the initial weights of a seed; Network fills its parameters with
// random values and returns it; it is closed at the test's end.
func Network[N Made](t *testing.T, dev torch.Device, make func(dev torch.Device, dtype torch.DType, seed uint64) (N, error), expect Expect) N {
	t.Helper()
	net, err := make(dev, torch.Float32, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	k := kit{t: t, dev: dev, net: net, expect: expect}
	k.make = func(dtype torch.DType, seed uint64) (Made, error) { return make(dev, dtype, seed) }
	if c, ok := any(net).(interface{ Clone() (N, error) }); ok {
		k.clone = func() (Made, error) { return c.Clone() }
	}
	k.run(func(k kit, s *torch.Scope) { k.fill(s, k.net) })
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			k := k
			k.t = t
			k.run(c.run)
		})
	}
	return net
}

func (k kit) run(check func(k kit, s *torch.Scope)) {
	k.t.Helper()
	if err := torch.Run(k.dev, func(s *torch.Scope) error { check(k, s); return nil }); err != nil {
		k.t.Errorf("%v", err)
	}
}

// fill gives every parameter values that let signals through, the same ones in each type: initial values are often near zero on purpose.
func (k kit) fill(s *torch.Scope, net models.Network) {
	g := torch.NewGenerator(s, 1)
	seen := map[string]bool{}
	for name, p := range net.Parameters() {
		if name == "" || seen[name] {
			k.t.Errorf("parameter name %q is empty or there twice", name)
		}
		seen[name] = true
		if !p.RequiresGrad() {
			k.t.Errorf("parameter %s does not collect gradients", name)
		}
		_ = s.NoGrad(func(s *torch.Scope) error {
			p.AddInPlace(s, torch.Randn(s, g, torch.Float32, p.Shape()...).MulScalar(s, 0.1).To(s, p.DType()))
			return nil
		})
	}
	if len(seen) == 0 {
		k.t.Errorf("the network has no parameters")
	}
}

const batch = 3

// input draws images, labels like ln(t)/4 and what else the network takes, the same ones every time.
func (k kit) input(s *torch.Scope) (x, noise *torch.Tensor, c models.Cond) {
	g := torch.NewGenerator(s, 2)
	x = torch.Randn(s, g, torch.Float32, append([]int{batch}, k.expect.Shape...)...)
	noise = torch.FromSlice(s, []float32{-1.5, 0.1, 1.1})
	for _, i := range k.conditions() {
		if i.takes {
			*i.of(&c) = i.value(s, g)
		}
	}
	return x, noise, c
}

// condition is one of the inputs besides image and noise label.
type condition struct {
	name  string
	takes bool // whether the network does
	of    func(c *models.Cond) **torch.Tensor
	value func(s *torch.Scope, g *torch.Generator) *torch.Tensor // one for each sample
}

// conditions are all of them, each with a value, also those that the network does not take.
func (k kit) conditions() []condition {
	e := k.expect
	numbers := func(v ...float32) func(*torch.Scope, *torch.Generator) *torch.Tensor {
		return func(s *torch.Scope, _ *torch.Generator) *torch.Tensor { return torch.FromSlice(s, v) }
	}
	random := func(dims ...int) func(*torch.Scope, *torch.Generator) *torch.Tensor {
		return func(s *torch.Scope, g *torch.Generator) *torch.Tensor {
			return torch.Randn(s, g, torch.Float32, append([]int{batch}, dims...)...)
		}
	}
	text := e.Text
	if text == nil {
		text = []int{2, 4}
	}
	return []condition{
		{"a class", e.Classes > 0, func(c *models.Cond) **torch.Tensor { return &c.Class }, func(s *torch.Scope, _ *torch.Generator) *torch.Tensor {
			return torch.FromSlice(s, []int64{0, int64(max(e.Classes, 1)) - 1, 0})
		}},
		{"an end of the jump", e.Until, func(c *models.Cond) **torch.Tensor { return &c.Until }, numbers(-1.55, -0.3, 0.9)},
		{"a guidance scale", e.Guidance, func(c *models.Cond) **torch.Tensor { return &c.Guidance }, numbers(1.5, 4, 7)},
		{"text features", e.Text != nil, func(c *models.Cond) **torch.Tensor { return &c.Text }, random(text...)},
		{"pooled text", e.Pooled > 0, func(c *models.Cond) **torch.Tensor { return &c.Pooled }, random(max(e.Pooled, 1))},
		{"sizes", e.Sizes > 0, func(c *models.Cond) **torch.Tensor { return &c.Sizes }, random(max(e.Sizes, 1))},
	}
}

// row returns the conditions of sample i.
func row(s *torch.Scope, c models.Cond, i int) models.Cond {
	return c.Rows(s, torch.FromSlice(s, []int64{int64(i)}))
}

// initialWeights: they are a function of the seed, and the network's output is as small as it should be.
func (k kit) initialWeights(s *torch.Scope) {
	weights := func(seed uint64) (all []float32) {
		k.fresh(torch.Float32, seed, func(net Made) {
			for _, p := range net.Tensors() {
				all = append(all, torch.ToSlice[float32](p.Detach(s).To(s, torch.Float32))...)
			}
			x, noise, c := k.input(s)
			if v := net.Forward(s, x, noise, c).Abs(s).Max(s).Item(); k.expect.Initial > 0 && !(v > 0 && v <= k.expect.Initial) {
				k.t.Errorf("the initial output reaches %g, want more than 0 and at most %g", v, k.expect.Initial)
			}
		})
		return all
	}
	three := weights(3)
	if !slices.Equal(three, weights(3)) {
		k.t.Errorf("two networks of the same seed have different weights")
	}
	if slices.Equal(three, weights(4)) {
		k.t.Errorf("networks of different seeds have the same weights")
	}
}

// fresh calls f with a new network.
func (k kit) fresh(dtype torch.DType, seed uint64, f func(net Made)) {
	net, err := k.make(dtype, seed)
	if err != nil {
		k.t.Errorf("%v: %v", dtype, err)
		return
	}
	defer net.Close()
	f(net)
}

func (k kit) shapes(s *torch.Scope) {
	x, noise, c := k.input(s)
	y := k.net.Forward(s, x, noise, c)
	want := x.Shape()
	if k.expect.Out > 0 {
		want[1] = k.expect.Out
	}
	if got := y.Shape(); !slices.Equal(got, want) {
		k.t.Errorf("got shape %v, want %v", got, want)
	}
	if y.DType() != torch.Float32 {
		k.t.Errorf("got %v, want float32", y.DType())
	}
	if y.IsFinite(s).All(s).Item() == 0 {
		k.t.Errorf("the result has values that are not finite")
	}
	one := k.net.Forward(s, x.Narrow(s, 0, 0, 1), noise.Narrow(s, 0, 0, 1), row(s, c, 0))
	if one.Dim(0) != 1 {
		k.t.Errorf("a batch of 1 gives a batch of %d", one.Dim(0))
	}
}

// distance is the largest difference of two results, relative to the first one's largest element.
func distance(s *torch.Scope, a, b *torch.Tensor) float64 {
	return b.Sub(s, a).Abs(s).Max(s).Item() / a.Abs(s).Max(s).Item()
}

const (
	same      = 2e-5 // float32 sums in another order
	different = 1e-4
)

func (k kit) inputs(s *torch.Scope) {
	x, noise, c := k.input(s)
	y := k.net.Forward(s, x, noise, c)
	if d := distance(s, y, k.net.Forward(s, x, noise, c)); d != 0 {
		k.t.Errorf("the same call twice differs by %g", d)
	}
	if d := distance(s, y, k.net.Forward(s, x.MulScalar(s, 0.5), noise, c)); d < different {
		k.t.Errorf("another image makes a difference of %g only", d)
	}
	if d := distance(s, y, k.net.Forward(s, x, noise.AddScalar(s, 0.5), c)); d < different {
		k.t.Errorf("another noise label makes a difference of %g only", d)
	}
	for _, i := range k.conditions() {
		if !i.takes || k.expect.Classes == 1 && i.name == "a class" {
			continue
		}
		other := c
		if v := *i.of(&c); v.DType().IsFloat() {
			*i.of(&other) = v.SubScalar(s, 0.5)
		} else {
			*i.of(&other) = torch.FromSlice(s, []int64{1, 0, 1})
		}
		if d := distance(s, y, k.net.Forward(s, x, noise, other)); d < different {
			k.t.Errorf("%s that differs makes a difference of %g only", i.name, d)
		}
	}
	if k.expect.Until && k.expect.Guidance {
		other := c
		other.Until, other.Guidance = c.Guidance, c.Until
		if d := distance(s, y, k.net.Forward(s, x, noise, other)); d < different {
			k.t.Errorf("until and guidance swapped make a difference of %g only", d)
		}
	}
	if k.expect.NoClass {
		n := int64(k.expect.Classes)
		other := c
		other.Class = torch.FromSlice(s, []int64{n, n, n})
		if d := distance(s, y, k.net.Forward(s, x, noise, other)); d < different {
			k.t.Errorf("no class makes a difference of %g only", d)
		}
	}
}

// inputsStay: nothing is computed in the memory of what the caller passes, which forward-mode derivatives forbid too.
func (k kit) inputsStay(s *torch.Scope) {
	x, noise, c := k.input(s)
	given := map[string]*torch.Tensor{"the image": x, "the noise label": noise}
	for _, i := range k.conditions() {
		if i.takes {
			given[i.name] = *i.of(&c)
		}
	}
	before := map[string]*torch.Tensor{}
	for name, v := range given {
		before[name] = v.Clone(s)
	}
	c.Dropout = torch.NewGenerator(s, 5)
	for mode, run := range map[string]func(func(*torch.Scope) error) error{"recording": s.Run, "no grad": s.NoGrad, "inference": s.Inference} {
		if err := run(func(s *torch.Scope) error { k.net.Forward(s, x, noise, c); return nil }); err != nil {
			k.t.Errorf("%s: %v", mode, err)
		}
		for name, v := range given {
			if v.Sub(s, before[name]).Abs(s).Max(s).Item() != 0 {
				k.t.Errorf("%s: %s has changed", mode, name)
			}
		}
	}
}

func (k kit) independence(s *torch.Scope) {
	x, noise, c := k.input(s)
	all := k.net.Forward(s, x, noise, c)
	for i := range batch {
		alone := k.net.Forward(s, x.Narrow(s, 0, i, 1), noise.Narrow(s, 0, i, 1), row(s, c, i))
		if d := distance(s, all.Narrow(s, 0, i, 1), alone); d > same {
			k.t.Errorf("sample %d alone differs from the same in a batch by %g", i, d)
		}
	}
}

func (k kit) modes(s *torch.Scope) {
	x, noise, c := k.input(s)
	y := k.net.Forward(s, x, noise, c)
	if !y.RequiresGrad() {
		k.t.Errorf("the result does not record gradients")
	}
	for name, mode := range map[string]func(func(*torch.Scope) error) error{"no grad": s.NoGrad, "inference": s.Inference} {
		if err := mode(func(s *torch.Scope) error {
			got := k.net.Forward(s, x, noise, c)
			if d := distance(s, y, got); d > same {
				k.t.Errorf("%s: differs by %g", name, d)
			}
			if got.RequiresGrad() {
				k.t.Errorf("%s: the result records gradients", name)
			}
			return nil
		}); err != nil {
			k.t.Errorf("%s: %v", name, err)
		}
	}
	if got := k.net.Forward(s, x, noise.To(s, torch.Float64), c); got.DType() != torch.Float32 || distance(s, y, got) > 1e-4 {
		k.t.Errorf("a float64 noise label gives %v, different by %g", got.DType(), distance(s, y, got))
	}
}

// types: the network computes in the type of its weights. Its result differs from float64's by that type's rounding, not more and not less.
func (k kit) types(s *torch.Scope) {
	x, noise, c := k.input(s)
	var exact *torch.Tensor
	for _, d := range []struct {
		dtype  torch.DType
		lo, hi float64
	}{{torch.Float64, 0, 0}, {torch.Float32, 1e-9, 1e-5}, {torch.BFloat16, 1e-4, 1e-1}} {
		k.fresh(d.dtype, 1, func(net Made) {
			k.fill(s, net)
			told := c
			for _, v := range []**torch.Tensor{&told.Text, &told.Pooled} {
				if *v != nil {
					*v = (*v).To(s, d.dtype)
				}
			}
			y := net.Forward(s, x.To(s, d.dtype), noise, told)
			if y.DType() != d.dtype {
				k.t.Errorf("%v weights give %v", d.dtype, y.DType())
			}
			y = y.To(s, torch.Float64)
			if exact == nil {
				exact = y
			}
			diff := distance(s, exact, y)
			k.t.Logf("%v: %.2g", d.dtype, diff)
			if !(diff >= d.lo && diff <= d.hi) {
				k.t.Errorf("%v: the result is off by %.2g, want %g to %g", d.dtype, diff, d.lo, d.hi)
			}
		})
	}
}

func (k kit) memoryFormat(s *torch.Scope) {
	x, noise, c := k.input(s)
	y := k.net.Forward(s, x, noise, c)
	if !y.IsContiguous() {
		k.t.Errorf("a contiguous image gives strides %v", y.Strides())
	}
	if x.NDim() != 4 {
		return
	}
	last := k.net.Forward(s, x.ChannelsLast(s), noise, c)
	if d := distance(s, y, last); d > same {
		k.t.Errorf("channels last: differs by %g", d)
	}
	if !last.IsChannelsLast() {
		k.t.Errorf("a channels-last image gives strides %v", last.Strides())
	}
}

func (k kit) dropout(s *torch.Scope) {
	x, noise, c := k.input(s)
	y := k.net.Forward(s, x, noise, c)
	run := func(seed uint64) *torch.Tensor {
		c := c
		c.Dropout = torch.NewGenerator(s, seed)
		return k.net.Forward(s, x, noise, c)
	}
	a := run(5)
	if d := distance(s, a, run(5)); d != 0 {
		k.t.Errorf("two passes with the same stream differ by %g", d)
	}
	switch d, e := distance(s, y, a), distance(s, a, run(6)); {
	case k.expect.Dropout && (d < different || e < different):
		k.t.Errorf("dropout makes a difference of %g, another stream of %g", d, e)
	case !k.expect.Dropout && d != 0:
		k.t.Errorf("a network without dropout changes by %g with a stream", d)
	}
}

func (k kit) gradients(s *torch.Scope) {
	x, noise, c := k.input(s)
	x.SetRequiresGrad(true)
	y := k.net.Forward(s, x, noise, c)
	weight := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, y.Shape()...)
	y.Mul(s, weight).Sum(s).Backward()
	check := func(name string, p *torch.Tensor) {
		g := p.Grad(s)
		switch {
		case g == nil:
			k.t.Errorf("%s has no gradient", name)
		case g.IsFinite(s).All(s).Item() == 0:
			k.t.Errorf("the gradient of %s is not finite", name)
		case g.Abs(s).Max(s).Item() == 0:
			k.t.Errorf("the gradient of %s is zero", name)
		}
	}
	check("the image", x)
	for name, p := range k.net.Parameters() {
		check(name, p)
		p.ZeroGrad()
	}
}

// derivative: forward-mode derivatives, in a direction of image and all labels, with dropout, are central differences of fourth
// order in float64. With h = 1e-4, rounding (some 1e-16/h) and the step (h⁴ times the fifth derivative) leave about 1e-11 of the derivative; the
// tolerance is 1e-8 of its norm. Directions add up, also those in which the image, or nothing but the image, stays.
func (k kit) derivative(s *torch.Scope) {
	k.fresh(torch.Float64, 1, func(net Made) {
		k.fill(s, net)
		g := torch.NewGenerator(s, 3)
		x, noise, c := k.input(s)
		xs := []*torch.Tensor{x.To(s, torch.Float64), noise.To(s, torch.Float64)}
		var moving []condition
		for _, i := range k.conditions() {
			if i.takes && (*i.of(&c)).DType().IsFloat() {
				xs, moving = append(xs, (*i.of(&c)).To(s, torch.Float64)), append(moving, i)
			}
		}
		var vs []*torch.Tensor
		for _, x := range xs {
			vs = append(vs, torch.Randn(s, g, torch.Float64, x.Shape()...))
		}
		f := func(s *torch.Scope, xs []*torch.Tensor) *torch.Tensor {
			told := c
			for n, i := range moving {
				*i.of(&told) = xs[2+n]
			}
			if k.expect.Dropout {
				told.Dropout = torch.NewGenerator(s, 5) // the same masks at every call
			}
			return net.Forward(s, xs[0], xs[1], told)
		}
		off := func(got, want *torch.Tensor) float64 {
			return got.Detach(s).Sub(s, want.Detach(s)).Norm(s).Item() / want.Detach(s).Norm(s).Item()
		}
		within := func(what string, got, want *torch.Tensor, most float64) {
			d := off(got, want)
			k.t.Logf("%s: relative difference %.2g", what, d)
			if !(d <= most) {
				k.t.Errorf("%s: relative difference %.2g, want at most %g", what, d, most)
			}
		}
		y, dy := torch.JVP(s, f, xs, vs)
		if err := s.NoGrad(func(s *torch.Scope) error {
			within("the function beside its derivative", y, f(s, xs), 1e-13)
			const h = 1e-4
			moved := func(d float64) *torch.Tensor {
				to := make([]*torch.Tensor, len(xs))
				for i, x := range xs {
					to[i] = x.Add(s, vs[i].MulScalar(s, d))
				}
				return f(s, to)
			}
			near, far := moved(h).Sub(s, moved(-h)), moved(2*h).Sub(s, moved(-2*h))
			within("central differences", dy, near.MulScalar(s, 8).Sub(s, far).DivScalar(s, 12*h), 1e-8)
			_, plain := torch.JVP(s, f, xs, vs)
			within("without gradients", plain, dy, 1e-12)
			sum := torch.ZerosLike(s, plain)
			for i := range xs {
				one := make([]*torch.Tensor, len(xs))
				one[i] = vs[i]
				_, part := torch.JVP(s, f, xs, one)
				sum.AddInPlace(s, part)
			}
			within("one input at a time", sum, plain, 1e-12)
			return nil
		}); err != nil {
			k.t.Errorf("%v", err)
		}
		y.Square(s).Mean(s).Backward()
		for name, p := range net.Parameters() {
			if !p.HasGrad() || p.Grad(s).Abs(s).Max(s).Item() == 0 {
				k.t.Errorf("%s has no gradient beside a derivative", name)
			}
		}
	})
}

// clones compute the same, have weights of their own, collect no gradients, and can take averages of the network's weights.
func (k kit) clones(s *torch.Scope) {
	if k.clone == nil {
		return
	}
	twin, err := k.clone()
	if err != nil {
		k.t.Errorf("%v", err)
		return
	}
	defer twin.Close()
	x, noise, c := k.input(s)
	y := k.net.Forward(s, x, noise, c).Detach(s)
	got := twin.Forward(s, x, noise, c)
	if got.RequiresGrad() {
		k.t.Errorf("a clone's result records gradients")
	}
	if d := distance(s, y, got); d != 0 {
		k.t.Errorf("a clone's result differs by %g", d)
	}
	e, err := models.NewEMA(twin.Parameters(), k.net.Parameters())
	if err != nil {
		k.t.Errorf("%v", err)
		return
	}
	if err := s.NoGrad(func(s *torch.Scope) error {
		var values []*torch.Tensor
		for _, p := range k.net.Parameters() {
			values = append(values, p.Clone(s))
			p.FillInPlace(s, 0)
		}
		if d := distance(s, y, twin.Forward(s, x, noise, c)); d != 0 {
			k.t.Errorf("a clone's result changes by %g with the network's weights", d)
		}
		e.Update(s, 0)
		for name, p := range twin.Parameters() {
			if p.Abs(s).Max(s).Item() != 0 {
				k.t.Errorf("an average does not reach a clone's %s", name)
			}
		}
		i := 0
		for _, p := range k.net.Parameters() {
			p.CopyFrom(s, values[i])
			i++
		}
		return nil
	}); err != nil {
		k.t.Errorf("%v", err)
	}
}

// refusals: wrong conditions are errors, not wrong images.
func (k kit) refusals(s *torch.Scope) {
	x, noise, c := k.input(s)
	for _, i := range k.conditions() {
		other := c
		if i.takes {
			*i.of(&other) = nil
		} else {
			*i.of(&other) = i.value(s, torch.NewGenerator(s, 2))
		}
		k.refuses(s, i.name+", missing or superfluous,", x, noise, other)
	}
	wrong := append([]int{batch, k.expect.Shape[0] + 1}, k.expect.Shape[1:]...)
	k.refuses(s, "another number of channels", torch.Zeros(s, torch.Float32, wrong...), noise, c)
}

func (k kit) refuses(s *torch.Scope, what string, x, noise *torch.Tensor, c models.Cond) {
	err := s.Run(func(s *torch.Scope) error { k.net.Forward(s, x, noise, c); return nil })
	var e *torch.Error
	if !errors.As(err, &e) {
		k.t.Errorf("%s: got %v, want a *torch.Error", what, err)
	}
}

func (k kit) leaks(s *torch.Scope) {
	x, noise, c := k.input(s)
	for name, mode := range map[string]func(func(*torch.Scope) error) error{"recording": s.Run, "no grad": s.NoGrad, "inference": s.Inference} {
		if err := mode(func(s *torch.Scope) error {
			before := torch.Live()
			k.net.Forward(s, x, noise, c)
			if n := torch.Live() - before; n != 1 {
				k.t.Errorf("%s: a pass leaves %d tensors in the caller's scope, want the result alone", name, n)
			}
			return nil
		}); err != nil {
			k.t.Errorf("%s: %v", name, err)
		}
	}
}

// Consistency runs the checks that every consistency function has to pass: f(x, epsilon) is x in every bit, results have
// the input's shape and are finite from epsilon to 80, and gradients flow to the image. A boundary at 0 is epsilon 0.
func Consistency(t *testing.T, dev torch.Device, f models.ConsistencyFunction, epsilon float64, expect Expect) {
	t.Helper()
	kit{t: t, dev: dev, expect: expect}.run(func(k kit, s *torch.Scope) {
		x, _, c := k.input(s)
		for _, d := range []torch.DType{torch.Float32, torch.Float64} {
			t0 := torch.Full(s, epsilon, d, batch)
			if !slices.Equal(torch.ToSlice[float32](f.Origin(s, x, t0, c)), torch.ToSlice[float32](x)) {
				t.Errorf("f(x, %g) with %v levels is not x", epsilon, d)
			}
		}
		x.SetRequiresGrad(true)
		levels := torch.FromSlice(s, []float32{float32(epsilon), 0.7, 80})
		y := f.Origin(s, x.Mul(s, levels.AddScalar(s, 1).PerSample(s, x.NDim())), levels, c)
		if !slices.Equal(y.Shape(), x.Shape()) {
			t.Errorf("got shape %v, want %v", y.Shape(), x.Shape())
		}
		y.Square(s).Sum(s).Backward()
		if y.IsFinite(s).All(s).Item() == 0 || x.Grad(s).IsFinite(s).All(s).Item() == 0 {
			t.Error("values or gradients are not finite")
		}
	})
}
