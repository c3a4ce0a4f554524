package training

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// SCM is consistency training in continuous time (Lu & Song 2024, algorithm 1). Other methods compare the outputs at adjacent noise
// levels; SCM uses the derivative of the network's output along a trajectory, so that there is no discretisation error. In TrigFlow's
// coordinates (models.Trig), where F⁻ is the network's output without gradients:
//
//	ln σ ~ N(Mean, Std²)        a = arctan(σ/σ_d)        y = cos(a)·x + sin(a)·σ_d·z
//	g = -cos²(a)·(σ_d·F⁻ - dy/da) - r·cos(a)·sin(a)·(y + σ_d·dF⁻/da)        r = min(1, k/Warmup)
//	L = e^w(a)/D·‖F_θ - F⁻ - g/(‖g‖ + C)‖² - w(a)
//
// For r = 1, g is cos(a)·df⁻/da: apart from the normalisation, the loss has the gradient of f_θ·df⁻/da with the paper's prior weight
// 1/(σ_d·tan(a)). dF⁻/da is the total derivative along the trajectory, through y and a. With a teacher (sCD), dy/da is that of the
// teacher's trajectories. Without one (sCT) it is that of the sample and its noise, which has the same mean. F_θ, F⁻ and its derivative use
// the same dropout masks, from one seed.
//
// The normalisation biases sCT: it averages directions, nearly. The optimum is the exact function if dy/da given y is distributed
// symmetrically around its mean, as for Gaussian data; otherwise it is off. For nine modes in the plane the error is 0.1 of the data's
// standard deviation, and 0.06 with a C of 10. A teacher's tangent is exact, without an average (0.025).
//
// To start from a denoiser, use models.TrigConsistency{Net: &models.TrigNetwork{Model: teacher}}.
type SCM struct {
	fixed
	Model   *models.TrigConsistency
	Teacher models.Denoiser // nil: none (sCT)

	Mean, Std float64 // of ln σ; both 0: -1 and 1.4
	// Warmup is the number of steps over which the second, unstable term of the tangent g is phased in: 10,000 of 400,000 in the paper; a
	// tenth of a short run works; 0: no warm-up.
	Warmup int
	C      float64         // added to the tangent's norm; 0: 0.1
	Weight *AdaptiveWeight // w, trained with the model; nil: 0, the prior weight only

	// Step above 0 is the step of a finite difference in place of the derivative, for networks without forward-mode derivatives. It is
	// taken between a and a' = max(a - Step, 0), with Δ = a - a' (the paper's appendix E):
	//
	//	g = -cos(a)·cos(a')·(σ_d·F⁻ - dy/da) - r·cos(a)·sin(a')·(y + σ_d·(cos(Δ)·F⁻(y, a) - F⁻(y', a'))/sin(Δ))
	//	  = cos(a)·(f⁻(y, a) - f⁻(y', a'))/sin(Δ) for r = 1        y' = cos(Δ)·y - sin(Δ)·dy/da
	//
	// y' is one DDIM step from y. The optimum is then that of these steps, exact to first order in Step. In float32 the difference has a
	// rounding error of about 1e-7/Step: 0.001 to 0.01 is a good choice, and networks that compute in half precision need more.
	Step float64
}

func (c *SCM) withDefaults() SCM {
	d := *c
	if d.Mean == 0 && d.Std == 0 {
		d.Mean, d.Std = -1, 1.4
	}
	d.C = cmp.Or(d.C, 0.1)
	return d
}

func (c *SCM) sigmaData() float64 {
	if v := c.Model.SigmaData; v != 0 {
		return v
	}
	return 0.5
}

// ratio returns r at step k.
func (c *SCM) ratio(k int) float64 {
	if k >= c.Warmup {
		return 1
	}
	return float64(k) / float64(c.Warmup)
}

// Loss draws a noise level and noise for each sample and returns the weighted loss. Its value does not indicate quality: it is below 1/D,
// and near 1 - w with a learned weight, for good and bad models alike.
func (c *SCM) Loss(s *torch.Scope, k int, b Batch, d Draws) *torch.Tensor {
	o := c.withDefaults()
	levels := make([]float64, b.X.Dim(0))
	for i := range levels {
		levels[i] = math.Exp(o.Mean + o.Std*d.Samples[i].NormFloat64())
	}
	return c.LossAt(s, k, b, levels, d.Noise(s, b.X), d.Dropout)
}

// LossAt returns the loss of step k for given noise levels σ [B], above 0, and noise z of the samples' shape. The teacher runs without
// dropout.
func (c *SCM) LossAt(s *torch.Scope, k int, b Batch, levels []float64, z *torch.Tensor, dropout uint64) *torch.Tensor {
	angles := make([]float64, len(levels))
	for i, sigma := range levels {
		angles[i] = math.Atan2(sigma, c.sigmaData())
	}
	a := torch.FromSlice(s, angles) // float64: see models.Trig
	y := c.Model.Coordinates().Noisy(s, b.X, z, a)
	network := func(b Batch) output {
		return func(s *torch.Scope, y, a *torch.Tensor) *torch.Tensor {
			return c.Model.Forward(s, y, a, b.masked(dropout))
		}
	}
	F := network(b)(s, y, a)
	constant := F.Detach(s)
	g := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		// In mixed precision, derivatives and differences are computed in float32 nevertheless.
		exact, at := network(b.exact()), constant
		if c.Step > 0 && isHalf(b.Cond.Precision) {
			at = exact(s, y, a)
		}
		var dy *torch.Tensor
		if trig := c.Model.Coordinates(); c.Teacher != nil {
			dy = trig.Velocity(s, c.Teacher, y, a, b.Cond)
		} else {
			dy = trig.Direction(s, b.X, z, a)
		}
		return c.normalized(s, c.tangent(s, exact, y, a, dy, at, c.ratio(k)))
	})
	d := L2{}.Distance(s, F.Sub(s, constant), g) // the first argument is 0 and has F's gradient
	if c.Weight == nil {
		return b.mean(s, d)
	}
	w := c.Weight.At(s, a).To(s, d.DType())
	return b.mean(s, d.Mul(s, w.Exp(s)).Sub(s, w))
}

// Try computes a loss without warm-up, which fails for a network without forward-mode derivatives. The trainer calls it before the first
// step.
func (c *SCM) Try(s *torch.Scope, b Batch, d Draws) {
	warm := *c
	warm.Warmup = 0
	warm.Loss(s, 0, b, d)
}

// output returns the network's F at y [B, ...] and a [B], with its conditioning inputs.
type output func(s *torch.Scope, y, a *torch.Tensor) *torch.Tensor

// tangent returns g at y and a for F⁻ = F.
func (c *SCM) tangent(s *torch.Scope, net output, y, a, dy, F *torch.Tensor, r float64) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		sd, low := c.sigmaData(), a
		if c.Step > 0 {
			low = a.SubScalar(s, c.Step).ClampMin(s, 0)
		}
		first, second := a.Cos(s).Mul(s, low.Cos(s)), a.Cos(s).Mul(s, low.Sin(s))
		g := dy.Sub(s, F.MulScalar(s, sd)).MulPerSample(s, first)
		if r == 0 {
			return g
		}
		var dF *torch.Tensor // cos(a)·sin(a')·dF/da
		if c.Step > 0 {
			delta := a.Sub(s, low)
			cos, sin := delta.Cos(s), delta.Sin(s)
			F2 := net(s, y.MulPerSample(s, cos).Sub(s, dy.MulPerSample(s, sin)), low)
			dF = F.MulPerSample(s, cos).Sub(s, F2).MulPerSample(s, second.Div(s, sin))
		} else {
			dF = derivative(s, net, y, a, dy.MulPerSample(s, second), second)
		}
		return g.Sub(s, y.MulPerSample(s, second).Add(s, dF.MulScalar(s, sd)).MulScalar(s, r))
	})
}

// derivative returns the derivative of net at y and a in the direction (dy, da). The direction includes the factor cos(a)·sin(a), since
// the derivative of a label such as ln(tan(a)) alone is unbounded near 0 and π/2.
func derivative(s *torch.Scope, net output, y, a, dy, da *torch.Tensor) *torch.Tensor {
	defer func() {
		r := recover()
		if e, ok := r.(*torch.Error); ok && strings.Contains(e.Msg, "no forward-mode derivative") {
			e.Msg += "; or set SCM's Step above 0, such as 0.005, for finite differences, which need no derivative"
		}
		if r != nil {
			panic(r)
		}
	}()
	_, dF := torch.JVP(s, func(s *torch.Scope, xs []*torch.Tensor) *torch.Tensor { return net(s, xs[0], xs[1]) },
		[]*torch.Tensor{y, a}, []*torch.Tensor{dy, da})
	return dF
}

// normalized returns g/(‖g‖ + C), with the norm of each sample.
func (c *SCM) normalized(s *torch.Scope, g *torch.Tensor) *torch.Tensor {
	length := g.Flatten(s, 1, -1).NormDim(s, false, 1)
	return g.MulPerSample(s, length.AddScalar(s, c.withDefaults().C).Reciprocal(s))
}

// Parameters yields the trainable parameters besides the model's: those of Weight, as "weight.…". They have to be in the optimizer.
func (c *SCM) Parameters() iter.Seq2[string, *torch.Tensor] {
	return c.ofWeight((*AdaptiveWeight).Parameters)
}

// State yields all tensors of Weight, for checkpoints.
func (c *SCM) State() iter.Seq2[string, *torch.Tensor] { return c.ofWeight((*AdaptiveWeight).Tensors) }

func (c *SCM) ofWeight(tensors func(*AdaptiveWeight) iter.Seq2[string, *torch.Tensor]) iter.Seq2[string, *torch.Tensor] {
	if c.Weight == nil {
		return c.fixed.State()
	}
	return prefixed("weight.", tensors(c.Weight))
}

// Stats returns r as "warmup" if there is a warm-up.
func (c *SCM) Stats(k int) map[string]float64 {
	if c.Warmup == 0 {
		return nil
	}
	return map[string]float64{"warmup": c.ratio(k)}
}

// Validate returns an error for a missing Model or values out of range. The trainer calls it before the first step, and then Try.
func (c *SCM) Validate() error {
	if c.Model == nil {
		return errors.New("continuous-time consistency: Model is nil: want a *models.TrigConsistency; " +
			"to start from a denoiser, use models.TrigNetwork as its Net")
	}
	if err := c.Model.Validate(); err != nil {
		return fmt.Errorf("continuous-time consistency: %w", err)
	}
	d := c.withDefaults()
	switch {
	case math.IsNaN(d.Mean) || math.IsInf(d.Mean, 0) || !(d.Std > 0) || math.IsInf(d.Std, 1):
		return fmt.Errorf("continuous-time consistency: want a finite mean of ln σ and a standard deviation above 0, "+
			"or 0 and 0 for -1 and 1.4, got %g and %g", d.Mean, d.Std)
	case d.Warmup < 0:
		return fmt.Errorf("continuous-time consistency: want a warm-up of 0 steps or more, got %d", d.Warmup)
	case !(d.C > 0) || math.IsInf(d.C, 1):
		return fmt.Errorf("continuous-time consistency: want a C above 0, or 0 for 0.1, got %g", d.C)
	case !(d.Step >= 0 && d.Step < math.Pi/2):
		return fmt.Errorf("continuous-time consistency: want a Step of the angle from 0 to below π/2, such as 0.005, "+
			"or 0 for the exact derivative, got %g", d.Step)
	}
	return nil
}

// AdaptiveWeight is a learned loss weight per noise level, as a function of the angle, that balances the contributions of all levels
// (Karras et al. 2024, "EDM2"): e^w/D·‖…‖² - w is minimal if e^w is the reciprocal of the mean square at that level, so that each level
// contributes 1. It is a linear layer over random Fourier features of ln(tan(a))/4, and starts at 0.
type AdaptiveWeight struct {
	store         *nn.Store
	freqs, phases *torch.Tensor // [features], in turns
	out           nn.Linear
}

// weightFeatures is the number of Fourier features, as in EDM2.
const weightFeatures = 128

// NewAdaptiveWeight returns a weight that is 0 everywhere, with frequencies drawn from seed.
func NewAdaptiveWeight(dev torch.Device, seed uint64) (*AdaptiveWeight, error) {
	return newAdaptiveWeight(dev, torch.Float32, weightFeatures, seed)
}

func newAdaptiveWeight(dev torch.Device, dtype torch.DType, features int, seed uint64) (*AdaptiveWeight, error) {
	w := &AdaptiveWeight{}
	var err error
	if w.store, err = nn.Build(dev, dtype, seed, func(p nn.Path) {
		w.freqs = p.Buffer("freqs", nn.Normal(1), features)
		w.phases = p.Buffer("phases", nn.Uniform(0.5), features)
		w.out = nn.NewLinearInit(p.Sub("out"), features, 1, nn.Zeros, nn.Zeros)
	}); err != nil {
		return nil, err
	}
	return w, nil
}

// At returns w for angles a [B] between 0 and π/2, as [B].
func (w *AdaptiveWeight) At(s *torch.Scope, a *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		const least = 1e-20 // of tan(a), so that its logarithm is finite at 0
		label := a.To(s, torch.Float64).Tan(s).ClampMin(s, least).Log(s).DivScalar(s, 4).To(s, w.freqs.DType())
		turns := label.Unsqueeze(s, 1).Mul(s, w.freqs).Add(s, w.phases)
		features := turns.MulScalar(s, 2*math.Pi).Cos(s).MulScalar(s, math.Sqrt2)
		return w.out.Forward(s, features).Squeeze(s, 1)
	})
}

// Parameters yields the trainable parameters.
func (w *AdaptiveWeight) Parameters() iter.Seq2[string, *torch.Tensor] { return w.store.Parameters() }

// Tensors yields the parameters, the frequencies and the phases.
func (w *AdaptiveWeight) Tensors() iter.Seq2[string, *torch.Tensor] { return w.store.Tensors() }

// Close frees the tensors.
func (w *AdaptiveWeight) Close() { w.store.Close() }
