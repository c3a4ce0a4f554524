package training

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/lpips"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
)

var (
	_ Distance       = (*lpips.LPIPS)(nil)
	_ FeatureNetwork = (*lpips.LPIPS)(nil)
)

func TestDistances(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		a := torch.FromSlice(s, []float64{1, 2, 3, 4, 0, 0, 0, 0}, 2, 1, 2, 2)
		b := torch.FromSlice(s, []float64{1, 0, 6, 4, 0, 0, 0, 0}, 2, 1, 2, 2)
		for _, c := range []struct {
			name string
			want float64
		}{
			{"l1", (0 + 2 + 3 + 0) / 4.0},
			{"l2", (4 + 9) / 4.0},
			{"norm", math.Sqrt(13+4e-12) - 2e-6},
			// Over the whole sample: element by element it would be near 5 - 4c.
			{"huber", math.Sqrt(13+0.00054*0.00054*4) - 0.00054*2},
		} {
			d, err := ParseDistance(c.name)
			require.NoError(t, err)
			got := torch.ToSlice[float64](d.Distance(s, a, b))
			assert.InDelta(t, c.want, got[0], 1e-12, c.name)
			assert.InDelta(t, 0, got[1], 1e-12, "%s of equal samples", c.name)
		}
		got := torch.ToSlice[float64](PseudoHuber{C: 2}.Distance(s, a, b))
		assert.InDelta(t, math.Sqrt(17)-2, got[0], 1e-12)
		return nil
	})
	require.NoError(t, err)
	_, err = ParseDistance("lpips")
	assert.EqualError(t, err, `unknown distance "lpips": want l1, l2, norm or huber`)
}

// The gradient of the pseudo-Huber distance at equal images must be 0, not NaN: its root is at c > 0.
func TestPseudoHuberGradientAtZero(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		a := torch.Ones(s, torch.Float32, 2, 3)
		a.SetRequiresGrad(true)
		PseudoHuber{}.Distance(s, a, torch.Ones(s, torch.Float32, 2, 3)).Sum(s).Backward()
		assert.Equal(t, make([]float32, 6), torch.ToSlice[float32](a.Grad(s)))
		return nil
	})
	require.NoError(t, err)
}

// mixing is a feature network of two layers: the image itself, and its channels mixed by weights.
type mixing struct{ weight *torch.Tensor }

func (l mixing) Features(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	return []*torch.Tensor{x, x.Conv2D(s, l.weight, nil, torch.Conv2DOptions{})}
}

type blind struct{}

func (blind) Features(*torch.Scope, *torch.Tensor) []*torch.Tensor { return nil }

func TestFeatures(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		// Two channels of two pixels: (3, 4) and (0, 0) against (0, 5) and (1, 0).
		a := torch.FromSlice(s, []float64{3, 0, 4, 0}, 1, 2, 1, 2)
		b := torch.FromSlice(s, []float64{0, 1, 5, 0}, 1, 2, 1, 2)
		net := mixing{torch.FromSlice(s, []float64{2, -1}, 1, 2, 1, 1)} // 2, 0 against -5, 2

		d := Features{Net: net}.Distance(s, a, b)
		assert.Equal(t, []int{1}, d.Shape())
		assert.InDelta(t, (9+1+1+0)/4.0+(49+4)/2.0, d.Item(), 1e-12)
		d = Features{Net: net, Normalized: true}.Distance(s, a, b)
		assert.InDelta(t, (0.36+0.04+1+0)/4+(4+1)/2.0, d.Item(), 1e-8)

		// Of a network that learns, only what depends on a is recorded.
		a.SetRequiresGrad(true)
		net.weight.SetRequiresGrad(true)
		Features{Net: net}.Distance(s, a, b).Sum(s).Backward()
		want := []float64{3*2/4.0 + 7*2, -1*2/4.0 - 2*2, -1*2/4.0 - 7, 2}
		assert.InDeltaSlice(t, want, torch.ToSlice[float64](a.Grad(s)), 1e-12)
		assert.InDeltaSlice(t, []float64{7 * 3, 7 * 4}, torch.ToSlice[float64](net.weight.Grad(s)), 1e-12)
		assert.False(t, b.HasGrad())

		// Where the features are 0 they have no direction, and the gradient is finite.
		zero := torch.Zeros(s, torch.Float64, 1, 2, 1, 2)
		zero.SetRequiresGrad(true)
		Features{Net: net, Normalized: true}.Distance(s, zero, zero.Detach(s)).Sum(s).Backward()
		assert.Equal(t, make([]float64, 4), torch.ToSlice[float64](zero.Grad(s)))
		Features{Net: blind{}}.Distance(s, a, b)
		return nil
	})
	require.EqualError(t, err, "features: want the same layers of both images, at least one, got 0 and 0")
}

// A network of LPIPS gives a step's loss and gradients, as LPIPS and as features, and with all of its channels alike the one is
// the other with sums over channels for means.
func TestPerceptualDistances(t *testing.T) {
	metric, err := lpips.New(lpips.Config{Resize: lpips.ResizeSmall}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer metric.Close()
	net, err := unet.New(unet.Config{Resolution: 8, InChannels: 1, Channels: 8, Mult: []int{1}, Blocks: 1, NormGroups: 4}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer net.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		batch := Batch{X: torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 1, 8, 8).Clamp(s, -1, 1)}
		for _, d := range []Distance{metric, Features{Net: metric}, Features{Net: metric, Normalized: true}} {
			ct := &CT{Model: &models.Consistency{Net: net}, Schedule: Progressive{S1: 20, Steps: 100}, Distance: d}
			require.NoError(t, ct.Validate())
			for _, p := range net.Parameters() {
				p.ZeroGrad()
			}
			z := torch.Randn(s, torch.NewGenerator(s, 2), torch.Float32, 2, 1, 8, 8)
			loss := ct.LossAt(s, batch, []float64{1, 20}, []float64{2, 30}, z, 0)
			require.Greater(t, loss.Item(), 0.0)
			loss.Backward()
			for name, p := range net.Parameters() {
				require.Zero(t, torch.CountNonFinite(s, []*torch.Tensor{p.Grad(s)}), name)
				require.NotZero(t, p.Grad(s).Abs(s).Max(s).Item(), name)
			}
		}
		a, b := batch.X, batch.X.Flip(s, 3)
		want := torch.Zeros(s, torch.Float32, 2)
		y, z := metric.Features(s, a), metric.Features(s, b)
		for i := range y {
			one := Features{Net: oneLayer{metric, i}, Normalized: true}
			want = want.Add(s, one.Distance(s, a, b).MulScalar(s, float64(y[i].Dim(1))))
			require.Equal(t, y[i].Shape(), z[i].Shape())
		}
		require.InDeltaSlice(t, torch.ToSlice[float32](want), torch.ToSlice[float32](metric.Distance(s, a, b)), 1e-4)
		require.EqualError(t, s.Run(func(s *torch.Scope) error {
			x := torch.Zeros(s, torch.Float32, 1, 2, 8, 8)
			Features{Net: metric}.Distance(s, x, x)
			return nil
		}), "lpips: want images [B, 3, H, W] or [B, 1, H, W], got [1 2 8 8]")
		return nil
	}))
}

// oneLayer is a layer of a network.
type oneLayer struct {
	net FeatureNetwork
	i   int
}

func (l oneLayer) Features(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	return l.net.Features(s, x)[l.i : l.i+1]
}
