package unet

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// adapt makes adapters of rank 2 for every linear layer and convolution but those of the embeddings and at both ends.
func adapt(t testing.TB, net *nn.Store, d torch.DType) (nn.Adapters, *nn.Store) {
	t.Helper()
	all := nn.Adapters{}
	const rank = 2
	own, err := nn.Build(net.Device(), d, 5, func(p nn.Path) {
		for path, l := range net.Layers() {
			shape := l.Kernel().Shape()
			init := nn.Uniform(0.2)
			switch l := l.(type) {
			case nn.Linear:
				if len(path) > 14 && path[:14] == "time_embedding" {
					continue
				}
				all[l.Weight] = []nn.Adapter{nn.LowRank{Down: nn.NewLinearInit(p.Sub(path, "down"), shape[1], rank, init, nil),
					Up: nn.NewLinearInit(p.Sub(path, "up"), rank, shape[0], init, nil), Scale: 0.5}}
			case nn.Conv2D:
				if path == "conv_in" || path == "conv_out" {
					continue
				}
				all[l.Weight] = []nn.Adapter{nn.LowRank{Down: nn.NewConv2DInit(p.Sub(path, "down"), shape[1], rank, shape[2], l.Opt, init, nil),
					Up: nn.NewConv2DInit(p.Sub(path, "up"), rank, shape[0], 1, torch.Conv2DOptions{}, init, nil), Scale: 0.5}}
			}
		}
	})
	require.NoError(t, err)
	t.Cleanup(own.Close)
	return all, own
}

// Checkpointing changes neither results nor gradients, to the bit: with adapters on a frozen network, with all weights trained (the
// embeddings' too, whose gradients all blocks share), with prompt embeddings and residuals of ControlNets that require gradients, and with
// transformers of several blocks (sdxl).
func TestCheckpointingIsExact(t *testing.T) {
	require.NoError(t, torch.SetThreads(1))
	for _, name := range []string{"sd15", "sdxl", "lcm", "nomid"} {
		for _, d := range []torch.DType{torch.Float64, torch.Float32} {
			for _, trained := range []string{"adapters", "weights"} {
				t.Run(fmt.Sprint(name, "/", d, "/", trained), func(t *testing.T) {
					require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
						g := open(t, s, name)
						u := g.network(t, d)
						x, c := g.as(s, "x", d), g.cond(s, d)
						learned := u.Store()
						if trained == "adapters" {
							c.Adapters, learned = adapt(t, u.Store(), d)
						}
						learned.SetRequiresGrad(true)
						c.Text = c.Text.Clone(s)
						c.Text.SetRequiresGrad(true)
						x = x.Clone(s)
						x.SetRequiresGrad(true)
						leaves := map[string]*torch.Tensor{"text": c.Text, "x": x}
						for name, p := range learned.Parameters() {
							leaves[name] = p
						}
						if name == "sd15" {
							c.Control = control(s, u, x, c, d)
							for i, r := range c.Control.Down {
								r.SetRequiresGrad(true)
								leaves[fmt.Sprint("residual ", i)] = r
							}
						}
						run := func(checkpointing bool) map[string][]byte {
							out := map[string][]byte{}
							require.NoError(t, s.Run(func(s *torch.Scope) error {
								c.Checkpointing = checkpointing
								for _, p := range leaves {
									p.ZeroGrad()
								}
								y := u.Forward(s, x, g.tensors["t"], c)
								out["y"] = y.Detach(s).Bytes()
								y.Square(s).Mean(s).Backward()
								for name, p := range leaves {
									if grad := p.Grad(s); grad != nil {
										out[name] = grad.Contiguous(s).Bytes()
									}
								}
								return nil
							}))
							return out
						}
						want, got := run(false), run(true)
						require.Contains(t, want, "text")
						require.Greater(t, len(want), 30)
						require.Len(t, got, len(want))
						for name := range want {
							require.Equal(t, want[name], got[name], name)
						}
						return nil
					}))
				})
			}
		}
	}
}

// control returns residuals for a network's skip connections.
func control(s *torch.Scope, u *UNet, x *torch.Tensor, c models.Cond, d torch.DType) *models.Residuals {
	r := &models.Residuals{}
	g := torch.NewGenerator(s, 9)
	require := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	require(s.NoGrad(func(inner *torch.Scope) error {
		in := u.embed(inner, torch.Zeros(inner, torch.Float32, 1), d, c)
		for _, skip := range u.descend(inner, u.convIn.Forward(inner, x.Detach(inner)), in) {
			r.Down = append(r.Down, torch.Randn(s, g, torch.Float32, skip.Shape()...).To(s, d).MulScalar(s, 0.1).Detach(s))
		}
		return nil
	}))
	return r
}

// Checkpointing lowers the peak memory of a forward and a backward pass with adapters. Without it the peak grows with every block, since
// all keep their intermediate results; with it there are the blocks' inputs and the intermediate results of one.
func TestCheckpointingMemory(t *testing.T) {
	if !torchtest.Alone(t) {
		return
	}
	c := SD15()
	c.BlockOutChannels, c.LayersPerBlock, c.CrossAttentionDim = Ints{64, 64}, Ints{2}, Ints{32}
	c.DownBlockTypes, c.UpBlockTypes = []string{crossDownBlock, crossDownBlock}, []string{crossUpBlock, crossUpBlock}
	u, err := From(c, sdtest.Filled(Shapes(c)), torch.CPU, torch.Float32)
	require.NoError(t, err)
	t.Cleanup(u.Close)
	adapters, _ := adapt(t, u.Store(), torch.Float32)
	u.Store().Unpack()
	// The allocator's peak does not go down, so that each pass has to need more than the one before.
	activations := func(side int, checkpointing bool) float64 {
		var before, after torch.MemoryStats
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) (err error) {
			g := torch.NewGenerator(s, 1)
			x, text := torch.Randn(s, g, torch.Float32, 2, 4, side, side), torch.Randn(s, g, torch.Float32, 2, 77, 32)
			if before, err = torch.CPU.Memory(); err != nil {
				return err
			}
			y := u.Forward(s, x, torch.Zeros(s, torch.Float32, 1), models.Cond{Text: text, Adapters: adapters, Checkpointing: checkpointing})
			y.Square(s).Mean(s).Backward()
			after, err = torch.CPU.Memory()
			return err
		}))
		require.Greater(t, after.PeakAllocated, before.PeakAllocated, "choose a larger size")
		return float64(after.PeakAllocated - before.Allocated)
	}
	activations(8, false) // makes the gradients
	with, without := activations(32, true), activations(32, false)
	t.Logf("%.1f MiB with checkpointing, %.1f without", with/(1<<20), without/(1<<20))
	require.Less(t, with, 0.35*without)
}
