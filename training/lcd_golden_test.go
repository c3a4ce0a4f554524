package training

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"iter"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// lcdGolden is a file of scripts/golden/training/lcd.py.
type lcdGolden struct {
	tensors map[string]*torch.Tensor
	config  unet.Config
	names   map[string][]string // of the trained parameters, by case
	lr      []float64
	index   [][]int
	w       [][]float64
}

func readLCD(t *testing.T, s *torch.Scope, name string) (g lcdGolden) {
	t.Helper()
	tensors, metadata := torchtest.Golden(t, s, filepath.Join("testdata", "lcd-"+name+".safetensors"))
	g.tensors = tensors
	var err error
	g.config, err = unet.ParseConfig([]byte(metadata["config"]))
	require.NoError(t, err)
	for key, into := range map[string]any{"names": &g.names, "lr": &g.lr, "index": &g.index, "w": &g.w} {
		require.NoError(t, json.Unmarshal([]byte(metadata[key]), into))
	}
	return g
}

// lcdDraw is the generator's draw: normal numbers that follow from a name.
func lcdDraw(s *torch.Scope, name string, d torch.DType, shape ...int) *torch.Tensor {
	g := torch.NewGeneratorOn(s, torch.CPU, uint64(crc32.ChecksumIEEE([]byte(name))))
	return torch.Randn(s, g, torch.Float32, shape...).To(s, d)
}

// conditions are a step's samples and their conditions, and those of the empty prompt, which the last sample has too.
func (g lcdGolden) conditions(s *torch.Scope, step int, d torch.DType) (b Batch, z *torch.Tensor, null models.Cond) {
	const samples, tokens, side = 4, 5, 8
	name := func(what string) string { return fmt.Sprintf("%s.%d", what, step) }
	ended := func(what string, width ...int) (all, none *torch.Tensor) {
		none = lcdDraw(s, map[string]string{"text": "null", "pooled": "null.pooled"}[what], d, append([]int{1}, width...)...)
		all = lcdDraw(s, name(what), d, append([]int{samples}, width...)...)
		return torch.Cat(s, []*torch.Tensor{all.Narrow(s, 0, 0, samples-1), none}, 0), none
	}
	b.X = lcdDraw(s, name("z"), d, samples, 4, side, side)
	b.Cond.Text, null.Text = ended("text", tokens, g.config.CrossAttentionDim[0])
	if g.config.AdditionEmbedType != "" {
		b.Cond.Pooled, null.Pooled = ended("pooled", g.config.ProjectionInputDim-6*g.config.AdditionTimeEmbedDim)
		var sizes []int64
		for i := range samples {
			sizes = append(sizes, 64+int64(i), 64, int64(i), 0, 64, 64-int64(step))
		}
		b.Cond.Sizes = torch.FromSlice(s, sizes, samples, 6)
	}
	return b, lcdDraw(s, name("noise"), d, samples, 4, side, side), null
}

// lcdCase is a student, its objective, and its parameters by the file's names.
type lcdCase struct {
	*LCD
	learned map[string]*torch.Tensor
}

// make builds the networks of a case: a full model, or an adapter with both factors filled, or at the start, where B is 0.
func (g lcdGolden) make(t *testing.T, s *torch.Scope, kind string, predict noise.Prediction, d torch.DType, start bool) lcdCase {
	t.Helper()
	chain, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain()
	require.NoError(t, err)
	from := func(c unet.Config) *unet.UNet {
		net, err := unet.From(c, sdtest.Filled(unet.Shapes(c)), torch.CPU, d)
		require.NoError(t, err)
		t.Cleanup(net.Close)
		return net
	}
	latent := func(net models.Network) *models.Latent {
		return &models.Latent{Model: &models.DDPM{Net: net, Chain: chain, Predict: predict}}
	}
	base := from(g.config)
	c := lcdCase{&LCD{Teacher: &models.DDPM{Net: base, Chain: chain, Predict: predict}}, map[string]*torch.Tensor{}}
	_, _, c.Null = g.conditions(s, 0, d)
	fill := func(name string, p *torch.Tensor) {
		v, err := sdtest.Filled{{Name: name, Dims: p.Shape()}}.Get(s, name)
		require.NoError(t, err)
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error { p.CopyFrom(s, v); return nil }))
	}
	if kind == "full" {
		student, err := base.WithGuidance(16, d, 1)
		require.NoError(t, err)
		t.Cleanup(student.Close)
		for name, p := range student.Parameters() {
			c.learned[name] = p
			if strings.Contains(name, "cond_proj") {
				fill(name, p)
			}
		}
		c.Model, c.Target, c.GuidanceInput = latent(student), latent(from(student.Config())), true
	} else {
		adapter, err := lora.New(lora.Networks{"unet": base.Store()}, lora.Config{Rank: 3, Alpha: 2})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, adapter.Close()) })
		for name, p := range adapter.Parameters() {
			name = strings.TrimPrefix(name, "unet.")
			c.learned[name] = p
			if !start || !strings.Contains(name, ".lora_B.") {
				fill(name, p)
			}
		}
		c.Model = latent(&models.Adapted{Net: base, Adapters: adapter.At(1), Learned: adapter})
	}
	require.NoError(t, c.Validate())
	return c
}

// requirePrints compares tensors with the file's prints: their products with three normal tensors are off by about the norm of the
// difference. The tolerance is relative to the tensor's norm. A tensor that ought to be 0, such as the gradient of a bias in front of a
// norm, is compared with least instead.
func (g lcdGolden) requirePrints(t *testing.T, s *torch.Scope, key string, names []string, got map[string]*torch.Tensor, tolerance, least float64) {
	t.Helper()
	want := torch.ToSlice[float64](g.tensors[key])
	require.Len(t, got, len(names))
	require.Len(t, want, 4*len(names))
	worst, where := 0.0, ""
	for i, name := range names {
		v := got[name]
		require.NotNil(t, v, name)
		v = v.Detach(s).To(s, torch.Float64)
		off := 0.0
		for j := range 3 {
			product := v.Mul(s, lcdDraw(s, fmt.Sprintf("%s#%d", name, j), torch.Float64, v.Shape()...)).Sum(s).Item()
			off += math.Pow(product-want[4*i+1+j], 2) / 3
		}
		off = math.Sqrt(off) / math.Max(want[4*i], least)
		if off > worst {
			worst, where = off, name
		}
	}
	t.Logf("%s: off by at most %.2g (%s)", key, worst, where)
	require.LessOrEqual(t, worst, tolerance, "%s: %s", key, where)
}

func (c lcdCase) gradients(s *torch.Scope) map[string]*torch.Tensor {
	out := map[string]*torch.Tensor{}
	for name, p := range c.learned {
		out[name] = p.Grad(s)
		p.ZeroGrad()
	}
	return out
}

var lcdDistances = map[string]Distance{"huber": ElementHuber{}, "l2": L2{}}

// lcdFiles are the golden files, by model and prediction.
var lcdFiles = map[string]noise.Prediction{
	"sd-epsilon": noise.Epsilon, "sd-v_prediction": noise.Velocity, "xl-epsilon": noise.Epsilon, "xl-v_prediction": noise.Velocity,
}

// Losses and all gradients are those of diffusers and PEFT: full models and adapters, ε and v, Stable Diffusion and SDXL, with the
// boundary (index 0), both ends of w and an empty prompt among the samples. In float64, where only formulas can differ, gradients agree to
// 1e-9 of their norm. In float32 the reference itself differs from float64 by 3.5e-5 with the L2 distance and by 2.7e-4 with the pseudo-Huber
// one, whose gradient changes sign within c = 0.001: the tolerances leave room for another order of operations.
func TestLCDGolden(t *testing.T) {
	for file, predict := range lcdFiles {
		for _, kind := range []string{"full", "lora"} {
			for name, distance := range lcdDistances {
				for _, d := range []torch.DType{torch.Float64, torch.Float32} {
					t.Run(fmt.Sprint(file, "/", kind, "/", name, "/", d), func(t *testing.T) {
						loss, tolerance := 1e-9, 1e-9
						if d == torch.Float32 {
							loss, tolerance = 1e-5, map[string]float64{"huber": 2e-3, "l2": 1e-4}[name]
						}
						require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
							g := readLCD(t, s, file)
							c := g.make(t, s, kind, predict, d, false)
							c.Distance = distance
							b, z, _ := g.conditions(s, 0, d)
							got := c.LossAt(s, b, g.index[0], g.w[0], z, 1)
							key := kind + "/" + name
							require.InEpsilon(t, torch.ToSlice[float64](g.tensors[key+"/loss"])[0], got.Item(), loss)
							got.Backward()
							g.requirePrints(t, s, key+"/grad", g.names[kind], c.gradients(s), tolerance, 1e-6)
							return nil
						}))
					})
				}
			}
		}
	}
}

// Three steps of AdamW with clipped gradients and the learning rate's warm-up (whose first rate is 0, as in diffusers) give the same
// losses, weights and target as PyTorch's optimizer: in float64, relative to how far each tensor has moved.
func TestLCDTrainsAsTheReference(t *testing.T) {
	for file, predict := range lcdFiles {
		for _, kind := range []string{"full", "lora"} {
			t.Run(file+"/"+kind, func(t *testing.T) {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					g := readLCD(t, s, file)
					c := g.make(t, s, kind, predict, torch.Float64, true)
					begun := map[string]*torch.Tensor{}
					var params []*torch.Tensor
					for name, p := range c.learned {
						begun[name] = p.Detach(s).Clone(s)
						params = append(params, p)
					}
					opt, err := optim.AdamW{}.New(all(c.learned))
					require.NoError(t, err)
					defer opt.Close()
					require.Len(t, g.lr, 3)
					for k, lr := range g.lr {
						opt.SetLR(lr)
						opt.ZeroGrad()
						b, z, _ := g.conditions(s, k, torch.Float64)
						loss := c.LossAt(s, b, g.index[k], g.w[k], z, 1)
						require.InEpsilon(t, torch.ToSlice[float64](g.tensors[kind+"/train/loss"])[k], loss.Item(), 1e-9)
						loss.Backward()
						if kind == "lora" && k == 0 {
							for name, p := range c.learned {
								largest := p.Grad(s).Abs(s).Max(s).Item()
								if strings.Contains(name, ".lora_A.") {
									require.Zero(t, largest, "%s: the gradient of A where B is 0", name)
								} else {
									require.NotZero(t, largest, name)
								}
							}
						}
						torch.ClipGradNorm(s, params, 1)
						require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
							opt.Step(s)
							c.Update(s, k)
							return nil
						}))
					}
					moved := func(tensors iter.Seq2[string, *torch.Tensor]) map[string]*torch.Tensor {
						out := map[string]*torch.Tensor{}
						for name, p := range tensors {
							out[name] = p.Detach(s).Sub(s, begun[name])
						}
						return out
					}
					g.requirePrints(t, s, kind+"/train/weights", g.names[kind], moved(all(c.learned)), 1e-9, 1e-6)
					if kind == "full" {
						g.requirePrints(t, s, kind+"/train/target", g.names[kind], moved(c.Target.Parameters()), 1e-9, 1e-6)
						require.True(t, slices.Equal(names(c.Target.Parameters()), names(c.Model.Parameters())))
					}
					return nil
				}))
			})
		}
	}
}

func names(tensors iter.Seq2[string, *torch.Tensor]) (out []string) {
	for name := range tensors {
		out = append(out, name)
	}
	return out
}
