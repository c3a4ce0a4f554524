package sd_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/replay"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// rehearsed are graphs that fail the test if the function cannot be recorded; without a GPU they are rehearsed.
func rehearsed(t *testing.T, recorded *int) *replay.Graphs {
	g := &replay.Graphs{
		Failed: func(err error) { t.Error(err) },
		Record: func(s *torch.Scope, f func(*torch.Scope) []*torch.Tensor) (*torch.Graph, error) {
			*recorded++
			if s.Device().IsCUDA() {
				return torch.Record(s, f)
			}
			return torch.Rehearse(s, f)
		},
	}
	t.Cleanup(g.Close)
	return g
}

// What a call of the U-Net starts on a GPU is the same every time and moves nothing from or to the CPU, whatever the model, its precision and its
// conditions are; so it can be replayed, with the same result to the bit. So can the decoder's.
func TestNetworksAsGraphs(t *testing.T) {
	torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
		for _, kind := range []string{"sd15", "lcm15", "inpaint", "sd2", "sdxl", "ssd1b"} {
			for _, dtype := range []torch.DType{torch.Float32, torch.BFloat16} {
				t.Run(fmt.Sprintf("%s in %s", kind, dtype), func(t *testing.T) {
					dir := filepath.Join(t.TempDir(), "tiny")
					require.NoError(t, tiny.Write(dir, kind))
					m, err := sd.Open(dir, sd.Options{Device: dev, DType: dtype})
					require.NoError(t, err)
					defer m.Close()
					var recorded int
					net := &models.Replayed{Net: m.UNet, Store: m.UNet.Store(), Graphs: rehearsed(t, &recorded)}
					decodes := rehearsed(t, &recorded)
					require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
						return s.NoGrad(func(s *torch.Scope) error {
							config := m.UNet.Config()
							gen := torch.NewGenerator(s, 1)
							for i := range 5 {
								x := torch.Randn(s, gen, dtype, 2, config.InChannels, 8, 8)
								at := torch.Full(s, float64(900-200*i), torch.Float32, 1)
								c := models.Cond{Text: torch.Randn(s, gen, dtype, 2, 7, config.CrossAttentionDim[0])}
								if m.UNet.Config().AdditionEmbedType != "" {
									c.Pooled = torch.Randn(s, gen, dtype, 2, config.ProjectionInputDim-6*config.AdditionTimeEmbedDim)
									c.Sizes = torch.Full(s, 64, dtype, 2, 6)
								}
								if m.Distilled() {
									c.Guidance = torch.Full(s, 2, torch.Float64, 1)
								}
								want := m.UNet.Forward(s, x, at, c)
								require.Equal(t, want.Bytes(), net.Forward(s, x, at, c).Bytes(), "call %d", i+1)
								z := torch.Randn(s, gen, dtype, 1, m.VAE.Channels(), 8, 8)
								y := decodes.Call(s, m.VAE, func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return m.VAE.Decode(s, in[0]) }, z)
								require.Equal(t, m.VAE.Decode(s, z).Bytes(), y.Bytes(), "image %d", i+1)
							}
							require.Equal(t, 2, recorded)
							return nil
						})
					}))
				})
			}
		}
	})
}

// Other adapters, merged ones and none have graphs of their own, and those before them go.
func TestAdaptersAsGraphs(t *testing.T) {
	torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
		dir := filepath.Join(t.TempDir(), "tiny")
		require.NoError(t, tiny.Write(dir, "sd15"))
		m, err := sd.Open(dir, sd.Options{Device: dev})
		require.NoError(t, err)
		defer m.Close()
		var recorded int
		net := &models.Replayed{Net: m.UNet, Store: m.UNet.Store(), Graphs: rehearsed(t, &recorded)}
		require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				gen := torch.NewGenerator(s, 1)
				st, err := nn.NewStore(dev, torch.Float32, 1)
				require.NoError(t, err)
				defer st.Close()
				adapters := func(under string) nn.Adapters {
					a := nn.Adapters{}
					for name, w := range m.UNet.Store().Tensors() {
						if shape := w.Shape(); len(shape) == 2 {
							p := st.Root().Sub(under).Sub(name)
							a[w] = []nn.Adapter{nn.LowRank{Down: nn.NewLinear(p.Sub("down"), shape[1], 2), Up: nn.NewLinear(p.Sub("up"), 2, shape[0]), Scale: 1}}
						}
					}
					return a
				}
				x := torch.Randn(s, gen, torch.Float32, 1, 4, 8, 8)
				at := torch.Full(s, 500, torch.Float32, 1)
				c := models.Cond{Text: torch.Randn(s, gen, torch.Float32, 1, 7, m.UNet.Config().CrossAttentionDim[0])}
				one, two := adapters("one"), adapters("two")
				check := func(a nn.Adapters) {
					c.Adapters = a
					want := m.UNet.Forward(s, x, at, c)
					for range 4 {
						torchtest.Close(t, "output", net.Forward(s, x, at, c), want, 1e-6, 1e-5)
					}
				}
				for i, a := range []nn.Adapters{nil, one, two, one, nil} {
					check(a)
					require.Equal(t, i+1, recorded)
				}
				require.NoError(t, lora.Merge(m, one))
				check(nil)
				require.Equal(t, 6, recorded)
				require.NoError(t, lora.Merge(m, nil))
				check(nil)
				require.Equal(t, 7, recorded)
				return nil
			})
		}))
	})
}
