package sampling

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/torch"
)

// grid is data whose elements are each one of -0.6, 0 and 0.6, plus noise of deviation 0.1; all elements together have
// deviation 0.5. In the plane that is a grid of nine points. Its ODE is that of one element, and monotone, so that a point
// keeps its quantile: the exact end is F_to⁻¹(F_t(x)).
type grid struct{}

var modes = [3]float64{-0.6, 0, 0.6}

const width = 0.1

func (grid) Denoise(s *torch.Scope, x, t *torch.Tensor, _ models.Cond) *torch.Tensor {
	v := t.Square(s).AddScalar(s, width*width).PerSample(s, x.NDim())
	var logits, origins []*torch.Tensor
	for _, m := range modes {
		d := x.SubScalar(s, m)
		logits = append(logits, d.Square(s).Div(s, v).MulScalar(s, -0.5))
		origins = append(origins, d.MulScalar(s, width*width).Div(s, v).AddScalar(s, m))
	}
	weights := torch.Stack(s, logits, 0).Softmax(s, 0)
	return weights.Mul(s, torch.Stack(s, origins, 0)).SumDim(s, false, 0)
}

// tail is the probability of being beyond |x| at level t.
func (grid) tail(x, t float64) float64 {
	p := 0.0
	for _, m := range modes {
		p += math.Erfc((x-m)/(math.Sqrt2*math.Hypot(width, t))) / 6
	}
	return p
}

func (g grid) move(x, t, to float64) float64 {
	p := g.tail(math.Abs(x), t)
	lo, hi := 0.0, math.Abs(x)+1
	for range 100 {
		if mid := (lo + hi) / 2; g.tail(mid, to) > p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return math.Copysign((lo+hi)/2, x)
}

// quantiles are n points of N(0, 80²) in the middle of equally likely intervals.
func quantiles(n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = 80 * math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/float64(n)-1)
	}
	return x
}

// rmse is a sampler's error on the grid against the exact ends, for that many of Karras's levels from 80 to 0.002.
func rmse(t *testing.T, sampler Sampler, levels int) float64 {
	t.Helper()
	start := quantiles(1000)
	var sum float64
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		out, err := sampler.Sample(t.Context(), s, grid{}, torch.FromSlice(s, start, 1, len(start)), Options{Levels: descent(levels)})
		if err != nil {
			return err
		}
		for i, x := range torch.ToSlice[float64](out) {
			d := x - grid{}.move(start[i], 80, 0.002)
			sum += d * d
		}
		return nil
	}))
	return math.Sqrt(sum / float64(len(start)))
}

// Errors that were measured independently, in Python with random starts; 8 % covers what the starts make of them. Heun's only
// step from two levels goes far astray.
func TestGridErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		sampler Sampler
		want    map[int]float64 // levels to root mean square error
	}{
		{"Euler", Stepwise{}, map[int]float64{5: 0.2875, 10: 0.1314, 18: 0.0758, 40: 0.0365, 80: 0.0193}},
		{"Heun", Stepwise{Solver: Heun{}}, map[int]float64{2: 39.6, 5: 0.672, 10: 0.0928, 18: 0.0259, 40: 0.0052, 80: 0.0013}},
		{"DPM-Solver++(2M)", DPMpp{}, map[int]float64{5: 0.186, 10: 0.0920, 18: 0.0270, 40: 0.0054, 80: 0.0014}},
		{"DPM-Solver++(3M)", DPMpp{Order: 3}, map[int]float64{18: 0.0505, 40: 0.00242, 80: 0.000184}},
	} {
		for levels, want := range c.want {
			require.InEpsilon(t, want, rmse(t, c.sampler, levels), 0.08, "%s, %d levels", c.name, levels)
		}
	}
}

// Twice the steps, 2^order times less error. With half its square term, as published, 3M is of order 2.
func TestOrders(t *testing.T) {
	for _, c := range []struct {
		name    string
		sampler Sampler
		order   float64
	}{
		{"Euler", Stepwise{}, 1},
		{"Heun", Stepwise{Solver: Heun{}}, 2},
		{"DPM-Solver-2", Stepwise{Solver: DPM2{}}, 2},
		{"DPM-Solver++(2S)", Stepwise{Solver: DPMpp2S{}}, 2},
		{"DPM-Solver++(2M)", DPMpp{}, 2},
		{"DPM-Solver++(3M)", DPMpp{Order: 3}, 3},
		{"3M as published", published3M{}, 2},
		{"EDM without churn", StochasticHeun{}, 2},
		{"DDIM", DDIM{}, 1},
		{"flow, Euler", Stepwise{Solver: FlowEuler{}}, 1},
		{"flow, Heun", Stepwise{Solver: FlowHeun{}}, 2},
		{"flow, midpoint", Stepwise{Solver: FlowMidpoint{}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := math.Log2(rmse(t, c.sampler, 161) / rmse(t, c.sampler, 321))
			t.Logf("order %.2f", got)
			require.InDelta(t, c.order, got, 0.06*c.order)
		})
	}
}

// On Gaussian data, against the closed form.
func TestOrdersOnAGaussian(t *testing.T) {
	g := modelstest.Gaussian{Mean: 0.2}
	const x = 70.0
	exact := g.Move(x, 80, 0.002)
	for _, c := range []struct {
		name    string
		sampler Sampler
		order   float64
	}{
		{"DPM-Solver-2", Stepwise{Solver: DPM2{}}, 2},
		{"DPM-Solver++(2S)", Stepwise{Solver: DPMpp2S{}}, 2},
		{"DPM-Solver++(2M)", DPMpp{}, 2},
		{"DPM-Solver++(3M)", DPMpp{Order: 3}, 3},
		{"flow, Heun", Stepwise{Solver: FlowHeun{}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			miss := func(levels int) (d float64) {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					out, err := c.sampler.Sample(t.Context(), s, g, torch.FromSlice(s, []float64{x}, 1, 1), Options{Levels: descent(levels)})
					if err == nil {
						d = math.Abs(out.Item() - exact)
					}
					return err
				}))
				return d
			}
			got := math.Log2(miss(161) / miss(321))
			t.Logf("order %.2f", got)
			require.InDelta(t, c.order, got, 0.06*c.order)
		})
	}
}
