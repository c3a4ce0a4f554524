package modelstest

import (
	"iter"
	"slices"
	"testing"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Expect describes the network under test, for Network and Consistency.
type Expect struct {
	Shape    []int // of one sample, [C, H, W]
	Out      int   // channels of the result; 0: as many as the input has
	Classes  int   // 0: unconditional
	NoClass  bool  // the label Classes is the null class
	Until    bool  // the network takes the end of a jump: models.Cond.Until
	Guidance bool  // the network takes a guidance scale: models.Cond.Guidance
	Text     []int // shape [T, W] of a sample's text features, models.Cond.Text; nil: the network takes none
	Pooled   int   // number of pooled text features, models.Cond.Pooled; 0: the network takes none
	Sizes    int   // number of sizes, models.Cond.Sizes; 0: the network takes none
	// Float32Labels is for a network that always embeds its labels in float32, so that derivatives with respect to them are not compared.
	Float32Labels bool
	Dropout       bool    // the network has dropout
	Initial       float64 // limit of the absolute output with initial weights, which must not be 0; 0: no limit
}

// Made is a network with weights of its own.
type Made interface {
	models.Network
	Tensors() iter.Seq2[string, *torch.Tensor]
	Close()
}

// reporter is the part of *testing.T that a kit uses.
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
	clone  func() (Made, error) // nil: the network has no method Clone
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
	{"mixed precision", kit.mixed},
	{"memory format", kit.memoryFormat},
	{"dropout", kit.dropout},
	{"recomputed", kit.recomputed},
	{"checkpointing", kit.checkpointing},
	{"gradients", kit.gradients},
	{"derivative", kit.derivative},
	{"clone", kit.clones},
	{"refusals", kit.refusals},
	{"leaks", kit.leaks},
}

// Network runs the conformance suite that every network has to pass, on a device. It checks:
//
//   - initial weights that depend on the seed alone, and output shapes
//   - dependence on all inputs, which are not modified, and independence of the samples in a batch
//   - equal results in all grad modes and memory formats, and computation in the weights' type, or in mixed precision
//   - dropout that is reproducible by its seed, including in recomputation for gradients
//   - the same results and gradients with gradient checkpointing (Cond.Checkpointing)
//   - gradients of every parameter, and forward-mode derivatives
//   - clones, if the network has a method Clone
//   - errors for wrong inputs, and no leaked tensors
//
// make returns a network with the initial weights of a seed. Network fills its parameters with random values and returns it; it is closed
// at the end of the test.
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

// fill adds random values to every parameter, the same ones in each type, since initial values are often near zero on purpose.
func (k kit) fill(s *torch.Scope, net models.Network) {
	g := torch.NewGenerator(s, 1)
	seen := map[string]bool{}
	for name, p := range net.Parameters() {
		if name == "" || seen[name] {
			k.t.Errorf("parameter name %q is empty or duplicate", name)
		}
		seen[name] = true
		if !p.RequiresGrad() {
			k.t.Errorf("parameter %s does not require gradients", name)
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

// input draws images, labels like ln(t)/4 and the other inputs that the network takes, the same ones every time.
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

// condition is one of the conditioning inputs besides image and noise label.
type condition struct {
	name     string
	takes    bool // whether the network takes it
	features bool // it is the output of another network, in the type of the weights
	of       func(c *models.Cond) **torch.Tensor
	value    func(s *torch.Scope, g *torch.Generator) *torch.Tensor // one for each sample
}

// conditions are all conditioning inputs with values, including those that the network does not take.
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
		{"a class", e.Classes > 0, false, func(c *models.Cond) **torch.Tensor { return &c.Class }, func(s *torch.Scope, _ *torch.Generator) *torch.Tensor {
			return torch.FromSlice(s, []int64{0, int64(max(e.Classes, 1)) - 1, 0})
		}},
		{"the end of a jump", e.Until, false, func(c *models.Cond) **torch.Tensor { return &c.Until }, numbers(-1.55, -0.3, 0.9)},
		{"a guidance scale", e.Guidance, false, func(c *models.Cond) **torch.Tensor { return &c.Guidance }, numbers(1.5, 4, 7)},
		{"text features", e.Text != nil, true, func(c *models.Cond) **torch.Tensor { return &c.Text }, random(text...)},
		{"pooled text", e.Pooled > 0, true, func(c *models.Cond) **torch.Tensor { return &c.Pooled }, random(max(e.Pooled, 1))},
		{"sizes", e.Sizes > 0, false, func(c *models.Cond) **torch.Tensor { return &c.Sizes }, random(max(e.Sizes, 1))},
	}
}

// row returns the conditions of sample i.
func row(s *torch.Scope, c models.Cond, i int) models.Cond {
	return c.Rows(s, torch.FromSlice(s, []int64{int64(i)}))
}

// Consistency runs the checks that every consistency function has to pass: f(x, epsilon) is x to the bit, results have
// the input's shape and are finite from epsilon to 80, and gradients flow to the image. For a boundary at 0, epsilon is 0.
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
