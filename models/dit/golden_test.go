package dit

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// tolerance is how far results may be from PyTorch's, relative to the largest element. Both sides compute in float32, in
// orders that differ in a few places (patches as a linear layer here, q, k and v in one).
const tolerance = 1e-5

// golden is a file of scripts/golden/models/dit/dit.py.
type golden struct {
	tensors  map[string]*torch.Tensor
	metadata map[string]string
}

func openGolden(t *testing.T, s *torch.Scope, name string) golden {
	t.Helper()
	tensors, metadata := torchtest.Golden(t, s, filepath.Join("testdata", name+".safetensors"))
	return golden{tensors, metadata}
}

// weights draws the weights that the generator drew, in the order that the file lists their names in. Embeddings in
// diffusers' layout are the same in every block.
func (g golden) weights(t *testing.T, s *torch.Scope, depth int) iter.Seq2[string, *torch.Tensor] {
	t.Helper()
	seed, err := strconv.ParseUint(g.metadata["seed"], 10, 64)
	require.NoError(t, err)
	stream := torch.NewGenerator(s, seed)
	all := map[string]*torch.Tensor{}
	for name, v := range torchtest.Drawn(t, g.metadata["weights"], func(_ string, dims []int) *torch.Tensor {
		v, n := torch.Randn(s, stream, torch.Float32, dims...), 1
		for _, d := range dims[1:] {
			n *= d
		}
		if len(dims) > 1 {
			return v.DivScalar(s, math.Sqrt(float64(n)))
		}
		return v.MulScalar(s, 0.1)
	}) {
		all[name] = v
		if part, ok := strings.CutPrefix(name, "transformer_blocks.0.norm1.emb."); ok {
			for i := range depth {
				all[fmt.Sprintf("transformer_blocks.%d.norm1.emb.%s", i, part)] = v
			}
		}
	}
	return maps.All(all)
}

func (g golden) cond() models.Cond {
	return models.Cond{Class: g.tensors["class"], Until: g.tensors["until"], Guidance: g.tensors["guidance"]}
}

func requireClose(t *testing.T, s *torch.Scope, want, got *torch.Tensor, what string) {
	t.Helper()
	require.Equal(t, want.Shape(), got.Shape(), what)
	d := got.Sub(s, want).Abs(s).Max(s).Item() / want.Abs(s).Max(s).Item()
	t.Logf("%s: largest difference %.2g", what, d)
	require.LessOrEqual(t, d, tolerance, what)
}

var diffusersCases = []string{"latent", "gray", "rgb"}

// The same configuration and weights give DiTTransformer2DModel's outputs, in every grad mode and for images in either
// memory format.
func TestDiTTransformer2DModel(t *testing.T) {
	for _, name := range diffusersCases {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := openGolden(t, s, name)
				c, err := FromDiffusers([]byte(g.metadata["config"]))
				require.NoError(t, err)
				net := build(t, c)
				require.NoError(t, net.Load(g.weights(t, s, c.Depth)))
				modes := map[string]func(func(*torch.Scope) error) error{"recording": s.Run, "no grad": s.NoGrad, "inference": s.Inference}
				for mode, run := range modes {
					require.NoError(t, run(func(s *torch.Scope) error {
						x, at := g.tensors["x"], g.tensors["t"]
						requireClose(t, s, g.tensors["y"], net.Forward(s, x, at, g.cond()), mode)
						requireClose(t, s, g.tensors["y"], net.Forward(s, x.ChannelsLast(s), at, g.cond()), mode+", channels last")
						return nil
					}))
				}
				return nil
			}))
		})
	}
}

// The layout of the original checkpoints: names, shapes, order of q, k and v, frequencies without their end. Outputs and
// gradients are those of an implementation of the paper in PyTorch, with an end of the jump and a guidance scale besides.
func TestOriginal(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s, "original")
		net := build(t, Config{
			Resolution: 6, InChannels: 3, Patch: 3, Width: 24, Depth: 2, Heads: 2, MLPWidth: 40, Freqs: 16, Classes: 4,
			Until: true, Guidance: true,
		})
		weights := maps.Collect(g.weights(t, s, 0))
		weights["pos_embed"] = g.tensors["pos_embed"]
		requireClose(t, s, g.tensors["pos_embed"], net.positions, "positions")
		require.NoError(t, net.Load(maps.All(weights)))

		x := g.tensors["x"].Clone(s)
		x.SetRequiresGrad(true)
		y := net.Forward(s, x, g.tensors["t"], g.cond())
		requireClose(t, s, g.tensors["y"], y, "output")
		y.Mul(s, g.tensors["weight"]).Sum(s).Backward()
		grads := map[string]*torch.Tensor{"x": x.Grad(s)}
		for k, p := range net.Parameters() {
			grads[k] = p.Grad(s)
		}
		compared := 0
		for k, want := range g.tensors {
			if name, ok := strings.CutPrefix(k, "grad:"); ok {
				requireClose(t, s, want, grads[name], k)
				compared++
			}
		}
		require.Equal(t, 35, compared)
		return nil
	}))
}

// What we save loads in diffusers: names, shapes and values are exactly DiTTransformer2DModel's, and so is the configuration
// we write.
func TestDiffusersLayout(t *testing.T) {
	for _, name := range diffusersCases {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := openGolden(t, s, name)
				c, err := FromDiffusers([]byte(g.metadata["config"]))
				require.NoError(t, err)
				net := build(t, c)
				given := maps.Collect(g.weights(t, s, c.Depth))
				require.NoError(t, net.Load(maps.All(given)))

				var names []string
				require.NoError(t, json.Unmarshal([]byte(g.metadata["names"]), &names))
				slices.Sort(names)
				written := maps.Collect(net.DiffusersTensors(s))
				require.Equal(t, names, slices.Sorted(maps.Keys(written)))
				for name, w := range written {
					require.Equal(t, given[name].Shape(), w.Shape(), name)
					require.Equal(t, torch.ToSlice[float32](given[name]), torch.ToSlice[float32](w.Detach(s)), name)
				}

				given["pos_embed.pos_embed"] = net.positions // which older versions wrote
				require.NoError(t, net.Load(maps.All(given)))

				config, err := c.Diffusers()
				require.NoError(t, err)
				again, err := FromDiffusers(config)
				require.NoError(t, err)
				require.Equal(t, c, again)
				var want, got map[string]any
				require.NoError(t, json.Unmarshal([]byte(g.metadata["config"]), &want))
				require.NoError(t, json.Unmarshal(config, &got))
				want["_class_name"] = "DiTTransformer2DModel"
				if want["out_channels"] == nil { // null stands for in_channels
					want["out_channels"] = want["in_channels"]
				}
				require.Equal(t, want, got)
				return nil
			}))
		})
	}
}

// A folder that diffusers wrote loads as it is, float16 weights included, and computes what diffusers computes with them.
func TestPretrainedFolder(t *testing.T) {
	config, err := os.ReadFile(filepath.Join("testdata", "pretrained", "config.json"))
	require.NoError(t, err)
	c, err := FromDiffusers(config)
	require.NoError(t, err)
	net := build(t, c)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s, filepath.Join("pretrained", "output"))
		w, err := torch.OpenWeights(filepath.Join("testdata", "pretrained", "diffusion_pytorch_model.safetensors"))
		require.NoError(t, err)
		defer w.Close()
		if err := s.Run(func(s *torch.Scope) error { return net.Load(w.All(s)) }); err != nil {
			return err
		}
		requireClose(t, s, g.tensors["y"], net.Forward(s, g.tensors["x"], g.tensors["t"], g.cond()), "output")
		return nil
	}))
}

// A checkpoint that predicts a variance too loads into a network without it, which computes the same means.
func TestLearnedVariance(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s, "latent")
		c, err := FromDiffusers([]byte(g.metadata["config"]))
		require.NoError(t, err)
		require.Equal(t, 8, c.OutChannels)
		both := build(t, c)
		require.NoError(t, both.Load(g.weights(t, s, c.Depth)))
		c.OutChannels = 4
		mean := build(t, c)
		require.NoError(t, mean.Load(g.weights(t, s, c.Depth)), "diffusers' layout")
		want := g.tensors["y"].Narrow(s, 1, 0, 4)
		requireClose(t, s, want, mean.Forward(s, g.tensors["x"], g.tensors["t"], g.cond()), "from diffusers' layout")
		require.NoError(t, mean.Load(both.Tensors()), "the original layout")
		requireClose(t, s, want, mean.Forward(s, g.tensors["x"], g.tensors["t"], g.cond()), "from the original layout")

		c.OutChannels = 2 // neither all nor the mean
		require.ErrorContains(t, build(t, c).Load(both.Tensors()),
			"2 shape mismatch: final_layer.linear.bias (want [8], got [32]), final_layer.linear.weight (want [8 32], got [32 32])")
		return nil
	}))
}

// What does not fit in diffusers' layout is reported by diffusers' names.
func TestLoadRefuses(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s, "latent")
		c, err := FromDiffusers([]byte(g.metadata["config"]))
		require.NoError(t, err)
		net := build(t, c)
		for _, tc := range []struct {
			change func(w map[string]*torch.Tensor)
			want   string
		}{
			{func(w map[string]*torch.Tensor) {
				delete(w, "transformer_blocks.1.attn1.to_k.weight")
				w["extra"] = w["proj_out_1.bias"]
			}, "transformer_blocks.1.attn1.to_k.weight is missing, extra is unexpected"},
			{func(w map[string]*torch.Tensor) {
				w["transformer_blocks.1.attn1.to_v.bias"] = torch.Zeros(s, torch.Float32, 3)
			}, "transformer_blocks.1.attn1.to_v.bias has shape [3], transformer_blocks.1.attn1.to_q.bias has [32]"},
			{func(w map[string]*torch.Tensor) {
				name := "transformer_blocks.2.norm1.emb.timestep_embedder.linear_2.bias"
				w[name] = w[name].AddScalar(s, 1)
			}, "transformer_blocks.2.norm1.emb.timestep_embedder.linear_2.bias differs from block 0's"},
			{func(w map[string]*torch.Tensor) { w["proj_out_1.bias"] = torch.Zeros(s, torch.Float32, 3) },
				"1 shape mismatch: final_layer.adaLN_modulation.1.bias (want [64], got [3])"},
			{func(w map[string]*torch.Tensor) {
				for name := range w {
					if strings.HasPrefix(name, "transformer_blocks.2.") {
						delete(w, name)
					}
				}
			}, "transformer_blocks.2.ff.net.0.proj.weight is missing, transformer_blocks.2.ff.net.0.proj.bias is missing, and 2 more"},
		} {
			w := maps.Collect(g.weights(t, s, c.Depth))
			tc.change(w)
			require.ErrorContains(t, net.Load(maps.All(w)), tc.want)
		}
		return nil
	}))
}

// Published sizes: millions of weights of the paper's networks (table 4), and the exact numbers of PyTorch's modules.
func TestPresetsHavePublishedSizes(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "sizes.json"))
	require.NoError(t, err)
	var exact map[string]any
	require.NoError(t, json.Unmarshal(text, &exact))
	for _, c := range []struct {
		name      string
		config    Config
		published float64
	}{
		{"S/2", S2(32, 4), 33}, {"B/2", B2(32, 4), 130}, {"L/2", L2(32, 4), 458}, {"XL/2", XL2(32, 4), 675},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.OutChannels, c.config.Classes = 8, 1000
			require.NoError(t, c.config.Validate())
			n := c.config.Count()
			require.EqualValues(t, exact[c.name], n)
			require.InDelta(t, c.published, float64(n)/1e6, 0.5)
		})
	}
}

func ExampleConfig_Count() {
	fmt.Println(S2(32, 3).Count())
	// Output: 32471436
}
