package modelstest

import (
	"bytes"
	"errors"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// initialWeights: initial weights depend on the seed alone, and the network's output is within its limit.
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
	same      = 2e-5 // float32 sums in a different order
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

// inputsStay: inputs are not modified in place, which forward-mode derivatives forbid too.
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
	c.Dropout = models.DropoutFrom(5)
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

// types: the network computes in the type of its weights. Its result differs from float64's by the rounding of that type, no more and no
// less.
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
			for _, i := range k.conditions() {
				if v := i.of(&told); i.takes && i.features {
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

// mixed: with Cond.Precision a network with float32 weights computes in half precision. Its result and the gradients of all parameters are
// float32, and differ from those of float32 by the rounding of that type, no more and no less. Checkpointing changes no bit.
func (k kit) mixed(s *torch.Scope) {
	x, noise, c := k.input(s)
	weight := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, k.net.Forward(s, x, noise, c).Shape()...)
	run := func(c models.Cond) (y, slope *torch.Tensor) {
		y = k.net.Forward(s, x, noise, c)
		if y.DType() != torch.Float32 {
			k.t.Errorf("%v: got a result in %v, want float32", c.Precision, y.DType())
		}
		y.Mul(s, weight).Sum(s).Backward()
		var all []*torch.Tensor
		for name, p := range k.net.Parameters() {
			g := p.Grad(s)
			p.ZeroGrad()
			switch {
			case g == nil:
				k.t.Errorf("%v: %s has no gradient", c.Precision, name)
				continue
			case g.DType() != torch.Float32:
				k.t.Errorf("%v: the gradient of %s is in %v, want float32", c.Precision, name, g.DType())
			}
			all = append(all, g.Flatten(s, 0, -1))
		}
		return y.Detach(s), torch.Cat(s, all, 0)
	}
	off := func(got, want *torch.Tensor) float64 { return got.Sub(s, want).Norm(s).Item() / want.Norm(s).Item() }
	exact, slope := run(c)
	for _, d := range []struct {
		dtype  torch.DType
		lo, hi float64
		slope  float64
	}{{torch.BFloat16, 1e-4, 5e-2, 1e-1}, {torch.Float16, 1e-5, 8e-3, 2e-2}} {
		c.Precision = d.dtype
		c.Checkpointing = false
		y, got := run(c)
		if of := off(y, exact); !(of >= d.lo && of <= d.hi) {
			k.t.Errorf("%v: the result differs by %.2g, want %g to %g", d.dtype, of, d.lo, d.hi)
		}
		if of := off(got, slope); !(of >= d.lo && of <= d.slope) {
			k.t.Errorf("%v: the gradients differ by %.2g, want %g to %g", d.dtype, of, d.lo, d.slope)
		}
		k.t.Logf("%v: result %.2g, gradients %.2g", d.dtype, off(y, exact), off(got, slope))
		if again, same := run(c); off(again, y) != 0 || off(same, got) != 0 {
			k.t.Errorf("%v: the same call twice differs by %.2g, its gradients by %.2g", d.dtype, off(again, y), off(same, got))
		}
		c.Checkpointing = true
		if again, same := run(c); off(again, y) != 0 || off(same, got) != 0 {
			k.t.Errorf("%v: checkpointing changes the result by %.2g and the gradients by %.2g", d.dtype, off(again, y), off(same, got))
		}
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
		c.Dropout = models.DropoutFrom(seed)
		return k.net.Forward(s, x, noise, c)
	}
	a := run(5)
	if d := distance(s, a, run(5)); d != 0 {
		k.t.Errorf("two passes with the same seed differ by %g", d)
	}
	switch d, e := distance(s, y, a), distance(s, a, run(6)); {
	case k.expect.Dropout && (d < different || e < different):
		k.t.Errorf("dropout makes a difference of %g, another seed of %g", d, e)
	case !k.expect.Dropout && d != 0:
		k.t.Errorf("a network without dropout changes by %g with a seed", d)
	}
}

// recomputed: a forward pass that is recomputed in the backward pass draws the same dropout masks, so that gradients are the same to the
// bit.
func (k kit) recomputed(s *torch.Scope) {
	x, noise, c := k.input(s)
	c.Dropout = models.DropoutFrom(5)
	pass := func(s *torch.Scope, in []*torch.Tensor) []*torch.Tensor {
		return []*torch.Tensor{k.net.Forward(s, in[0], noise, c)}
	}
	gradients := func(y *torch.Tensor) map[string]*torch.Tensor {
		weight := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, y.Shape()...)
		y.Mul(s, weight).Sum(s).Backward()
		found := map[string]*torch.Tensor{}
		for name, p := range k.net.Parameters() {
			if g := p.Grad(s); g != nil {
				found[name] = g.Clone(s)
			}
			p.ZeroGrad()
		}
		return found
	}
	kept := pass(s, []*torch.Tensor{x})[0]
	want := gradients(kept)
	again := torch.Checkpoint(s, pass, x)[0]
	if d := distance(s, kept, again); d > same { // the first run is without gradients, for which some kernels sum in a different order
		k.t.Errorf("a pass without its intermediate results differs by %g", d)
	}
	got := gradients(again)
	for name, g := range want {
		if got[name] == nil || g.Sub(s, got[name]).Abs(s).Max(s).Item() != 0 {
			k.t.Errorf("%s has another gradient when the pass is recomputed", name)
		}
	}
}

// checkpointing changes neither results nor gradients, to the bit.
func (k kit) checkpointing(s *torch.Scope) {
	x, noise, c := k.input(s)
	x.SetRequiresGrad(true)
	c.Dropout = models.DropoutFrom(5)
	pass := func(on bool) (results map[string][]byte) {
		err := s.Run(func(s *torch.Scope) error {
			c := c
			c.Checkpointing = on
			y := k.net.Forward(s, x, noise, c)
			results = map[string][]byte{"the result": y.Detach(s).Contiguous(s).ToDevice(s, torch.CPU).Bytes()}
			weight := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, y.Shape()...)
			y.Mul(s, weight).Sum(s).Backward()
			take := func(name string, p *torch.Tensor) {
				if g := p.Grad(s); g != nil {
					results["the gradient of "+name] = g.Contiguous(s).ToDevice(s, torch.CPU).Bytes()
				}
				p.ZeroGrad()
			}
			take("the samples", x)
			for name, p := range k.net.Parameters() {
				take(name, p)
			}
			return nil
		})
		if err != nil {
			k.t.Errorf("%v", err)
		}
		return results
	}
	want, got := pass(false), pass(true)
	for name, v := range want {
		if !bytes.Equal(got[name], v) {
			k.t.Errorf("%s is another with checkpointing", name)
		}
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

// derivative: forward-mode derivatives with respect to image and all labels, with dropout, agree with central differences of fourth
// order in float64. With h = 1e-4, rounding (about 1e-16/h) and truncation (h⁴ times the fifth derivative) give an error of about 1e-11 of
// the derivative; the tolerance is 1e-8 of its norm. The derivative is linear in the direction, also in directions that change only the
// image, or all but the image.
func (k kit) derivative(s *torch.Scope) {
	k.fresh(torch.Float64, 1, func(net Made) {
		k.fill(s, net)
		g := torch.NewGenerator(s, 3)
		x, noise, c := k.input(s)
		xs := []*torch.Tensor{x.To(s, torch.Float64)}
		var moving []condition
		if !k.expect.Float32Labels {
			xs = append(xs, noise.To(s, torch.Float64))
		}
		labels := len(xs)
		for _, i := range k.conditions() {
			if v := i.of(&c); i.takes && (*v).DType().IsFloat() {
				*v = (*v).To(s, torch.Float64)
				if i.features || !k.expect.Float32Labels {
					xs, moving = append(xs, *v), append(moving, i)
				}
			}
		}
		var vs []*torch.Tensor
		for _, x := range xs {
			vs = append(vs, torch.Randn(s, g, torch.Float64, x.Shape()...))
		}
		f := func(s *torch.Scope, xs []*torch.Tensor) *torch.Tensor {
			told, at := c, noise
			if labels == 2 {
				at = xs[1]
			}
			for n, i := range moving {
				*i.of(&told) = xs[labels+n]
			}
			if k.expect.Dropout {
				told.Dropout = models.DropoutFrom(5) // the same masks at every call
			}
			return net.Forward(s, xs[0], at, told)
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
			within("the value computed with its derivative", y, f(s, xs), 1e-13)
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
				k.t.Errorf("%s has no gradient when a derivative is computed", name)
			}
		}
	})
}

// clones: a clone computes the same, has weights of its own that do not require gradients, and can hold EMA weights of the network.
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
				k.t.Errorf("an EMA update does not reach a clone's %s", name)
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

// refusals: missing and unexpected conditions are errors.
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
