package modelstest

import (
	"errors"
	"slices"
	"testing"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Expect is what a network is like, for Network and Consistency.
type Expect struct {
	Shape    []int // of one sample, [C, H, W]
	Out      int   // channels of the result; 0: as many as the input has
	Classes  int   // 0: unconditional
	Until    bool  // the network is told the end of a jump: models.Cond.Until
	Guidance bool  // the network is told a guidance scale: models.Cond.Guidance
	Dropout  bool  // the network drops out when it is given a stream
}

// reporter is what a kit tells its findings: a *testing.T.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
}

// kit is a network under test.
type kit struct {
	t      reporter
	net    models.Network
	expect Expect
}

var checks = []struct {
	name string
	run  func(k kit, s *torch.Scope)
}{
	{"shapes", kit.shapes},
	{"inputs", kit.inputs},
	{"independence", kit.independence},
	{"modes", kit.modes},
	{"memory format", kit.memoryFormat},
	{"dropout", kit.dropout},
	{"gradients", kit.gradients},
	{"refusals", kit.refusals},
	{"leaks", kit.leaks},
}

// Network runs the checks that every models.Network has to pass: shapes, dependence on all inputs, samples that do not
// see each other, equal results in all grad modes and memory formats, dropout that repeats, gradients for every parameter,
// refusals, and no tensor left behind. It fills the parameters with random values.
func Network(t *testing.T, net models.Network, expect Expect) {
	t.Helper()
	kit{t, net, expect}.run(kit.fill)
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { kit{t, net, expect}.run(c.run) })
	}
}

func (k kit) run(check func(k kit, s *torch.Scope)) {
	k.t.Helper()
	if err := torch.Run(torch.CPU, func(s *torch.Scope) error { check(k, s); return nil }); err != nil {
		k.t.Errorf("%v", err)
	}
}

// fill gives every parameter values that let signals through: initial values are often near zero on purpose.
func (k kit) fill(s *torch.Scope) {
	g := torch.NewGenerator(s, 1)
	seen := map[string]bool{}
	for name, p := range k.net.Parameters() {
		if name == "" || seen[name] {
			k.t.Errorf("parameter name %q is empty or there twice", name)
		}
		seen[name] = true
		if !p.RequiresGrad() {
			k.t.Errorf("parameter %s does not collect gradients", name)
		}
		_ = s.NoGrad(func(s *torch.Scope) error {
			p.AddInPlace(s, torch.Randn(s, g, p.DType(), p.Shape()...).MulScalar(s, 0.1))
			return nil
		})
	}
	if len(seen) == 0 {
		k.t.Errorf("the network has no parameters")
	}
}

const batch = 3

// input draws images, labels like ln(t)/4 and what else the network is told, the same ones every time.
func (k kit) input(s *torch.Scope) (x, noise *torch.Tensor, c models.Cond) {
	g := torch.NewGenerator(s, 2)
	x = torch.Randn(s, g, torch.Float32, append([]int{batch}, k.expect.Shape...)...)
	noise = torch.FromSlice(s, []float32{-1.5, 0.1, 1.1})
	if k.expect.Classes > 0 {
		c.Class = torch.FromSlice(s, []int64{0, int64(k.expect.Classes) - 1, 0})
	}
	if k.expect.Until {
		c.Until = torch.FromSlice(s, []float32{-1.55, -0.3, 0.9})
	}
	if k.expect.Guidance {
		c.Guidance = torch.FromSlice(s, []float32{1.5, 4, 7})
	}
	return x, noise, c
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

// row returns what the network is told of sample i.
func row(s *torch.Scope, c models.Cond, i int) models.Cond {
	for _, v := range []**torch.Tensor{&c.Class, &c.Until, &c.Guidance} {
		if *v != nil {
			*v = (*v).Narrow(s, 0, i, 1)
		}
	}
	return c
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
	if k.expect.Classes > 1 {
		other := c
		other.Class = torch.FromSlice(s, []int64{1, 0, 1})
		if d := distance(s, y, k.net.Forward(s, x, noise, other)); d < different {
			k.t.Errorf("another class makes a difference of %g only", d)
		}
	}
	if k.expect.Until {
		other := c
		other.Until = c.Until.SubScalar(s, 0.5)
		if d := distance(s, y, k.net.Forward(s, x, noise, other)); d < different {
			k.t.Errorf("another end of the jump makes a difference of %g only", d)
		}
	}
	if k.expect.Guidance {
		other := c
		other.Guidance = c.Guidance.AddScalar(s, 1)
		if d := distance(s, y, k.net.Forward(s, x, noise, other)); d < different {
			k.t.Errorf("another guidance scale makes a difference of %g only", d)
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

// refusals: wrong conditions are errors, not wrong pictures.
func (k kit) refusals(s *torch.Scope) {
	x, noise, c := k.input(s)
	if k.expect.Classes > 0 {
		c.Class = nil
	} else {
		c.Class = torch.FromSlice(s, []int64{0, 0, 0})
	}
	k.refuses(s, "a missing or superfluous class", x, noise, c)
	for _, label := range []struct {
		what  string
		takes bool
		of    func(c *models.Cond) **torch.Tensor
	}{
		{"a missing or superfluous end of the jump", k.expect.Until, func(c *models.Cond) **torch.Tensor { return &c.Until }},
		{"a missing or superfluous guidance scale", k.expect.Guidance, func(c *models.Cond) **torch.Tensor { return &c.Guidance }},
	} {
		_, _, c = k.input(s)
		*label.of(&c) = nil
		if !label.takes {
			*label.of(&c) = noise
		}
		k.refuses(s, label.what, x, noise, c)
	}
	_, _, c = k.input(s)
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
func Consistency(t *testing.T, f models.ConsistencyFunction, epsilon float64, expect Expect) {
	t.Helper()
	kit{t: t, expect: expect}.run(func(k kit, s *torch.Scope) {
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
