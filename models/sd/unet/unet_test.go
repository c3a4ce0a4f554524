package unet

import (
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestConformance(t *testing.T) {
	for _, name := range []string{"sd15", "lcm", "sdxl", "nomid"} {
		t.Run(name, func(t *testing.T) {
			var config Config
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				config = open(t, s, name).network(t, torch.Float32).Config()
				return nil
			}))
			side := 8
			if name == "sd15" {
				side = 16 // three levels down attention still has several pixels
			}
			expect := modelstest.Expect{
				Shape: []int{config.InChannels, side, side}, Out: config.OutChannels, Text: []int{5, config.CrossAttentionDim[0]},
				Guidance: config.TimeCondProjDim > 0, Float32Labels: true,
			}
			if config.AdditionTimeEmbedDim > 0 {
				expect.Sizes = 6
				expect.Pooled = config.ProjectionInputDim - 6*config.AdditionTimeEmbedDim
			}
			torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
				modelstest.Network(t, dev, func(dev torch.Device, dtype torch.DType, seed uint64) (*UNet, error) {
					return New(config, dev, dtype, seed)
				}, expect)
			})
		})
	}
}

// In half precision results are about as far from float32's as diffusers' are: up to 0.036 in bfloat16 and 0.004 in float16,
// of narrow networks with drawn weights; here up to 0.051, with group norms that are not rounded before SiLU. They are not when sines and cosines are rounded before the end.
func TestHalfPrecision(t *testing.T) {
	for dtype, tolerance := range map[torch.DType]float64{torch.BFloat16: 5.5e-2, torch.Float16: 6e-3} {
		for _, name := range append(cases, "controlnet") {
			t.Run(fmt.Sprint(name, "/", dtype), func(t *testing.T) {
				assert.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					return s.NoGrad(func(s *torch.Scope) error {
						g := open(t, s, name)
						u, x, c := g.network(t, dtype), g.as(s, "x", dtype), g.cond(s, dtype)
						if name == "controlnet" {
							n, image := g.controlNet(t, dtype), g.as(s, "image", dtype)
							c.Control = n.Forward(s, x, g.tensors["t"], c, image, 0.8, false)
						}
						y := u.Forward(s, x, g.tensors["t"], c)
						require.Equal(t, dtype, y.DType())
						d := distance(s, g.tensors["y"], y)
						t.Logf("%s: largest difference %.2g", dtype, d)
						require.Less(t, d, tolerance)
						return nil
					})
				}))
			})
		}
	}
}

// counter is an adapter that notes how often it was asked and changes nothing, or doubles the layer's weight.
type counter struct {
	calls  int
	double bool
}

func (c *counter) AddTo(s *torch.Scope, sum, w *torch.Tensor) {
	c.calls++
	if c.double {
		sum.AddInPlace(s, w)
	}
}

// Every linear layer and every convolution asks the adapter of its weight.
func TestAdapters(t *testing.T) {
	for _, name := range []string{"lcm", "sd2", "ssd1b", "controlnet"} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				return s.NoGrad(func(s *torch.Scope) error {
					g := open(t, s, name)
					u, x, c := g.network(t, torch.Float32), g.tensors["x"], g.cond(s, torch.Float32)
					counters := map[string]*counter{}
					c.Adapters = nn.Adapters{}
					watch := func(prefix string, store *nn.Store) {
						for name, p := range store.Parameters() {
							if p.NDim() > 1 {
								counters[prefix+name] = &counter{}
								c.Adapters[p] = []nn.Adapter{counters[prefix+name]}
							}
						}
					}
					watch("", u.Store())
					want := u.Forward(s, x, g.tensors["t"], c)
					if name == "controlnet" {
						n := g.controlNet(t, torch.Float32)
						watch("control.", n.Store())
						n.Forward(s, x, g.tensors["t"], c, g.tensors["image"], 1, true)
					} else {
						requireClose(t, s, g.tensors["y"], want, tolerance32, "with idle adapters")
					}
					for name, a := range counters {
						require.Equal(t, 1, a.calls, name)
					}
					counters["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.weight"].double = true
					require.NotZero(t, distance(s, want, u.Forward(s, x, g.tensors["t"], c)))
					return nil
				})
			}))
		})
	}
}

// A pass frees everything but its result, and leaves what it was given as it was.
func TestForwardFrees(t *testing.T) {
	for _, name := range []string{"sdxl", "controlnet", "nomid"} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			g := open(t, s, name)
			u, x, c := g.network(t, torch.Float64), g.as(s, "x", torch.Float64), g.cond(s, torch.Float64)
			before, made := torch.Live(), 1
			if name == "controlnet" {
				image := g.as(s, "image", torch.Float64)
				n := g.controlNet(t, torch.Float64)
				before = torch.Live()
				c.Control = n.Forward(s, x, g.tensors["t"], c, image, 1, false)
				made += len(c.Control.Down) + 1
			}
			for _, run := range []func(func(*torch.Scope) error) error{s.NoGrad, s.Run} {
				require.NoError(t, run(func(s *torch.Scope) error {
					y := u.Forward(s, x, g.tensors["t"], c)
					require.EqualValues(t, before+int64(made), torch.Live())
					again := u.Forward(s, x, g.tensors["t"], c)
					require.Zero(t, distance(s, y, again), "inputs changed")
					return nil
				}))
			}
			return nil
		}))
	}
}

// Random weights: a new network runs, has gradients, and depends on nothing but its seed; a new ControlNet says nothing.
func TestNew(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := open(t, s, "controlnet")
		config, control := g.network(t, torch.Float32).Config(), g.controlNet(t, torch.Float32).Config()
		var outputs []*torch.Tensor
		for range 2 {
			u, err := New(config, torch.CPU, torch.Float32, 7)
			require.NoError(t, err)
			defer u.Close()
			require.Equal(t, nn.Count(Shapes(config)), u.Store().Count())
			require.Len(t, maps.Collect(u.Tensors()), len(Shapes(config)))
			outputs = append(outputs, u.Forward(s, g.tensors["x"], g.tensors["t"], g.cond(s, torch.Float32)))
			require.True(t, outputs[0].RequiresGrad())
		}
		require.Zero(t, distance(s, outputs[0], outputs[1]))

		n, err := NewControlNet(control, torch.CPU, torch.Float32, 7)
		require.NoError(t, err)
		defer n.Close()
		require.Equal(t, 8, n.Reduction())
		require.Len(t, maps.Collect(n.Tensors()), len(maps.Collect(n.Parameters())))
		add := n.Forward(s, g.tensors["x"], g.tensors["t"], g.cond(s, torch.Float32), g.tensors["image"], 1, false)
		for _, v := range append(add.Down, add.Mid) {
			require.Zero(t, v.Abs(s).Max(s).Item())
		}
		return nil
	}))
}

// What a pass is given wrongly is told, with what was wanted.
func TestForwardRefuses(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		zeros := func(dims ...int) *torch.Tensor { return torch.Zeros(s, torch.Float32, dims...) }
		lcm, xl := open(t, s, "lcm").network(t, torch.Float32), open(t, s, "sdxl").network(t, torch.Float32)
		control := open(t, s, "controlnet").controlNet(t, torch.Float32)
		x, at, text, w := zeros(2, 4, 8, 8), zeros(1), zeros(2, 7, 32), zeros(2)
		other := zeros(2, 7, 24) // the text of sdxl and controlnet
		type call struct {
			x, t *torch.Tensor
			c    models.Cond
		}
		for want, c := range map[string]call{
			"want latents of shape [n, 4, h, w], got [4 8 8]":                {zeros(4, 8, 8), at, models.Cond{Text: text, Guidance: w}},
			"want latents of shape [n, 4, h, w], got [2 9 8 8]":              {zeros(2, 9, 8, 8), at, models.Cond{Text: text, Guidance: w}},
			"one for each of 2 samples, [2], or one for all, got shape [3]":  {x, zeros(3), models.Cond{Text: text, Guidance: w}},
			"prompt embeddings in Cond.Text":                                 {x, at, models.Cond{Guidance: w}},
			"want Cond.Text of shape [2, tokens, 32], got [2 7 24]":          {x, at, models.Cond{Text: other, Guidance: w}},
			"want Cond.Text of shape [2, tokens, 32], got [1 7 32]":          {x, at, models.Cond{Text: zeros(1, 7, 32), Guidance: w}},
			"a guidance scale: true; Cond.Guidance is set: f":                {x, at, models.Cond{Text: text}},
			"Cond.Guidance of shape [2], [1] or, embedded, [2, 32], got [3]": {x, at, models.Cond{Text: text, Guidance: zeros(3)}},
			"or, embedded, [2, 32], got [2 33]":                              {x, at, models.Cond{Text: text, Guidance: zeros(2, 33)}},
			"takes neither pooled text nor sizes":                            {x, at, models.Cond{Text: text, Guidance: w, Sizes: zeros(2, 6)}},
			"want 4 residuals in Cond.Control.Down, got 12": {x, at, models.Cond{
				Text: text, Guidance: w, Control: &models.Residuals{Down: make([]*torch.Tensor, 12)},
			}},
			"Cond.Class is set": {x, at, models.Cond{Text: text, Guidance: w, Class: zeros(2)}},
			"Cond.Until is set": {x, at, models.Cond{Text: text, Guidance: w, Until: zeros(2)}},
		} {
			err := torch.Catch(func() { lcm.Forward(s, c.x, c.t, c.c) })
			require.ErrorContains(t, err, "unet: ")
			require.ErrorContains(t, err, want)
		}
		for want, c := range map[string]models.Cond{
			"a guidance scale: false; Cond.Guidance is set: t":    {Text: other, Guidance: w},
			"pooled text and sizes in Cond.Pooled and Cond.Sizes": {Text: other, Pooled: zeros(2, 20)},
			"p + 8·k = 68, got [2 20] and [2 5]":                  {Text: other, Pooled: zeros(2, 20), Sizes: zeros(2, 5)},
			"got [2 20] and [1 6]":                                {Text: other, Pooled: zeros(2, 20), Sizes: zeros(1, 6)},
		} {
			require.ErrorContains(t, torch.Catch(func() { xl.Forward(s, x, at, c) }), want)
		}
		for want, in := range map[string][2]*torch.Tensor{
			"want an image of shape [2, 3, 64, 64] for latents [2 4 8 8], got [2 3 56 64]": {other, zeros(2, 3, 56, 64)},
			"want an image of shape [2, 3, 64, 64] for latents [2 4 8 8], got [2 1 64 64]": {other, zeros(2, 1, 64, 64)},
			"want Cond.Text of shape [2, tokens, 24]":                                      {text, zeros(2, 3, 64, 64)},
		} {
			err := torch.Catch(func() { control.Forward(s, x, at, models.Cond{Text: in[0]}, in[1], 1, false) })
			require.ErrorContains(t, err, "controlnet: ")
			require.ErrorContains(t, err, want)
		}
		return nil
	}))
}

// Goroutines can share a network, at sizes of their own.
func TestConcurrent(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := open(t, s, "sd15")
		u := g.network(t, torch.Float32)
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				assert.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					return s.NoGrad(func(s *torch.Scope) error {
						x, at, text := g.tensors["x"], g.tensors["t"], g.tensors["text"]
						if i%2 == 0 {
							x = x.Narrow(s, 2, 0, 8)
						}
						y := u.Forward(s, x, at, models.Cond{Text: text})
						if i%2 == 1 {
							assert.Less(t, distance(s, g.tensors["y"], y), tolerance32)
						}
						return nil
					})
				}))
			})
		}
		all.Wait()
		return nil
	}))
}

// meter is both layers of an adapter of rank 0. It notes the most memory that tensors held when the layer that it adapts was done.
type meter struct {
	kernel *torch.Tensor // [1, 0]
	most   *int64
}

func (a meter) Kernel() *torch.Tensor { return a.kernel }

func (a meter) Forward(s *torch.Scope, _ *torch.Tensor) *torch.Tensor {
	m, err := torch.CPU.Memory()
	if err != nil {
		panic(err)
	}
	*a.most = max(*a.most, m.Allocated)
	return torch.Zeros(s, torch.Float32, 1)
}

// A pass without gradients holds no more than what the way up still needs and a layer's inputs and result. Of the first
// level's images, the unit here, that is most behind the first layer of an MLP: 8 in its result, its input, three between
// the steps of the transformer, and one that is handed over.
func TestForwardMemory(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			const channels, side = 32, 64
			var c Config
			c.Encoder = Encoder{
				BlockOutChannels: Ints{channels, channels}, DownBlockTypes: []string{crossDownBlock, downBlock},
				MidBlockType: NoMid, LayersPerBlock: Ints{1}, NormNumGroups: 8, CrossAttentionDim: Ints{16},
			}
			c.UpBlockTypes = []string{upBlock, crossUpBlock}
			u, err := New(c, torch.CPU, torch.Float32, 1)
			require.NoError(t, err)
			defer u.Close()
			x, text := torch.Zeros(s, torch.Float32, 1, 4, side, side), torch.Zeros(s, torch.Float32, 1, 7, 16)
			before, err := torch.CPU.Memory()
			require.NoError(t, err)
			most := before.Allocated
			adapters := nn.Adapters{}
			m := meter{torch.Zeros(s, torch.Float32, 1, 0), &most}
			for _, p := range u.Parameters() {
				if p.NDim() > 1 {
					adapters[p] = []nn.Adapter{nn.LowRank{Down: m, Up: m}}
				}
			}
			u.Forward(s, x, torch.Zeros(s, torch.Int64, 1), models.Cond{Text: text, Adapters: adapters})
			unit := int64(4 * channels * side * side)
			require.InDelta(t, 13, float64(most-before.Allocated)/float64(unit), 0.2)
			return nil
		})
	}))
}
