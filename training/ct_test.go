package training

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
)

// recorder is a network that notes what it is given.
type recorder struct {
	points  [][]float64 // x_t, of each evaluation
	levels  [][]float64 // t
	classes []*torch.Tensor

	guidance []*torch.Tensor
}

func (r *recorder) Forward(s *torch.Scope, x, noise *torch.Tensor, c models.Cond) *torch.Tensor {
	var levels []float64
	for _, label := range torch.ToSlice[float64](noise) {
		levels = append(levels, math.Exp(4*label)) // c_noise = ln(t)/4
	}
	points := torch.ToSlice[float64](x)
	for i := range points {
		t := levels[i*len(levels)/len(points)]
		points[i] *= math.Hypot(t, 0.5) // x is c_in·x_t
	}
	r.points, r.levels, r.classes = append(r.points, points), append(r.levels, levels), append(r.classes, c.Class)
	r.guidance = append(r.guidance, c.Guidance)
	return x.MulScalar(s, 1)
}

func (*recorder) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// A step evaluates the target at t_n and the model at t_{n+1}, neighbours of the step's grid, on the same images with the
// same standard normal noise, and gives both the classes.
func TestLossDraws(t *testing.T) {
	const n = 20_000
	schedule := Progressive{S1: 20, Steps: 100}
	for _, k := range []int{0, 30, 100} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			net := &recorder{}
			c := &CT{Model: &models.Consistency{Net: net}, Schedule: schedule}
			images := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float64, n, 2)
			class := torch.Zeros(s, torch.Int64, n)
			b := Batch{X: images, Cond: models.Cond{Class: class}}
			c.Loss(s, k, b, drawn(7, k, b))
			require.Len(t, net.points, 2)
			require.Equal(t, []*torch.Tensor{class, class}, net.classes)

			count, _ := schedule.At(k)
			levels := noise.Karras(count, 0.002, 80, 7)
			seen := make([]int, count-1)
			x0 := torch.ToSlice[float64](images)
			var sum, squares float64
			for i := range n {
				low, high := net.levels[0][i], net.levels[1][i]
				j, found := slices.BinarySearchFunc(levels, low, func(level, t float64) int {
					if math.Abs(level/t-1) < 1e-9 {
						return 0
					}
					return cmp.Compare(level, t)
				})
				require.True(t, found, "%g is no level of step %d", low, k)
				require.InEpsilon(t, levels[j+1], high, 1e-9, "the pair's upper level")
				seen[j]++
				for d := 2 * i; d < 2*i+2; d++ {
					z := (net.points[0][d] - x0[d]) / low
					require.InDelta(t, z, (net.points[1][d]-x0[d])/high, 1e-9, "one noise at both levels")
					sum, squares = sum+z, squares+z*z
				}
			}
			// Standard errors of 40,000 draws: 0.005 and 0.007.
			require.InDelta(t, 0, sum/(2*n), 0.02)
			require.InDelta(t, 1, squares/(2*n), 0.028)
			for j, got := range seen {
				want := float64(n) / float64(count-1)
				require.InDelta(t, want, got, 5*math.Sqrt(want), "pair %d of %d", j, count-1)
			}
			return nil
		}))
	}
}

// Settings of the grid and of the pairs reach the draws.
func TestLossUsesTheSettings(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		net := &recorder{}
		c := &CT{
			Model: &models.Consistency{Net: net, SigmaMin: 0.01}, Schedule: Fixed{5, 0},
			Index: last{}, SigmaMax: 10, Rho: 3,
		}
		b := Batch{X: torch.Zeros(s, torch.Float64, 2, 1)}
		c.Loss(s, 0, b, drawn(1, 0, b))
		levels := noise.Karras(5, 0.01, 10, 3)
		require.InDeltaSlice(t, []float64{levels[3], levels[3]}, net.levels[0], 1e-9)
		require.InDeltaSlice(t, []float64{10, 10}, net.levels[1], 1e-9)
		return nil
	}))
}

// last always draws the largest levels.
type last struct{}

func (last) Draw(_ *rand.Rand, levels []float64) int { return len(levels) - 2 }

// The randomness of a sample is a function of seed and position, that of a step of seed and step.
func TestDraw(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		sample := func(d Draws, i int) string {
			z := d.Noise(s, torch.Zeros(s, torch.Float32, len(d.Samples), 3))
			return fmt.Sprint(d.Samples[i].Uint64(), torch.ToSlice[float32](z.Select(s, 0, i)))
		}
		first := sample(Draw(1, 5, 40, 8), 2)
		require.Equal(t, first, sample(Draw(1, 5, 40, 8), 2))
		require.Equal(t, first, sample(Draw(1, 9, 42, 1), 0), "in another batch")
		seen := map[string]bool{first: true}
		for _, other := range []string{sample(Draw(1, 5, 41, 8), 2), sample(Draw(1, 5, 40, 8), 5), sample(Draw(2, 5, 40, 8), 2)} {
			require.False(t, seen[other])
			seen[other] = true
		}
		step := func(seed uint64, k int, first int64) string {
			d := Draw(seed, k, first, 2)
			return fmt.Sprint(d.Step.Uint64(), d.Dropout)
		}
		require.Equal(t, step(1, 5, 0), step(1, 5, 10))
		require.NotEqual(t, step(1, 5, 0), step(1, 6, 0))
		require.NotEqual(t, step(1, 5, 0), step(2, 5, 0))
		return nil
	}))
}

// The loss is the mean of the samples' distances, each times λ: 1, or with InverseGap 1/(t_{n+1} - t_n).
func TestLossWeights(t *testing.T) {
	net := newMLP(t, 3, 8, 0)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		low, high := []float64{0.002, 0.5, 12}, []float64{0.016, 0.9, 20}
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 3, 3)
		z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float32, 3, 3)
		for _, distance := range []Distance{nil, L1{}, L2{}} {
			c := &CT{Model: &models.Consistency{Net: net}, Distance: distance}
			var plain, weighted float64
			for i := range low {
				one := c.LossAt(s, Batch{X: x.Narrow(s, 0, i, 1)}, low[i:i+1], high[i:i+1], z.Narrow(s, 0, i, 1), 1).Item()
				require.Greater(t, one, 0.0)
				plain += one / 3
				weighted += one / 3 / (high[i] - low[i])
			}
			require.InEpsilon(t, plain, c.LossAt(s, Batch{X: x}, low, high, z, 1).Item(), 1e-5)
			c.Weight = InverseGap
			require.InEpsilon(t, weighted, c.LossAt(s, Batch{X: x}, low, high, z, 1).Item(), 1e-5)
		}
		return nil
	}))
}

// The mean and largest weight λ under the improved method's draws, worked out in Python from the closed form of the
// probabilities; 200,000 draws leave standard errors of 0.04 and 5.4.
func TestImprovedWeights(t *testing.T) {
	for _, c := range []struct {
		levels           int
		mean, max, error float64
	}{{11, 8.4203, 67.9313, 0.036}, {1281, 1129.1356, 25584.72, 5.4}} {
		levels := noise.Karras(c.levels, 0.002, 80, 7)
		r := rand.New(rand.NewPCG(1, 2))
		var sum, most float64
		var drawn []float64
		const draws = 200_000
		for range draws {
			j := LogNormal{}.Draw(r, levels)
			w := 1 / (levels[j+1] - levels[j])
			sum, most, drawn = sum+w, math.Max(most, w), append(drawn, levels[j])
		}
		require.InDelta(t, c.mean, sum/draws, 4*c.error, "%d levels", c.levels)
		require.InEpsilon(t, c.max, most, 1e-5, "%d levels: the pair at ε is drawn too", c.levels)
		if c.levels == 1281 {
			slices.Sort(drawn)
			require.InDelta(t, 0.335, drawn[draws/2], 0.01, "median level")
		}
	}
	// Another distribution: all of its mass in one pair.
	levels := noise.Karras(11, 0.002, 80, 7)
	narrow := LogNormal{Mean: math.Log((levels[6] + levels[7]) / 2), Std: 1e-3}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		require.Equal(t, 6, narrow.Draw(r, levels))
	}
}

// At equal levels model and target are the same function of the same points, so the loss is 0 in every bit, if their
// dropout masks are the same. With masks of their own it is not.
func TestDropoutMasksAreShared(t *testing.T) {
	tiny, err := unet.New(unet.Config{
		Resolution: 8, InChannels: 1, Channels: 8, Mult: []int{1, 2}, Blocks: 1, NormGroups: 4, Dropout: 0.3,
	}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer tiny.Close()
	points := newMLP(t, 64, 32, 0.3)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.NoError(t, stir(s, tiny))
		at := []float64{0.4, 80}
		for _, c := range []struct {
			name  string
			net   models.Network
			shape []int
		}{{"U-Net", tiny, []int{2, 1, 8, 8}}, {"points", points, []int{2, 64}}} {
			ct := &CT{Model: &models.Consistency{Net: c.net}, Distance: L2{}}
			b := Batch{X: torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, c.shape...)}
			z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float32, c.shape...)
			require.Zero(t, ct.LossAt(s, b, at, at, z, 5).Item(), c.name)
			low := []float64{0.3, 60}
			require.NotEqual(t, ct.LossAt(s, b, low, at, z, 5).Item(), ct.LossAt(s, b, low, at, z, 6).Item(), "%s: the seed chooses the masks", c.name)
			require.Equal(t, ct.LossAt(s, b, low, at, z, 5).Item(), ct.LossAt(s, b, low, at, z, 5).Item(), c.name)
		}
		points.own = &masks{1}
		ct := &CT{Model: &models.Consistency{Net: points}, Distance: L2{}}
		b := Batch{X: torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 64)}
		require.Greater(t, ct.LossAt(s, b, at, at, b.X, 5).Item(), 1e-4)
		return nil
	}))
}

// stir moves all weights, so that no layer that starts at zero hides the others.
func stir(s *torch.Scope, net models.Network) error {
	return s.NoGrad(func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 5)
		for _, p := range net.Parameters() {
			p.AddScaledInPlace(s, torch.Randn(s, g, torch.Float32, p.Shape()...), 0.1)
		}
		return nil
	})
}

// gradients are those of the loss, by name.
func gradients(s *torch.Scope, c *CT, b Batch, z *torch.Tensor) map[string][]float32 {
	for _, p := range c.Model.Parameters() {
		p.ZeroGrad()
	}
	c.LossAt(s, b, []float64{0.3, 20}, []float64{0.5, 30}, z, 9).Backward()
	out := map[string][]float32{}
	for name, p := range c.Model.Parameters() {
		out[name] = torch.ToSlice[float32](p.Grad(s))
	}
	return out
}

// The target is a constant: without one of its own, the model's gradients are those against a copy of the model, and no
// gradient reaches a target network.
func TestTargetIsConstant(t *testing.T) {
	net, copied := newMLP(t, 2, 8, 0.1), newMLP(t, 2, 8, 0.1)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		b := Batch{X: torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 2)}
		z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float32, 2, 2)
		c := &CT{Model: &models.Consistency{Net: net}, Distance: L2{}}
		without := gradients(s, c, b, z)
		c.Target = &models.Consistency{Net: copied} // newMLP draws the same weights
		require.Equal(t, gradients(s, c, b, z), without)
		require.NotZero(t, without["layers.0.weight"])
		for name, p := range copied.Parameters() {
			require.False(t, p.HasGrad(), name)
		}
		return nil
	}))
}

// Update moves the target by the schedule's decay of that step, and State yields it.
func TestUpdateMovesTheTarget(t *testing.T) {
	net, target := newMLP(t, 2, 4, 0), newMLP(t, 2, 4, 0)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.NoError(t, stir(s, net))
		schedule := Progressive{S1: 20, Steps: 10}
		c := &CT{Model: &models.Consistency{Net: net}, Target: &models.Consistency{Net: target}, Schedule: schedule}
		require.PanicsWithError(t, "consistency training: Update was called before Validate", func() { c.Update(s, 3) })
		require.NoError(t, c.Validate())

		weights := func(all iter.Seq2[string, *torch.Tensor]) (names []string, values []float32) {
			for name, p := range all {
				names, values = append(names, name), append(values, torch.ToSlice[float32](p)...)
			}
			return names, values
		}
		names, from := weights(net.Parameters())
		_, before := weights(target.Parameters())
		c.Update(s, 3)
		stateNames, after := weights(c.State())
		require.NotEqual(t, before, after)
		levels, decay := schedule.At(3)
		for i := range after {
			require.InDelta(t, decay*float64(before[i])+(1-decay)*float64(from[i]), after[i], 1e-6)
		}
		for i := range names {
			require.Equal(t, "target."+names[i], stateNames[i])
		}
		require.Equal(t, map[string]float64{"levels": float64(levels), "decay": decay}, c.Stats(3))

		c.Target = nil
		c.Update(s, 3)
		_, values := weights(c.State())
		require.Empty(t, values)
		return nil
	}))
}

func TestCTValidate(t *testing.T) {
	model := &models.Consistency{Net: newMLP(t, 2, 4, 0)}
	for _, c := range []struct {
		ct   CT
		want string
	}{
		{CT{}, "consistency training: no model"},
		{CT{Model: model}, "consistency training: no schedule: use Progressive, or Doubling with no target"},
		{CT{Model: model, Schedule: Fixed{1, 0}}, "consistency training: the schedule has 1 levels and decay 0 at step 0: want at least 2 levels and a decay in [0, 1]"},
		{CT{Model: model, Schedule: Fixed{18, 1.5}}, "consistency training: the schedule has 18 levels and decay 1.5 at step 0: want at least 2 levels and a decay in [0, 1]"},
		{CT{Model: model, Schedule: Fixed{18, math.NaN()}}, "consistency training: the schedule has 18 levels and decay NaN at step 0: want at least 2 levels and a decay in [0, 1]"},
		{CT{Model: model, Schedule: Progressive{S1: -1, Steps: 10}}, "consistency training: the schedule has 0 levels and decay 0 at step 9223372036854775807: want at least 2 levels and a decay in [0, 1]"},
		{CT{Model: model, Schedule: Doubling{}, Index: LogNormal{Mean: -1.1}}, "consistency training: the log-normal distribution has standard deviation 0: want more than 0"},
		{CT{Model: model, Schedule: Progressive{}, Target: &models.Consistency{Net: newMLP(t, 2, 5, 0)}},
			`consistency training: target: EMA weights: the networks differ in 5 parameters: ` +
				`["layers.0.weight [5 7] and layers.0.weight [4 7]" "layers.0.bias [5] and layers.0.bias [4]" "layers.1.weight [5 5] and layers.1.weight [4 4]" ` +
				`"layers.1.bias [5] and layers.1.bias [4]" "layers.2.weight [2 5] and layers.2.weight [2 4]"]`},
		{CT{Model: model, Schedule: Doubling{}}, ""},
		{CT{Model: model, Schedule: Doubling{}, Index: LogNormal{}}, ""},
		{CT{Model: model, Schedule: Progressive{Steps: 100}, Target: &models.Consistency{Net: newMLP(t, 2, 4, 0)}}, ""},
	} {
		if err := c.ct.Validate(); c.want == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, c.want)
		}
	}
}

// A U-Net's snapshot says what it is; of other networks nothing is known.
func TestCTMetadata(t *testing.T) {
	net, err := unet.New(unet.Config{Resolution: 8, InChannels: 1, Channels: 8, Mult: []int{1}, Blocks: 1, NormGroups: 4}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer net.Close()
	m, err := (&CT{Model: &models.Consistency{Net: net}}).Metadata(12, 3400)
	require.NoError(t, err)
	all := fmt.Sprint(m)
	require.Contains(t, all, `"method":"ct"`)
	require.Contains(t, all, `"step":12`)
	require.Contains(t, all, `"images":3400`)

	m, err = (&CT{Model: &models.Consistency{Net: newMLP(t, 2, 4, 0)}}).Metadata(1, 1)
	require.NoError(t, err)
	require.Empty(t, m)
}
