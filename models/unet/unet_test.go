package unet

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// tiny is a network that tests can afford.
var tiny = Config{Resolution: 8, Channels: 16, Mult: []int{1, 2}, Blocks: 1, Attention: []int{4}, NormGroups: 4}

func build(t *testing.T, c Config) *UNet {
	t.Helper()
	net, err := New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	return net
}

func TestConformance(t *testing.T) {
	song := DDPMPP(12, 2, 16, []int{1, 2}, 1, 6)
	song.Dropout = 0.2
	adm := ADM(8, 3, 32, []int{1, 2}, 1, 8)
	adm.Classes, adm.HeadDim, adm.OutChannels = 4, 16, 6
	ddpm := tiny
	ddpm.Resample, ddpm.PadAfter, ddpm.Classes, ddpm.Dropout = ResampleConv, true, 3, 0.1
	fourier := Config{Resolution: 14, InChannels: 1, Channels: 8, Mult: []int{1, 1}, Blocks: 2, Embedding: Fourier, FourierScale: 0.5, NoMidAttention: true}
	ncsnpp := NCSNPP(12, 3, 8, []int{1, 2, 2}, 1, 6)
	ncsnpp.FourierScale, ncsnpp.Dropout = 0.5, 0.1
	ncsnpp.Classes, ncsnpp.NullLabel, ncsnpp.Until, ncsnpp.Guidance = 3, true, true, true
	pyramid := ddpm // with neither a filter nor residual resampling
	pyramid.ResidualInput, pyramid.Until, pyramid.Guidance, pyramid.NullLabel = true, true, true, true
	for _, c := range []struct {
		name   string
		config Config
	}{{"ddpm++", song}, {"adm", adm}, {"ddpm", ddpm}, {"fourier", fourier}, {"ncsn++", ncsnpp}, {"pyramid", pyramid}} {
		t.Run(c.name, func(t *testing.T) {
			full := c.config.WithDefaults()
			expect := modelstest.Expect{
				Shape: []int{full.InChannels, full.Resolution, full.Resolution}, Out: full.OutChannels, Classes: full.Classes,
				Until: full.Until, Guidance: full.Guidance, Dropout: full.Dropout > 0, NoClass: full.NullLabel, Initial: 0.01,
			}
			torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
				net := modelstest.Network(t, dev, func(dev torch.Device, dtype torch.DType, seed uint64) (*UNet, error) {
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

// What does not fit is an error that names it.
func TestForwardErrors(t *testing.T) {
	c, none, both := tiny, tiny, tiny
	c.Classes = 3
	none.Classes, none.NullLabel = 3, true
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
		{"no class", c, images, nil, "needs a class (Cond.Class) for each sample"},
		{"no class, nor none", none, images, nil, "needs a class (Cond.Class) for each sample, or 3 for"},
		{"a class too many", tiny, images, class(1), "Cond.Class"},
		{"class out of range", c, images, class(3), "want numbers from 0 to 2, got 0 to 3"},
		{"none out of range", none, images, class(4), "want numbers from 0 to 3, got 0 to 4"},
		{"until too many", tiny, images, until, "does not take the end of a jump (Cond.Until)"},
		{"guidance too many", tiny, images, guidance, "does not take a guidance scale (Cond.Guidance)"},
		{"no until", both, images, guidance, "needs the end of a jump (Cond.Until) for each sample"},
		{"no guidance", both, images, until, "needs a guidance scale (Cond.Guidance) for each sample"},
		{"channels", tiny, []int{2, 4, 8, 8}, nil, "got [2 4 8 8]"},
		{"odd size", tiny, []int{2, 3, 7, 7}, nil, "divisible by 2, got [2 3 7 7]"},
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

// randomize gives every parameter values that let signals through: the last layers of branches start near zero.
func randomize(s *torch.Scope, net *UNet) {
	g := torch.NewGenerator(s, 7)
	_ = s.NoGrad(func(s *torch.Scope) error {
		for _, p := range net.Parameters() {
			p.AddInPlace(s, torch.Randn(s, g, torch.Float32, p.Shape()...).MulScalar(s, 0.1))
		}
		return nil
	})
}

// A network that is told more begins as the one that is told less: by its initial weights, and by weights that it adopts. It
// learns from there: every parameter of what is new gets a gradient in two steps.
func TestAdopt(t *testing.T) {
	for _, embedding := range []Embedding{Positional, Fourier} {
		t.Run(string(embedding), func(t *testing.T) {
			less, classes := tiny, 3
			less.Embedding = embedding
			more := less
			more.Classes, more.NullLabel, more.Until, more.Guidance = classes, true, true, true
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := torch.NewGenerator(s, 1)
				x, at := torch.Randn(s, g, torch.Float32, 2, 3, 8, 8), torch.FromSlice(s, []float32{0.5, -1})
				told := models.Cond{Until: at.SubScalar(s, 0.4), Guidance: at.AddScalar(s, 3), Class: torch.FromSlice(s, []int64{0, 3})}
				values := func(net *UNet, c models.Cond) []float32 {
					return torch.ToSlice[float32](net.Forward(s, x, at, c).Detach(s))
				}
				jump := less
				jump.Until, jump.Guidance = true, true
				require.Equal(t, values(build(t, less), models.Cond{}),
					values(build(t, jump), models.Cond{Until: told.Until, Guidance: told.Guidance}), "initial weights")

				from, to := build(t, less), build(t, more)
				randomize(s, from)
				randomize(s, to)
				first := torch.ToSlice[float32](to.until.Linear1.Weight.Detach(s))
				require.ErrorContains(t, to.Load(from.Tensors()), "9 missing: class_embedding.weight, guidance_embedding.linear_1.bias")
				require.NoError(t, to.Adopt(from.Tensors()))
				require.Equal(t, values(from, models.Cond{}), values(to, told))
				require.Equal(t, first, torch.ToSlice[float32](to.until.Linear1.Weight.Detach(s)))
				silent := 0
				for range 2 {
					to.Forward(s, x, at, told).Square(s).Mean(s).Backward()
					silent = 0
					require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
						for _, p := range to.Parameters() {
							if p.Grad(s).Abs(s).Max(s).Item() == 0 {
								silent++
							}
							p.AddScaledInPlace(s, p.Grad(s), -0.1)
							p.ZeroGrad()
						}
						return nil
					}))
				}
				require.Zero(t, silent)
				require.NotEqual(t, values(from, models.Cond{}), values(to, told))

				// A network with classes gets a label for none.
				less.Classes = classes
				from = build(t, less)
				randomize(s, from)
				require.NoError(t, to.Adopt(from.Tensors()))
				told.Class = torch.FromSlice(s, []int64{2, 0})
				require.Equal(t, values(from, models.Cond{Class: told.Class}), values(to, told))
				require.Equal(t, make([]float32, 64), torch.ToSlice[float32](to.class.Weight.Detach(s).Select(s, 0, 3).Contiguous(s)))

				// Weights of the same network are adopted as they are; those of another are refused.
				twin := build(t, more)
				require.NoError(t, twin.Adopt(to.Tensors()))
				require.Equal(t, values(to, told), values(twin, told))
				require.ErrorContains(t, from.Adopt(to.Tensors()), "8 unexpected: guidance_embedding.linear_1.bias")
				require.ErrorContains(t, twin.Adopt(func(yield func(string, *torch.Tensor) bool) {
					for name, v := range to.Tensors() {
						if name != "until_embedding.linear_2.weight" && !yield(name, v) {
							return
						}
					}
				}), "1 missing: until_embedding.linear_2.weight")
				return nil
			}))
		})
	}
}

// Guidance over a network that was trained with labels for none is the formula of its two predictions, and the label for none
// is one of its own.
func TestGuided(t *testing.T) {
	c := NCSNPP(8, 3, 8, []int{1, 2}, 1, 4)
	c.Classes, c.NullLabel, c.FourierScale = 3, true, 0.5
	net := build(t, c)
	require.Equal(t, 3, net.Config().NullClass())
	require.Equal(t, -1, tiny.NullClass())
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		randomize(s, net)
		g := torch.NewGenerator(s, 1)
		d := &models.EDM{Net: net}
		x, at := torch.Randn(s, g, torch.Float32, 2, 3, 8, 8), torch.FromSlice(s, []float32{0.7, 20})
		class := torch.FromSlice(s, []int64{0, 2})
		denoised := func(labels ...int64) *torch.Tensor {
			return d.Denoise(s, x, at, models.Cond{Class: torch.FromSlice(s, labels)})
		}
		with, without := denoised(0, 2), denoised(3, 3)
		require.Greater(t, with.Sub(s, without).Abs(s).Max(s).Item(), 1e-2)
		want := without.Add(s, with.Sub(s, without).MulScalar(s, 2.5))
		guided := &models.Guided{Model: d, Null: models.Cond{Class: torch.FromSlice(s, []int64{int64(net.Config().NullClass())})}, Scale: 2.5}
		requireClose(t, s, want, guided.Denoise(s, x, at, models.Cond{Class: class}), tolerance, "guided")
		return nil
	}))
}

// Dropout masks are those of the block: a block alone draws what it draws in the network, and no two blocks, those that change the
// size included, draw the same.
func TestDropoutIsOfTheBlock(t *testing.T) {
	c := Config{Resolution: 8, InChannels: 2, Channels: 8, Mult: []int{1, 1}, Blocks: 1, NormGroups: 4, Resample: ResampleResidual, Dropout: 0.3}
	net, err := New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer net.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			for _, p := range net.Parameters() {
				p.NormalInPlace(s, 0, 0.3, g)
			}
			return nil
		}))
		g := torch.NewGenerator(s, 2)
		x, emb := torch.Randn(s, g, torch.Float32, 2, 8, 8, 8), torch.Randn(s, g, torch.Float32, 2, 32)
		cond := models.Cond{Dropout: models.DropoutFrom(7)}
		all := net.residuals()
		require.Len(t, all, 1+1+1+2+2+1+2) // down, its sampler, down, middle, up, its sampler, up
		var seen [][]float32
		for _, r := range all {
			alone := *all[0] // the same weights at every place
			alone.Place = r.Place
			run := func() []float32 { return torch.ToSlice[float32](alone.Forward(s, x, emb, cond)) }
			y := run()
			require.Equal(t, y, run())
			require.NotContains(t, seen, y)
			seen = append(seen, y)
		}
		return nil
	}))
}
