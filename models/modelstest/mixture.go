package modelstest

import (
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Component is one Gaussian of a mixture.
type Component struct {
	Weight    float64 // relative to the other components' weights; 0: 1
	Mean, Std float64 // Std above 0
}

// Axis is a mixture of Gaussians in one dimension. With noise of standard deviation t it is the mixture with the variances Std² + t².
// In one dimension the probability-flow ODE preserves the order of points, and with it the cumulative distribution function F:
//
//	F_u(x(u)) = F_t(x(t))        f(x, t) = F_ε⁻¹(F_t(x))
type Axis []Component

// Grid is an axis with three narrow modes, at -0.6, 0 and 0.6 with standard deviation 0.1. Its own standard deviation is 0.5.
func Grid() Axis { return Axis{{Mean: -0.6, Std: 0.1}, {Std: 0.1}, {Mean: 0.6, Std: 0.1}} }

// Validate reports invalid components.
func (a Axis) Validate() error {
	if len(a) == 0 {
		return fmt.Errorf("mixture: want at least one component")
	}
	for i, c := range a {
		if !(c.Weight >= 0 && c.Std > 0) || math.IsInf(c.Weight+c.Std, 1) || math.IsNaN(c.Mean) || math.IsInf(c.Mean, 0) {
			return fmt.Errorf("mixture: component %d: want a weight above 0, or 0 for 1, a finite mean and a standard deviation above 0, got %+v", i, c)
		}
	}
	return nil
}

// sorted returns the components by ascending mean, with weights that add up to 1.
func (a Axis) sorted() Axis {
	if err := a.Validate(); err != nil {
		panic(&torch.Error{Op: "mixture", Msg: err.Error()})
	}
	b := slices.Clone(a)
	sum := 0.0
	for i := range b {
		if b[i].Weight == 0 {
			b[i].Weight = 1
		}
		sum += b[i].Weight
	}
	for i := range b {
		b[i].Weight /= sum
	}
	slices.SortFunc(b, func(p, q Component) int {
		switch {
		case p.Mean < q.Mean:
			return -1
		case p.Mean > q.Mean:
			return 1
		}
		return 0
	})
	return b
}

// Density returns the probability density at noise level t.
func (a Axis) Density(x, t float64) float64 { return math.Exp(a.sorted().logDensity(x, t)) }

func (a Axis) logDensity(x, t float64) float64 {
	return logSum(a, func(c Component) float64 {
		s := math.Hypot(c.Std, t)
		z := (x - c.Mean) / s
		return -z*z/2 - math.Log(s*math.Sqrt(2*math.Pi))
	})
}

// CDF returns the cumulative distribution function F at noise level t.
func (a Axis) CDF(x, t float64) float64 { f, _ := a.sorted().excess(0, x, t); return math.Exp(f) }

// Denoise returns D(x; t), the posterior mean.
func (a Axis) Denoise(x, t float64) float64 {
	b := a.sorted()
	all := b.logDensity(x, t)
	mean := 0.0
	for _, c := range b {
		part := math.Exp(Axis{c}.logDensity(x, t) - all)
		mean += part * (c.Mean + (x-c.Mean)*c.Std*c.Std/(c.Std*c.Std+t*t))
	}
	return mean
}

// Move returns the point at level to on the trajectory through x at noise level t: F_to⁻¹(F_t(x)). Levels are at least 0.
func (a Axis) Move(x, t, to float64) float64 { return a.sorted().move(x, t, to) }

func (a Axis) move(x, t, to float64) float64 {
	if t == to || math.IsNaN(x) || math.IsInf(x, 0) {
		return x
	}
	// With one component alone the result would be m + (x - m)·s_to/s_t, where its own F is the same. The mixture's point lies
	// between the lowest and the highest of these.
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, c := range a {
		u := Gaussian{Mean: c.Mean, Std: c.Std}.Move(x, t, to)
		lo, hi = min(lo, u), max(hi, u)
	}
	// F is compared by its difference from the nearest of its plateaus between the modes, or from 0 or 1. On a plateau F hardly
	// changes, and only the difference distinguishes points.
	nearest, want := 0, math.Inf(1)
	for j := range len(a) + 1 {
		if v, _ := a.deviation(j, x, t); math.Abs(v) < math.Abs(want) {
			nearest, want = j, v
		}
	}
	want, _ = a.excess(nearest, x, t)
	// Newton's method inside the bracket; bisection if a step leaves it or the bracket shrinks slowly.
	u, last := lo+(hi-lo)/2, hi-lo
	for range 200 {
		got, slope := a.excess(nearest, u, to)
		if got < want {
			lo = u
		} else {
			hi = u
		}
		step := (want - got) / slope
		if got == want || math.Abs(step) <= 2e-16*math.Abs(u)+1e-18 {
			return u
		}
		if next := u + step; !(next > lo && next < hi) || math.Abs(step) > last/2 {
			step = lo + (hi-lo)/2 - u
		}
		if u+step == u {
			return u
		}
		u, last = u+step, math.Abs(step)
	}
	return u
}

// deviation returns F minus the sum of the first j components' weights, without cancellation, and the slope of F.
func (a Axis) deviation(j int, x, t float64) (value, slope float64) {
	for i, c := range a {
		s := math.Hypot(c.Std, t)
		z := (x - c.Mean) / s
		if i < j {
			value -= c.Weight * math.Erfc(z/math.Sqrt2) / 2
		} else {
			value += c.Weight * math.Erfc(-z/math.Sqrt2) / 2
		}
		slope += c.Weight * math.Exp(-z*z/2) / (s * math.Sqrt(2*math.Pi))
	}
	return value, slope
}

// excess is an increasing function of x that determines F to full relative precision where F is near the sum of the first j components'
// weights: ln F for j = 0, -ln(1 - F) if j is all components, and the deviation otherwise. The logarithms stay accurate in the tails,
// where F itself rounds to 0 or 1.
func (a Axis) excess(j int, x, t float64) (value, slope float64) {
	side := 1.0
	switch j {
	case 0:
	case len(a):
		side = -1
	default:
		return a.deviation(j, x, t)
	}
	tail := logSum(a, func(c Component) float64 { return logPhi(side * (x - c.Mean) / math.Hypot(c.Std, t)) })
	return side * tail, math.Exp(a.logDensity(x, t) - tail)
}

// logSum returns ln Σ weight·e^f over the components.
func logSum(a Axis, f func(Component) float64) float64 {
	var few [8]float64
	all, top := few[:0], math.Inf(-1)
	for _, c := range a {
		v := f(c) + math.Log(c.Weight)
		all, top = append(all, v), max(top, v)
	}
	sum := 0.0
	for _, v := range all {
		sum += math.Exp(v - top)
	}
	return top + math.Log(sum)
}

// logPhi returns the logarithm of the standard normal cumulative distribution function.
func logPhi(z float64) float64 {
	if z > -30 {
		return math.Log(math.Erfc(-z/math.Sqrt2) / 2)
	}
	// The asymptotic series of erfc; the truncation error is below 2e-14.
	w := 1 / (z * z)
	series := 1 - w*(1-3*w*(1-5*w*(1-7*w*(1-9*w))))
	return -z*z/2 - math.Log(-z*math.Sqrt(2*math.Pi)) + math.Log(series)
}

// Mixture is data with independent elements, each from a mixture of Gaussians, so that its denoiser, density and trajectories are
// known exactly. It is a models.Denoiser and a models.ConsistencyFunction for samples of any shape. The zero value has Grid in every
// element, and ε 0.002.
type Mixture struct {
	Axes     []Axis  // the mixture of each element of a sample, or one for all elements; nil: Grid
	SigmaMin float64 // ε, where trajectories end; 0: 0.002
}

var (
	_ models.Denoiser            = Mixture{}
	_ models.ConsistencyFunction = Mixture{}
)

func (m Mixture) axes() []Axis {
	if m.Axes == nil {
		return []Axis{Grid()}
	}
	return m.Axes
}

func (m Mixture) sigmaMin() float64 { return Gaussian{SigmaMin: m.SigmaMin}.sigmaMin() }

// Validate reports invalid values.
func (m Mixture) Validate() error {
	for i, a := range m.axes() {
		if err := a.Validate(); err != nil {
			return fmt.Errorf("axis %d: %w", i, err)
		}
	}
	if len(m.axes()) == 0 || !(m.SigmaMin >= 0) {
		return fmt.Errorf("mixture: want at least one axis and a smallest noise level above 0, or 0 for 0.002, got %d and %g",
			len(m.axes()), m.SigmaMin)
	}
	return nil
}

// sorted returns the axes for samples with the given number of elements, or one axis if all are the same.
func (m Mixture) sorted(elements int) []Axis {
	if err := m.Validate(); err != nil {
		panic(&torch.Error{Op: "mixture", Msg: err.Error()})
	}
	if n := len(m.axes()); n != 1 && n != elements {
		panic(&torch.Error{Op: "mixture", Msg: fmt.Sprintf("want samples of %d elements, one for each axis, got %d", n, elements)})
	}
	out := make([]Axis, len(m.axes()))
	for i, a := range m.axes() {
		out[i] = a.sorted()
	}
	return out
}

// table has the components of all axes as tensors [axes, components], float64. Axes with fewer components are padded with components
// of weight 0.
type table struct{ weight, mean, std *torch.Tensor }

func tableOf(s *torch.Scope, axes []Axis) table {
	width := 0
	for _, a := range axes {
		width = max(width, len(a))
	}
	n := len(axes) * width
	weight, mean, std := make([]float64, n), make([]float64, n), slices.Repeat([]float64{1}, n)
	for i, a := range axes {
		for j, c := range a {
			weight[i*width+j], mean[i*width+j], std[i*width+j] = c.Weight, c.Mean, c.Std
		}
	}
	of := func(v []float64) *torch.Tensor { return torch.FromSlice(s, v, len(axes), width) }
	return table{of(weight), of(mean), of(std)}
}

// parts returns, for x [B, ...] at t [B], in float64 and [B, elements, components]: the differences from the components' means,
// the components' variances, and the logarithms of their contributions to the density.
func (m table) parts(s *torch.Scope, x, t *torch.Tensor) (distance, variance, part *torch.Tensor) {
	distance = x.Reshape(s, x.Dim(0), -1, 1).To(s, torch.Float64).Sub(s, m.mean)
	variance = t.To(s, torch.Float64).Square(s).PerSample(s, 3).Add(s, m.std.Square(s))
	part = distance.Square(s).Div(s, variance).Add(s, variance.MulScalar(s, 2*math.Pi).Log(s)).MulScalar(s, -0.5).Add(s, m.weight.Log(s))
	return distance, variance, part
}

// Denoise returns D(x; t) for x [B, ...] and t [B], computed in float64. It is differentiable.
func (m Mixture) Denoise(s *torch.Scope, x, t *torch.Tensor, _ models.Cond) *torch.Tensor {
	axes := m.sorted(elements(x))
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		k := tableOf(s, axes)
		distance, variance, part := k.parts(s, x, t)
		each := distance.Mul(s, k.std.Square(s)).Div(s, variance).Add(s, k.mean)
		return part.Softmax(s, -1).Mul(s, each).SumDim(s, false, -1).To(s, x.DType()).Reshape(s, x.Shape()...)
	})
}

// LogDensity returns ln p_t(x) for x [B, ...] and t [B], as float64 [B].
func (m Mixture) LogDensity(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
	axes := m.sorted(elements(x))
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		_, _, part := tableOf(s, axes).parts(s, x, t)
		return part.LogSumExp(s, false, -1).SumDim(s, false, -1)
	})
}

// Origin returns f(x, t), the point at ε of the trajectory through x [B, ...] at t [B]. It is not differentiable.
func (m Mixture) Origin(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		// ε is rounded to t's type, so that f(x, ε) is x.
		return m.Jump(s, x, t, torch.Full(s, m.sigmaMin(), t.DType(), t.Shape()...), c)
	})
}

// Jump returns the point at levels next [B] on the trajectory through x [B, ...] at noise levels t [B]. It is not differentiable.
func (m Mixture) Jump(s *torch.Scope, x, t, next *torch.Tensor, _ models.Cond) *torch.Tensor {
	axes := m.sorted(elements(x))
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		numbers := func(x *torch.Tensor) []float64 {
			return torch.ToSlice[float64](x.Detach(s).To(s, torch.Float64).Contiguous(s))
		}
		values, from, to := numbers(x), numbers(t), numbers(next)
		width := elements(x)
		for i, v := range values {
			values[i] = axes[i%width%len(axes)].move(v, from[i/width], to[i/width])
		}
		return torch.FromSlice(s, values, x.Shape()...).To(s, x.DType())
	})
}

func elements(x *torch.Tensor) int { return x.NumEl() / max(x.Dim(0), 1) }

// Sample draws a tensor of the given shape, [B, ...], from the data's distribution.
func (m Mixture) Sample(s *torch.Scope, stream *torch.Generator, d torch.DType, shape ...int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		z := torch.Randn(s, stream, torch.Float64, shape...)
		axes := m.sorted(elements(z))
		k := tableOf(s, axes)
		// The component's index is the number of cumulative weights below a uniform number.
		width := k.weight.Dim(1)
		sums := k.weight.CumSum(s, 1).Narrow(s, 1, 0, width-1)
		u := torch.Rand(s, stream, torch.Float64, shape[0], elements(z), 1)
		index := u.Gt(s, sums).SumDim(s, true, -1)
		of := func(v *torch.Tensor) *torch.Tensor {
			return v.Unsqueeze(s, 0).Expand(s, shape[0], elements(z), width).Gather(s, 2, index).Reshape(s, shape...)
		}
		return z.Mul(s, of(k.std)).Add(s, of(k.mean)).To(s, d)
	})
}
