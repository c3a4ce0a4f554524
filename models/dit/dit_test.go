package dit

import (
	"errors"
	"iter"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// tiny is a network that tests can afford.
var tiny = Config{Resolution: 8, Width: 32, Depth: 2, Heads: 2, Freqs: 32}

func build(t *testing.T, c Config) *DiT {
	t.Helper()
	net, err := New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	return net
}

func TestConformance(t *testing.T) {
	classes := tiny
	classes.Classes, classes.Dropout, classes.OutChannels = 4, 0.2, 6
	jump := Config{Resolution: 9, InChannels: 1, Patch: 3, Width: 24, Depth: 3, Heads: 1, MLPWidth: 50, Until: true}
	guided := Config{Resolution: 6, InChannels: 4, Patch: 1, Width: 16, Depth: 1, Freqs: 8, EndpointFreqs: true, Dropout: 0.1}
	guided.Classes, guided.Until, guided.Guidance = 2, true, true
	one := Config{Resolution: 4, InChannels: 2, Patch: 4, Width: 8, Depth: 1} // a single token
	for _, c := range []struct {
		name   string
		config Config
	}{{"tiny", tiny}, {"classes", classes}, {"until", jump}, {"until and guidance", guided}, {"one token", one}} {
		t.Run(c.name, func(t *testing.T) {
			full := c.config.WithDefaults()
			expect := modelstest.Expect{
				Shape: []int{full.InChannels, full.Resolution, full.Resolution}, Out: full.OutChannels, Classes: full.Classes,
				Until: full.Until, Guidance: full.Guidance, Dropout: full.Dropout > 0, NoClass: full.Classes > 0,
			}
			torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
				net := modelstest.Network(t, dev, func(dev torch.Device, dtype torch.DType, seed uint64) (*DiT, error) {
					return New(c.config, dev, dtype, seed)
				}, expect)
				if full.OutChannels == full.InChannels {
					modelstest.Consistency(t, dev, &models.Consistency{Net: net}, 0.002, expect)
					modelstest.Consistency(t, dev, &models.Consistency{Net: net, Boundary: models.AtZero}, 0, expect)
				}
			})
		})
	}
}

// randomize gives every parameter values that let signals through: gates start at zero.
func randomize(s *torch.Scope, params iter.Seq2[string, *torch.Tensor]) {
	g := torch.NewGenerator(s, 7)
	_ = s.NoGrad(func(s *torch.Scope) error {
		for _, p := range params {
			p.AddInPlace(s, torch.Randn(s, g, torch.Float32, p.Shape()...).MulScalar(s, 0.1).To(s, p.DType()))
		}
		return nil
	})
}

// Blocks start as the identity and the network as zero.
func TestInitialWeights(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		net := build(t, tiny)
		g := torch.NewGenerator(s, 1)
		x, at := torch.Randn(s, g, torch.Float32, 2, 3, 8, 8), torch.Zeros(s, torch.Float32, 2)
		require.Zero(t, net.Forward(s, x, at, models.Cond{}).Abs(s).Max(s).Item())
		h := net.tokens(s, x, nil)
		same := net.blocks[0].forward(s, h, torch.Randn(s, g, torch.Float32, 2, 32), models.Cond{})
		require.Equal(t, torch.ToSlice[float32](h.Detach(s)), torch.ToSlice[float32](same.Detach(s)))

		// Glorot & Bengio's rule: uniform, so the standard deviation is the bound over √3.
		w := net.blocks[1].fc1.Weight.Detach(s)
		bound := math.Sqrt(6.0 / (32 + 128))
		require.LessOrEqual(t, w.Abs(s).Max(s).Item(), bound)
		require.InEpsilon(t, bound/math.Sqrt(3), w.Std(s, 0).Item(), 0.05)
		return nil
	}))
}

// From its zeros the network wakes up in two steps of gradient descent: at first only the last layer has a gradient, then
// the modulations and the patches too, and then what the gates let through: every parameter.
func TestZeroInitialisationWakesUp(t *testing.T) {
	c := tiny
	c.Classes, c.Until, c.Guidance = 3, true, true
	net := build(t, c)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		x, at := torch.Randn(s, g, torch.Float32, 4, 3, 8, 8), torch.Randn(s, g, torch.Float32, 4)
		target := torch.Randn(s, g, torch.Float32, 4, 3, 8, 8)
		cond := models.Cond{Class: torch.FromSlice(s, []int64{0, 1, 2, 3}), Until: at.SubScalar(s, 0.4), Guidance: at.AddScalar(s, 3)}
		var silent []int // how many parameters have no gradient in each step
		for range 3 {
			require.NoError(t, s.Run(func(s *torch.Scope) error {
				net.Forward(s, x, at, cond).Sub(s, target).Square(s).Mean(s).Backward()
				n := 0
				for _, p := range net.Parameters() {
					if p.Grad(s).Abs(s).Max(s).Item() == 0 {
						n++
					}
				}
				silent = append(silent, n)
				return s.NoGrad(func(s *torch.Scope) error {
					for _, p := range net.Parameters() {
						p.AddScaledInPlace(s, p.Grad(s), -0.5)
						p.ZeroGrad()
					}
					return nil
				})
			}))
		}
		t.Logf("parameters without gradients: %v", silent)
		all := 0
		for range net.Parameters() {
			all++
		}
		require.Equal(t, all-2, silent[0])
		require.Less(t, silent[1], silent[0])
		require.Zero(t, silent[2])
		return nil
	}))
}

// Dropout acts in both halves of a block: on what attention gives, and inside the MLP.
func TestDropoutInBothHalves(t *testing.T) {
	c := tiny
	c.Depth, c.Dropout = 1, 0.3
	for _, silent := range []string{"blocks.0.attn.proj.", "blocks.0.mlp.fc2."} { // one half's last layer, set to zero
		net := build(t, c)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			randomize(s, net.Parameters())
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				for name, p := range net.Parameters() {
					if strings.HasPrefix(name, silent) {
						p.ZeroInPlace(s)
					}
				}
				return nil
			}))
			g := torch.NewGenerator(s, 1)
			x, at := torch.Randn(s, g, torch.Float32, 2, 3, 8, 8), torch.Zeros(s, torch.Float32, 2)
			plain := net.Forward(s, x, at, models.Cond{})
			require.Greater(t, net.Forward(s, x, at, models.Cond{Dropout: models.DropoutFrom(1)}).Sub(s, plain).Abs(s).Max(s).Item(), 1e-3, silent)
			return nil
		}))
	}
}

// What does not fit is an error that names it.
func TestForwardErrors(t *testing.T) {
	c, both := tiny, tiny
	c.Classes = 3
	both.Until, both.Guidance = true, true
	class := func(last int64) func(*torch.Scope) models.Cond {
		return func(s *torch.Scope) models.Cond { return models.Cond{Class: torch.FromSlice(s, []int64{0, last})} }
	}
	until := func(s *torch.Scope) models.Cond { return models.Cond{Until: torch.Zeros(s, torch.Float32, 2)} }
	guidance := func(s *torch.Scope) models.Cond { return models.Cond{Guidance: torch.Zeros(s, torch.Float32, 2)} }
	images := []int{2, 3, 8, 8}
	for _, tc := range []struct {
		name   string
		config Config
		x      []int
		cond   func(s *torch.Scope) models.Cond
		want   string
	}{
		{"no class", c, images, nil, "needs a class (Cond.Class) for each sample, or 3 for"},
		{"a class too many", tiny, images, class(1), "Cond.Class"},
		{"class out of range", c, images, class(4), "want numbers from 0 to"},
		{"until too many", tiny, images, until, "does not take the end of a jump (Cond.Until)"},
		{"guidance too many", tiny, images, guidance, "does not take a guidance scale (Cond.Guidance)"},
		{"no until", both, images, guidance, "needs the end of a jump (Cond.Until) for each sample"},
		{"no guidance", both, images, until, "needs a guidance scale (Cond.Guidance) for each sample"},
		{"channels", tiny, []int{2, 4, 8, 8}, nil, "want images of shape [B, 3, 8, 8], got [2 4 8 8]"},
		{"another size", tiny, []int{2, 3, 16, 16}, nil, "want images of shape [B, 3, 8, 8], got [2 3 16 16]"},
		{"odd size", tiny, []int{2, 3, 7, 7}, nil, "want images of shape [B, 3, 8, 8], got [2 3 7 7]"},
		{"no batch", tiny, []int{3, 8, 8}, nil, "want images of shape [B, 3, 8, 8], got [3 8 8]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			net := build(t, tc.config)
			err := torch.Run(torch.CPU, func(s *torch.Scope) error {
				var cond models.Cond
				if tc.cond != nil {
					cond = tc.cond(s)
				}
				net.Forward(s, torch.Zeros(s, torch.Float32, tc.x...), torch.Zeros(s, torch.Float32, 2), cond)
				return nil
			})
			var e *torch.Error
			require.True(t, errors.As(err, &e), "%v", err)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

// Dropout masks are those of the block: a block alone draws the same again, and with another place in the network others.
func TestDropoutIsOfTheBlock(t *testing.T) {
	c := tiny
	c.Depth, c.Dropout = 3, 0.3
	net := build(t, c)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		randomize(s, net.Parameters())
		g := torch.NewGenerator(s, 1)
		x := torch.Randn(s, g, torch.Float32, 2, 4, net.config.Width)
		emb := torch.Randn(s, g, torch.Float32, 2, net.config.Width)
		cond := models.Cond{Dropout: models.DropoutFrom(7)}
		var seen [][]float32
		for _, b := range net.blocks {
			alone := net.blocks[0] // the same weights at every place
			alone.number = b.number
			run := func() []float32 { return torch.ToSlice[float32](alone.forward(s, x, emb, cond)) }
			y := run()
			require.Equal(t, y, run())
			require.NotContains(t, seen, y)
			seen = append(seen, y)
		}
		return nil
	}))
}
