package unet

import (
	"encoding/json"
	"fmt"
	"iter"
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

// tolerance is how far outputs, which are about 1 in size, may be from PyTorch's. Both sides compute in float32 with the
// same kernels, in orders that differ in a few places; that makes some 1e-6 through the networks' depth.
const tolerance = 2e-5

// golden is a file of scripts/golden/models/unet/unet.py or ncsnpp.py.
type golden struct {
	tensors  map[string]*torch.Tensor
	metadata map[string]string
}

func openGolden(t *testing.T, s *torch.Scope, name string) golden {
	t.Helper()
	tensors, metadata := torchtest.Golden(t, s, filepath.Join("testdata", name+".safetensors"))
	return golden{tensors, metadata}
}

// weights draws the weights that the generator drew, in the order that the file lists their names in.
func (g golden) weights(t *testing.T, s *torch.Scope) iter.Seq2[string, *torch.Tensor] {
	t.Helper()
	seed, err := strconv.ParseUint(g.metadata["seed"], 10, 64)
	require.NoError(t, err)
	stream := torch.NewGenerator(s, seed)
	return func(yield func(string, *torch.Tensor) bool) {
		for _, l := range g.layout(t) {
			v := torch.Randn(s, stream, torch.Float32, l.dims...)
			n := 1
			for _, d := range l.dims[1:] {
				n *= d
			}
			switch {
			case l.name == "time_proj.weight":
				v = v.MulScalar(s, 2)
			case len(l.dims) > 1:
				v = v.DivScalar(s, math.Sqrt(float64(n)))
			case strings.HasSuffix(l.name, "weight"):
				v = v.MulScalar(s, 0.1).AddScalar(s, 1)
			default:
				v = v.MulScalar(s, 0.1)
			}
			if !yield(l.name, v) {
				return
			}
		}
	}
}

type layout struct {
	name string
	dims []int
}

func (g golden) layout(t *testing.T) []layout {
	t.Helper()
	var pairs [][2]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(g.metadata["weights"]), &pairs))
	out := make([]layout, len(pairs))
	for i, p := range pairs {
		require.NoError(t, json.Unmarshal(p[0], &out[i].name))
		require.NoError(t, json.Unmarshal(p[1], &out[i].dims))
	}
	return out
}

func sorted(l []layout) []layout {
	l = slices.Clone(l)
	slices.SortFunc(l, func(a, b layout) int { return strings.Compare(a.name, b.name) })
	return l
}

func requireClose(t *testing.T, s *torch.Scope, want, got *torch.Tensor, tol float64, what string) {
	t.Helper()
	require.Equal(t, want.Shape(), got.Shape(), what)
	d := got.Sub(s, want).Abs(s).Max(s).Item()
	t.Logf("%s: largest difference %.2g", what, d)
	require.LessOrEqual(t, d, tol, what)
}

var diffusersCases = []string{"ddpm", "adm", "lsun", "song", "fourier", "gray28", "level1"}

// The same configuration and weights give UNet2DModel's outputs, and its gradients where the file has some.
func TestUNet2DModel(t *testing.T) {
	for _, name := range diffusersCases {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := openGolden(t, s, name)
				c, err := FromDiffusers([]byte(g.metadata["config"]))
				require.NoError(t, err)
				net, err := New(c, torch.CPU, torch.Float32, 1)
				require.NoError(t, err)
				defer net.Close()
				require.NoError(t, net.Load(g.weights(t, s)))
				cond := models.Cond{Class: g.tensors["class"]}

				forward := func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
					at := g.tensors["t"]
					if c.Embedding == Fourier {
						return net.Forward(s, x, at.Log(s), cond).Div(s, at.PerSample(s, 4))
					}
					return net.Forward(s, x, at, cond)
				}
				for mode, run := range map[string]func(func(*torch.Scope) error) error{"recording": s.Run, "no grad": s.NoGrad, "inference": s.Inference} {
					require.NoError(t, run(func(s *torch.Scope) error {
						requireClose(t, s, g.tensors["y"], forward(s, g.tensors["x"]), tolerance, mode)
						return nil
					}))
				}
				if g.tensors["grad:x"] == nil {
					return nil
				}

				g.requireGradients(t, s, net, forward)
				return nil
			}))
		})
	}
}

// requireGradients compares the gradients of the weighted sum of forward's result with those in the file.
func (g golden) requireGradients(t *testing.T, s *torch.Scope, net *UNet, forward func(s *torch.Scope, x *torch.Tensor) *torch.Tensor) {
	t.Helper()
	x := g.tensors["x"].Clone(s)
	x.SetRequiresGrad(true)
	forward(s, x).Mul(s, g.tensors["weight"]).Sum(s).Backward()
	grads := map[string]*torch.Tensor{"x": x.Grad(s)}
	for k, p := range net.Parameters() {
		grads[k] = p.Grad(s)
	}
	worst, compared := 0.0, 0
	for k, want := range g.tensors {
		if name, ok := strings.CutPrefix(k, "grad:"); ok {
			scale := max(1, want.Abs(s).Max(s).Item()) // sums over up to 768 pixels: they reach some hundreds
			worst = max(worst, grads[name].Sub(s, want).Abs(s).Max(s).Item()/scale)
			compared++
		}
	}
	t.Logf("%d gradients: largest difference %.2g of the largest element", compared, worst)
	require.Greater(t, compared, 40)
	require.LessOrEqual(t, worst, tolerance)
}

// NCSN++ put together in PyTorch from diffusers' blocks, and networks that are told the end of a jump, a guidance scale and
// labels for no class: the same names, outputs and gradients. The filter, which the other side has in its code, is the
// configuration's.
func TestNCSNPPAndLabels(t *testing.T) {
	for _, name := range []string{"ncsnpp", "fir6", "told", "told_ncsnpp"} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := openGolden(t, s, name)
				var c Config
				require.NoError(t, json.Unmarshal([]byte(g.metadata["config"]), &c))
				var ours []layout
				for _, p := range c.Shapes() {
					if p.Name != filterName {
						ours = append(ours, layout{p.Name, p.Dims})
					}
				}
				require.Equal(t, sorted(g.layout(t)), sorted(ours))

				net, err := New(c, torch.CPU, torch.Float32, 1)
				require.NoError(t, err)
				defer net.Close()
				require.NoError(t, net.Load(func(yield func(string, *torch.Tensor) bool) {
					g.weights(t, s)(yield)
					for name, v := range net.Tensors() {
						if name == filterName {
							yield(name, v)
						}
					}
				}))
				cond := models.Cond{Class: g.tensors["class"], Until: g.tensors["until"], Guidance: g.tensors["guidance"]}
				forward := func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return net.Forward(s, x, g.tensors["t"], cond) }
				for mode, run := range map[string]func(func(*torch.Scope) error) error{"recording": s.Run, "no grad": s.NoGrad, "inference": s.Inference} {
					require.NoError(t, run(func(s *torch.Scope) error {
						requireClose(t, s, g.tensors["y"], forward(s, g.tensors["x"]), tolerance, mode)
						requireClose(t, s, g.tensors["y"], forward(s, g.tensors["x"].ChannelsLast(s)), tolerance, mode+", channels last")
						return nil
					}))
				}
				if g.tensors["grad:x"] != nil {
					g.requireGradients(t, s, net, forward)
				}
				return nil
			}))
		})
	}
}

// What we save loads in diffusers: names and shapes are exactly UNet2DModel's, and so is the configuration we write.
func TestDiffusersLayout(t *testing.T) {
	for _, name := range diffusersCases {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := openGolden(t, s, name)
				c, err := FromDiffusers([]byte(g.metadata["config"]))
				require.NoError(t, err)
				var ours []layout
				for _, p := range c.Shapes() {
					ours = append(ours, layout{p.Name, p.Dims})
				}
				require.Equal(t, sorted(g.layout(t)), sorted(ours))

				written, err := c.Diffusers()
				require.NoError(t, err)
				again, err := FromDiffusers(written)
				require.NoError(t, err)
				require.InDelta(t, c.MidSkipScale, again.MidSkipScale, 1e-15)
				again.MidSkipScale = c.MidSkipScale
				require.Equal(t, c, again)

				var want, got map[string]any
				require.NoError(t, json.Unmarshal([]byte(g.metadata["config"]), &want))
				require.NoError(t, json.Unmarshal(written, &got))
				want["_class_name"] = "UNet2DModel"
				if want["attn_norm_num_groups"] == nil { // null stands for norm_num_groups
					want["attn_norm_num_groups"] = want["norm_num_groups"]
				}
				if want["time_embedding_type"] == "fourier" { // which reads no flip
					want["flip_sin_to_cos"] = false
				}
				require.InDelta(t, want["mid_block_scale_factor"], got["mid_block_scale_factor"], 1e-15)
				delete(want, "mid_block_scale_factor")
				delete(got, "mid_block_scale_factor")
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
	require.True(t, c.PadAfter)
	net, err := New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer net.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s, filepath.Join("pretrained", "output"))
		w, err := torch.OpenWeights(filepath.Join("testdata", "pretrained", "diffusion_pytorch_model.safetensors"))
		require.NoError(t, err)
		defer w.Close()
		if err := s.Run(func(s *torch.Scope) error { return net.Load(w.All(s)) }); err != nil {
			return err
		}
		requireClose(t, s, g.tensors["y"], net.Forward(s, g.tensors["x"], g.tensors["t"], models.Cond{}), tolerance, "output")
		return nil
	}))
}

// benchmark is the network that PyTorch is measured with: the same weights, the same outputs, in the consistency
// function's preconditioning too, and so the same work.
func TestBenchmarkNetwork(t *testing.T) {
	for _, name := range []string{"cifar", "mnist"} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := openGolden(t, s, "benchmark_"+name)
				shape := g.tensors["x"].Shape()
				c := benchmark(shape[2], shape[1])
				require.Equal(t, g.metadata["parameters"], strconv.Itoa(c.Count()))
				net, err := New(c, torch.CPU, torch.Float32, 1)
				require.NoError(t, err)
				defer net.Close()
				require.NoError(t, net.Load(g.weights(t, s)))
				require.Equal(t, c.Count(), net.Store().Count())
				return s.NoGrad(func(s *torch.Scope) error {
					requireClose(t, s, g.tensors["y"], net.Forward(s, g.tensors["x"], g.tensors["noise"], models.Cond{}), tolerance, "network")
					f := &models.Consistency{Net: net}
					requireClose(t, s, g.tensors["f"], f.Origin(s, g.tensors["x"], g.tensors["sigma"], models.Cond{}), tolerance, "consistency function")
					return nil
				})
			}))
		})
	}
}

func ExampleConfig_Count() {
	fmt.Println(DDPMPP(32, 3, 64, []int{1, 2, 2}, 2, 16).Count())
	// Output: 6989891
}
