package original

import (
	"compress/gzip"
	"encoding/json"
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
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// tolerance is how far outputs, which are about 1 in size, may be from the original code's. Both sides compute in float32, in orders that
// differ in attention, the filters and the sums of embeddings; Fourier frequencies make angles of some hundreds, which are rounded to 1e-5.
const tolerance = 5e-5

// tensors are weights in memory as a source.
type tensors map[string]*torch.Tensor

func (m tensors) Names() iter.Seq[string] { return slices.Values(slices.Sorted(maps.Keys(m))) }
func (m tensors) Release(string)          {}

func (m tensors) Info(name string) ([]int, torch.DType, bool) {
	t, ok := m[name]
	if !ok {
		return nil, 0, false
	}
	return t.Shape(), t.DType(), true
}

func (m tensors) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	return m[name].Share(s), nil
}

// golden is a case of scripts/golden/models/unet/original/original.py.
type golden struct {
	tensors
	weights tensors // under the code's names, with the filters
	order   []string
}

func openGolden(t *testing.T, s *torch.Scope, name string) golden {
	t.Helper()
	all, metadata := torchtest.Golden(t, s, filepath.Join("testdata", name+".safetensors"))
	seed, err := strconv.ParseUint(metadata["seed"], 10, 64)
	require.NoError(t, err)
	g := golden{tensors: all, weights: tensors{}}
	stream := torch.NewGenerator(s, seed)
	for name, v := range torchtest.Drawn(t, metadata["weights"], func(name string, dims []int) *torch.Tensor {
		v := torch.Randn(s, stream, torch.Float32, dims...)
		n := 1
		for _, d := range dims[1:] {
			n *= d
		}
		switch {
		case strings.HasSuffix(name, "freqs"):
			return v.MulScalar(s, 2)
		case len(dims) > 1:
			return v.DivScalar(s, math.Sqrt(float64(n)))
		case strings.HasSuffix(name, "weight"):
			return v.MulScalar(s, 0.1).AddScalar(s, 1)
		}
		return v.MulScalar(s, 0.1)
	}) {
		g.weights[name] = v
	}
	for name, v := range torchtest.Drawn(t, metadata["shapes"], func(name string, dims []int) *torch.Tensor {
		switch {
		case !strings.HasSuffix(name, "resample_filter"):
			return nil
		case dims[3] == 4:
			return torch.FromSlice(s, kernel([]float64{1, 3, 3, 1}), dims...)
		}
		return torch.FromSlice(s, kernel(nil), dims...)
	}) {
		g.order = append(g.order, name)
		if _, drawn := g.weights[name]; !drawn {
			g.weights[name] = v
		}
	}
	return g
}

var cases = []struct {
	name  string
	code  Code
	known Settings
	want  func(c unet.Config) bool // of the configuration, beyond what the output shows
}{
	{"consistency", ConsistencyModels, Settings{ImageSize: 8, HeadDim: 16}, func(c unet.Config) bool { return c.Classes == 5 && c.ScaleShift && !c.NullLabel }},
	{"consistency_lsun", ConsistencyModels, Settings{ImageSize: 8, HeadDim: 16}, func(c unet.Config) bool { return !c.ScaleShift && slices.Equal(c.Attention, []int{4, 2}) }},
	{"guided", GuidedDiffusion, Settings{ImageSize: 8, HeadDim: 16, NewOrder: new(bool)}, func(c unet.Config) bool { return c.OutChannels == 6 }},
	{"guided_new", GuidedDiffusionNew, Settings{ImageSize: 8, HeadDim: 16, NewOrder: yes()}, func(c unet.Config) bool { return c.OutChannels == 6 }},
	{"guided_heads", GuidedDiffusion, Settings{ImageSize: 8, Heads: 4}, func(c unet.Config) bool { return c.Heads == 4 && c.Resample == unet.ResampleConv && c.Blocks == 2 }},
	{"guided_half", GuidedDiffusion, Settings{ImageSize: 8, HeadDim: 16}, func(c unet.Config) bool { return c.Channels == 32 && c.EmbeddingChannels == 64 }},
	{"ddpmpp", EDM, Settings{}, func(c unet.Config) bool { return c.Augment == 9 && c.LabelsFirst && c.Classes == 3 }},
	{"ddpmpp_uncond", EDM, Settings{}, func(c unet.Config) bool { return slices.Equal(c.Mult, []int{2, 2}) && c.Blocks == 2 }},
	{"ncsnpp", EDM, Settings{}, func(c unet.Config) bool { return c.ResidualInput && c.Embedding == unet.Fourier && len(c.Filter) == 4 }},
	{"adm", EDM, Settings{}, func(c unet.Config) bool { return c.HeadDim == 64 && c.ScaleShift && c.Classes == 4 }},
	{"adm_wide", EDM, Settings{}, func(c unet.Config) bool { return c.Channels == 64 && c.EmbeddingChannels == 32 && c.Augment == 9 }},
}

func yes() *bool {
	b := true
	return &b
}

// The networks of the original code and ours with their weights give the same outputs; weights that are written back are theirs to the bit,
// in the order of their state dict.
func TestOriginalNetworks(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g := openGolden(t, s, c.name)
				code, ok, err := Recognize(g.weights)
				require.NoError(t, err)
				require.True(t, ok)
				require.Equal(t, strings.TrimSuffix(string(c.code), "_new"), string(code))
				l, assumed, err := Infer(g.weights, code, c.known)
				require.NoError(t, err)
				require.Equal(t, c.code, l.Code)
				require.True(t, c.want(l.Config), "%+v", l.Config)
				if c.known.NewOrder != nil {
					require.Empty(t, assumed)
				}
				require.NoError(t, l.Check(g.weights))
				// The class that EDM's code makes of no label is the null class here.
				if classes := g.tensors["class"]; l.Code == EDM && classes != nil {
					l.Config.NullLabel = true
				}
				net := load(t, l, g.weights)
				defer net.Close()
				require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
					cond := models.Cond{Class: g.tensors["class"]}
					got := net.Forward(s, g.tensors["x"], g.tensors["t"], cond)
					torchtest.Close(t, "network", got, g.tensors["y"], tolerance, 0)
					if want := g.tensors["d"]; want != nil {
						d := (&models.EDM{Net: net}).Denoise(s, g.tensors["x"], g.tensors["sigma"], cond)
						torchtest.Close(t, "denoiser", d, want, tolerance, 0)
					}
					// Labels up to 999 are rounded to 1e-4, and the prediction's share of D grows with σ.
					for name, d := range map[string]models.Denoiser{"vp": &models.VP{Net: net}, "ve": &models.VE{Net: net, Scale: 0.5}} {
						if want := g.tensors[name]; want != nil {
							sigma := g.tensors["sigma"]
							apart := d.Denoise(s, g.tensors["x"], sigma, cond).Sub(s, want).Div(s, sigma.PerSample(s, 4))
							require.Less(t, apart.Abs(s).Max(s).Item(), 3e-4, name)
						}
					}
					return nil
				}))
				back, err := For(l.Code, net.Config())
				require.NoError(t, err)
				theirs := back.Theirs(nn.Stored{Store: net.Store()})
				require.Equal(t, g.order, slices.Collect(theirs.Names()))
				for name, want := range g.weights {
					got, err := theirs.Get(s, name)
					require.NoError(t, err)
					dims, d, ok := theirs.Info(name)
					require.True(t, ok)
					require.Equal(t, got.Shape(), dims)
					require.Equal(t, got.DType(), d)
					require.Equal(t, want.Shape(), got.Shape(), name)
					require.Equal(t, torch.ToSlice[float32](want), torch.ToSlice[float32](got.Contiguous(s)), name)
				}
				return nil
			}))
		})
	}
}

// load makes the network of a layout.
func load(t *testing.T, l Layout, theirs nn.Source) *unet.UNet {
	t.Helper()
	net, err := unet.New(l.Config, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		ours := l.Ours(theirs)
		return net.Load(func(yield func(string, *torch.Tensor) bool) {
			for name := range ours.Names() {
				v, err := ours.Get(s, name)
				require.NoError(t, err)
				dims, d, ok := ours.Info(name)
				require.True(t, ok, name)
				require.Equal(t, dims, v.Shape(), name)
				require.Equal(t, d, v.DType())
				if !yield(name, v) {
					return
				}
			}
		})
	}))
	return net
}

// The wrong order of queries, keys and values loads, and gives other outputs: it must come from the format.
func TestOrderMatters(t *testing.T) {
	for _, name := range []string{"guided", "guided_new"} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			g := openGolden(t, s, name)
			for _, code := range []Code{GuidedDiffusion, GuidedDiffusionNew} {
				l, _, err := Infer(g.weights, GuidedDiffusion, Settings{ImageSize: 8, HeadDim: 16, NewOrder: new(bool)})
				require.NoError(t, err)
				l.Code = code
				net := load(t, l, g.weights)
				y := net.Forward(s, g.tensors["x"], g.tensors["t"], models.Cond{Class: g.tensors["class"]})
				apart := y.Sub(s, g.tensors["y"]).Abs(s).Max(s).Item()
				net.Close()
				if (code == GuidedDiffusionNew) == (name == "guided_new") {
					require.Less(t, apart, tolerance)
				} else {
					require.Greater(t, apart, 0.05)
				}
			}
			return nil
		}))
	}
}

// plan is names and shapes without values.
type plan map[string][]int

func (p plan) Names() iter.Seq[string] { return slices.Values(slices.Sorted(maps.Keys(p))) }
func (p plan) Release(string)          {}

func (p plan) Info(name string) ([]int, torch.DType, bool) {
	dims, ok := p[name]
	return dims, torch.Float32, ok
}

func (p plan) Get(*torch.Scope, string) (*torch.Tensor, error) { panic("it has no values") }

// published reads the names and shapes of the published networks.
func published(t testing.TB) map[string][]nn.Shape {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "keys.json.gz"))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	var lists map[string][][2]json.RawMessage
	require.NoError(t, json.NewDecoder(z).Decode(&lists))
	all := map[string][]nn.Shape{}
	for name, list := range lists {
		for _, pair := range list {
			var shape nn.Shape
			require.NoError(t, json.Unmarshal(pair[0], &shape.Name))
			require.NoError(t, json.Unmarshal(pair[1], &shape.Dims))
			all[name] = append(all[name], shape)
		}
	}
	return all
}

func planOf(list []nn.Shape) plan {
	p := plan{}
	for _, t := range list {
		p[t.Name] = t.Dims
	}
	return p
}

// The published networks are recognized by their names and shapes, with the settings that they were trained with; their layouts list exactly
// their tensors, in the order of their state dicts.
func TestPublishedNetworks(t *testing.T) {
	adm := func(change func(c *unet.Config)) unet.Config {
		c := unet.ADM(256, 3, 256, []int{1, 1, 2, 2, 4, 4}, 2, 32, 16, 8)
		change(&c)
		return c
	}
	edm := func(c unet.Config) unet.Config {
		c.Augment, c.SinFirst = 9, c.Embedding == unet.Positional
		return c
	}
	cifar := []int{2, 2, 2}
	lists := published(t)
	for name, want := range map[string]struct {
		code    Code
		config  unet.Config
		tensors int // of training; without buffers
		buffers int
		million float64
	}{
		"consistency_imagenet64": {ConsistencyModels, unet.ADMImageNet64(), 541, 0, 295.90},
		"consistency_lsun256":    {ConsistencyModels, unet.ADMLSUN256(), 566, 0, 526.30},
		"guided_64":              {GuidedDiffusionNew, learned(unet.ADMImageNet64()), 541, 0, 295.91},
		"guided_128": {GuidedDiffusion, adm(func(c *unet.Config) {
			c.Resolution, c.Mult, c.HeadDim, c.Heads, c.OutChannels, c.Classes = 128, []int{1, 1, 2, 3, 4}, 0, 4, 6, 1000
		}), 0, 0, 421.53},
		"guided_256": {GuidedDiffusion, adm(func(c *unet.Config) { c.OutChannels, c.Classes = 6, 1000 }), 0, 0, 553.84},
		"guided_512": {GuidedDiffusion, adm(func(c *unet.Config) {
			c.Resolution, c.Channels, c.EmbeddingChannels, c.Mult = 512, 128, 256, []int{1, 2, 2, 4, 4, 8, 8}
			c.OutChannels, c.Classes = 6, 1000
		}), 0, 0, 559.00},
		"edm_cifar10_vp": {EDM, edm(unet.DDPMPP(32, 3, 128, cifar, 4, 16)), 417, 8, 55.734},
		"edm_cifar10_ve": {EDM, edm(unet.NCSNPP(32, 3, 128, cifar, 4, 16)), 421, 11, 56.398},
		"edm_imagenet64": {EDM, func() unet.Config { c := unet.ADMImageNet64(); c.NormGroups = 0; return c }(), 0, 12, 295.90},
	} {
		t.Run(name, func(t *testing.T) {
			list := lists[name]
			require.NotEmpty(t, list)
			src := planOf(list)
			code, ok, err := Recognize(src)
			require.NoError(t, err)
			require.True(t, ok)
			l, _, err := Infer(src, code, Settings{})
			require.NoError(t, err)
			require.Equal(t, want.code, l.Code)
			require.Equal(t, want.config.WithDefaults(), l.Config)
			trained, buffers, elements := 0, 0, 0
			for i, s := range l.Shapes() {
				require.Equal(t, list[i].Name, s.Name)
				require.Equal(t, list[i].Dims, s.Dims, s.Name)
				if strings.HasSuffix(s.Name, "resample_filter") || strings.HasSuffix(s.Name, "freqs") {
					buffers++
					continue
				}
				trained++
				n := 1
				for _, d := range s.Dims {
					n *= d
				}
				elements += n
			}
			require.Equal(t, len(list), trained+buffers)
			require.Equal(t, want.buffers, buffers)
			if want.tensors != 0 {
				require.Equal(t, want.tensors, trained)
			}
			require.InDelta(t, want.million, float64(elements)/1e6, 0.006)
		})
	}
}

// learned is a network that predicts a variance as well.
func learned(c unet.Config) unet.Config {
	c.OutChannels = 2 * c.InChannels
	return c
}
