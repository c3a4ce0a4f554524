package unet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// How far results may be from diffusers', relative to the largest element. In float32 both sides round differently where
// sums run in another order: diffusers' own networks differ by 1.1e-6 with the implementation of attention and the memory
// format, and by 9e-7 from themselves in float64; deeper tiny networks with drawn weights add some. In float64 only mistakes
// are left.
const (
	tolerance32 = 2e-5
	tolerance64 = 1e-9
)

var types = []struct {
	prefix    string // of the results in a file
	dtype     torch.DType
	tolerance float64
}{{"", torch.Float32, tolerance32}, {"double:", torch.Float64, tolerance64}}

var cases = []string{"lcm", "sd15", "odd", "inpaint", "sd2", "sdxl", "ssd1b", "nomid"}

// golden is a file of scripts/golden/models/sd/unet/unet.py.
type golden struct {
	tensors  map[string]*torch.Tensor
	metadata map[string]string
}

func open(t testing.TB, s *torch.Scope, name string) golden {
	t.Helper()
	tensors, metadata := torchtest.Golden(t, s, filepath.Join("testdata", name+".safetensors"))
	return golden{tensors, metadata}
}

// as returns a tensor of the file in that type, or nil.
func (g golden) as(s *torch.Scope, name string, d torch.DType) *torch.Tensor {
	if x, ok := g.tensors[name]; ok {
		return x.To(s, d)
	}
	return nil
}

func (g golden) cond(s *torch.Scope, d torch.DType) models.Cond {
	guidance := g.tensors["w"]
	if guidance != nil { // in the file it is the scale less 1
		guidance = guidance.To(s, torch.Float64).AddScalar(s, 1)
	}
	return models.Cond{
		Text: g.as(s, "text", d), Guidance: guidance, Pooled: g.as(s, "pooled", d), Sizes: g.tensors["sizes"],
	}
}

// network is the one that a file's results are of.
func (g golden) network(t testing.TB, d torch.DType) *UNet {
	t.Helper()
	key := "config"
	if g.metadata["unet"] != "" {
		key = "unet"
	}
	c, err := ParseConfig([]byte(g.metadata[key]))
	require.NoError(t, err)
	u, err := From(c, sdtest.Filled(Shapes(c)), torch.CPU, d)
	require.NoError(t, err)
	t.Cleanup(u.Close)
	return u
}

func (g golden) controlNet(t testing.TB, d torch.DType) *ControlNet {
	t.Helper()
	c, err := ParseControlNetConfig([]byte(g.metadata["config"]))
	require.NoError(t, err)
	n, err := ControlNetFrom(c, sdtest.Filled(ControlNetShapes(c)), torch.CPU, d)
	require.NoError(t, err)
	t.Cleanup(n.Close)
	return n
}

// requireClose compares with a tolerance that is relative to the largest element.
func requireClose(t testing.TB, s *torch.Scope, want, got *torch.Tensor, tolerance float64, what string) {
	t.Helper()
	require.Equal(t, want.Shape(), got.Shape(), what)
	require.Equal(t, want.DType(), got.DType(), what)
	d := distance(s, want, got)
	t.Logf("%s: largest difference %.2g", what, d)
	require.LessOrEqual(t, d, tolerance, what)
}

func distance(s *torch.Scope, want, got *torch.Tensor) float64 {
	want, got = want.To(s, torch.Float64), got.Detach(s).To(s, torch.Float64)
	return got.Sub(s, want).Abs(s).Max(s).Item() / want.Abs(s).Max(s).Item()
}

// The same configuration and weights give UNet2DConditionModel's outputs, in every grad mode and for latents in either
// memory format.
func TestUNet2DConditionModel(t *testing.T) {
	for _, name := range cases {
		for _, at := range types {
			t.Run(fmt.Sprint(name, "/", at.dtype), func(t *testing.T) {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					g := open(t, s, name)
					want := g.tensors[at.prefix+"y"]
					x, c := g.as(s, "x", at.dtype), g.cond(s, at.dtype)
					for mode, run := range map[string]func(func(*torch.Scope) error) error{
						"recording": s.Run, "no grad": s.NoGrad, "inference": s.Inference,
					} {
						u := g.network(t, at.dtype) // its own: weights that were used with gradients are not packed any more
						require.NoError(t, run(func(s *torch.Scope) error {
							for layout, x := range map[string]*torch.Tensor{"": x, ", channels last": x.ChannelsLast(s)} {
								requireClose(t, s, want, u.Forward(s, x, g.tensors["t"], c), at.tolerance, mode+layout)
							}
							return nil
						}))
					}
					return nil
				}))
			})
		}
	}
}

// What comes down to the smallest image and what leaves the middle.
func TestIntermediates(t *testing.T) {
	for _, name := range cases {
		for _, at := range types {
			t.Run(fmt.Sprint(name, "/", at.dtype), func(t *testing.T) {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					g := open(t, s, name)
					u, x, c := g.network(t, at.dtype), g.as(s, "x", at.dtype), g.cond(s, at.dtype)
					in := u.embed(s, g.tensors["t"], at.dtype, c)
					skips := u.descend(s, u.convIn.Forward(s, x), in)
					last := skips[len(skips)-1]
					requireClose(t, s, g.tensors[at.prefix+"down"], last, at.tolerance, "down")
					mid := u.middle(s, last, in)
					if want, ok := g.tensors[at.prefix+"mid"]; ok {
						requireClose(t, s, want, mid, at.tolerance, "middle")
					} else {
						require.Equal(t, NoMid, u.Config().MidBlockType)
					}
					return nil
				}))
			})
		}
	}
}

// One timestep, one size and one guidance for all are the same as one for each.
func TestOneForAll(t *testing.T) {
	for _, name := range []string{"lcm", "sdxl"} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			g := open(t, s, name)
			u, x, c := g.network(t, torch.Float64), g.as(s, "x", torch.Float64), g.cond(s, torch.Float64)
			one := torch.FromSlice(s, []int64{499})
			if c.Guidance != nil {
				c.Guidance = torch.FromSlice(s, []float64{7.5})
			}
			y := u.Forward(s, x, one, c)
			if c.Guidance != nil {
				c.Guidance = GuidanceEmbedding(s, c.Guidance.SubScalar(s, 1).Expand(s, 2), u.Config().TimeCondProjDim)
			}
			requireClose(t, s, y, u.Forward(s, x, one.Expand(s, 2), c), 1e-12, "one for each")
			requireClose(t, s, y, u.Forward(s, x, torch.Scalar(s, 499.0), c), 1e-12, "a scalar")
			return nil
		}))
	}
}

// Gradients with respect to latents, text and weights of every kind.
func TestGradients(t *testing.T) {
	for name, count := range map[string]int{"lcm": 14, "sdxl": 14} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := open(t, s, name)
				u, x, c := g.network(t, torch.Float64), g.as(s, "x", torch.Float64), g.cond(s, torch.Float64)
				u.Store().SetRequiresGrad(true)
				x.SetRequiresGrad(true)
				c.Text.SetRequiresGrad(true)
				u.Forward(s, x, g.tensors["t"], c).Mul(s, g.as(s, "weight", torch.Float64)).Sum(s).Backward()
				grads := map[string]*torch.Tensor{"x": x.Grad(s), "text": c.Text.Grad(s)}
				for name, p := range u.Parameters() {
					require.True(t, p.HasGrad(), name)
					grads[name] = p.Grad(s)
				}
				compared := 0
				for key, want := range g.tensors {
					if name, ok := strings.CutPrefix(key, "grad:"); ok {
						requireClose(t, s, want, grads[name], tolerance64, key)
						compared++
					}
				}
				require.Equal(t, count, compared)
				return nil
			}))
		})
	}
}

// Residuals of ControlNetModel, and what a U-Net makes of them.
func TestControlNetModel(t *testing.T) {
	for _, name := range []string{"controlnet", "controlnet_bgr"} {
		for _, at := range types {
			t.Run(fmt.Sprint(name, "/", at.dtype), func(t *testing.T) {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					g := open(t, s, name)
					n, u := g.controlNet(t, at.dtype), g.network(t, at.dtype)
					x, image, c := g.as(s, "x", at.dtype), g.as(s, "image", at.dtype), g.cond(s, at.dtype)
					same := func(s *torch.Scope, mode string, tolerance, scale float64) models.Cond {
						add := n.Forward(s, x, g.tensors["t"], c, image, scale, mode != "")
						for i, got := range add.Down {
							key := fmt.Sprint(at.prefix, mode, "residual.", i)
							requireClose(t, s, g.tensors[key], got, tolerance, key)
						}
						requireClose(t, s, g.tensors[at.prefix+mode+"residual.mid"], add.Mid, tolerance, mode+"mid")
						require.NotContains(t, g.tensors, fmt.Sprint(at.prefix, mode, "residual.", len(add.Down)))
						c := c
						c.Control = add
						return c
					}
					for _, run := range []func(func(*torch.Scope) error) error{s.Run, s.NoGrad} {
						require.NoError(t, run(func(s *torch.Scope) error {
							same(s, "guess:", max(at.tolerance, 1e-7), 1) // the scales are of float32 in diffusers
							told := same(s, "", at.tolerance, 0.8)
							y := u.Forward(s, x, g.tensors["t"], told)
							requireClose(t, s, g.tensors[at.prefix+"y"], y, at.tolerance, "output")
							return nil
						}))
					}
					return nil
				}))
			})
		}
	}
}

// The embedding of a guidance scale is the one of diffusers' pipeline, to the last bit where the golden file was made. Frequencies are
// powers, whose last bit differs between processors' libraries; angles are up to 1000·w times as large.
func TestGuidanceEmbedding(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := open(t, s, "guidance")
		for _, dim := range []int{32, 33, 256} {
			got := GuidanceEmbedding(s, g.tensors["w"], dim)
			ulp := math.Ldexp(1000*g.tensors["w"].Max(s).Item(), -23)
			torchtest.Close(t, fmt.Sprint(dim), got, g.tensors[fmt.Sprint(dim)], 2*ulp, 0)
		}
		return nil
	}))
}

// The published networks have the weights that diffusers gives them: as many, of these names and shapes. The figures are
// those of the models' cards and papers, too.
func TestPresets(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "sizes.json"))
	require.NoError(t, err)
	var all map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(text, &all))
	for _, p := range []struct {
		name    string
		config  any
		weights int
		tensors int // 0: not published
	}{
		{"SD15", SD15(), 859_520_964, 686}, {"LCM15", LCM15(), 859_602_884, 687}, {"Inpaint15", Inpaint15(), 859_535_364, 686},
		{"SD21", SD21(), 865_910_724, 686}, {"SDXL", SDXL(), 2_567_463_684, 1680}, {"SSD1B", SSD1B(), 1_331_334_404, 944},
		{"ControlNet15", ControlNet15(), 361_279_120, 340}, {"ControlNet21", ControlNet21(), 364_228_240, 340},
		{"ControlNetXL", ControlNetXL(), 1_251_014_160, 844},
	} {
		t.Run(p.name, func(t *testing.T) {
			var want struct {
				Weights, Tensors int
				Digest           string
				Config           json.RawMessage
			}
			require.NoError(t, json.Unmarshal(all[p.name], &want))
			var plan []nn.Shape
			var parsed any
			switch c := p.config.(type) {
			case Config:
				plan = Shapes(c)
				parsed, err = ParseConfig(want.Config)
			case ControlNetConfig:
				plan = ControlNetShapes(c)
				parsed, err = ParseControlNetConfig(want.Config)
			}
			require.NoError(t, err)
			require.Equal(t, p.config, parsed)
			require.Equal(t, p.weights, nn.Count(plan))
			require.Equal(t, want.Weights, nn.Count(plan))
			require.Len(t, plan, p.tensors)
			var lines []string
			for _, tensor := range plan {
				lines = append(lines, fmt.Sprintln(tensor.Name, tensor.Dims))
			}
			slices.Sort(lines)
			digest := sha256.Sum256([]byte(strings.Join(lines, "")))
			require.Equal(t, want.Digest, hex.EncodeToString(digest[:]), "names and shapes")

			// What we write, diffusers reads as the same: every key that it has of ours has the value that it has there.
			written, err := json.Marshal(p.config)
			require.NoError(t, err)
			var ours, theirs map[string]any
			require.NoError(t, json.Unmarshal(written, &ours))
			require.NoError(t, json.Unmarshal(want.Config, &theirs))
			delete(ours, "time_embedding_dim") // null stands for the same number
			for key, v := range ours {
				require.Contains(t, theirs, key)
				require.Equal(t, theirs[key], v, key)
			}
		})
	}
}

func ExampleShapes() {
	for _, c := range []Config{SD15(), LCM15(), SDXL()} {
		fmt.Println(nn.Count(Shapes(c)))
	}
	// Output:
	// 859520964
	// 859602884
	// 2567463684
}
