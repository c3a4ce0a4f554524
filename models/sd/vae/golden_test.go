package vae

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// kinds are the types that goldens are computed in. Float64 shows whether the formula is the same, float32 that it is computed as well:
// convolutions and attention sum in other orders than diffusers', mostly on packed weights here.
var kinds = []struct {
	name      string
	dtype     torch.DType
	tolerance float64 // relative to the largest value
}{{"32", torch.Float32, 1e-5}, {"64", torch.Float64, 1e-12}}

func closeTo(t *testing.T, s *torch.Scope, what string, got, want *torch.Tensor, tolerance float64) {
	t.Helper()
	require.Equal(t, want.Shape(), got.Shape(), what)
	off := got.Sub(s, want).Abs(s).Max(s).Item()
	require.LessOrEqual(t, off, tolerance*max(want.Abs(s).Max(s).Item(), 1), what)
}

func TestKL(t *testing.T) {
	for _, name := range []string{"kl", "kl_plain", "kl_tiled"} {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			g, meta := torchtest.Golden(t, s, "testdata/"+name+".safetensors")
			var more struct{ Tile int }
			require.NoError(t, json.Unmarshal([]byte(meta["config"]), &more))
			c, err := ParseConfig([]byte(meta["config"]))
			require.NoError(t, err)
			for _, k := range kinds {
				m, err := From(c, sdtest.Filled(Shapes(c)), torch.CPU, k.dtype)
				require.NoError(t, err)
				defer m.Close()
				m.Tile = more.Tile
				for _, grad := range []bool{false, true} {
					check := func(s *torch.Scope) error {
						x, z := g["x"].To(s, k.dtype), g["z"].To(s, k.dtype)
						mean, logVar := m.Moments(s, x)
						closeTo(t, s, "mean", mean, g["mean"+k.name], k.tolerance)
						closeTo(t, s, "logvar", logVar, g["logvar"+k.name], k.tolerance)
						closeTo(t, s, "decoded", m.Decode(s, z), g["decoded"+k.name], k.tolerance)
						if k.dtype == torch.Float32 {
							two := []*torch.Generator{torch.NewGenerator(s, 7), torch.NewGenerator(s, 8)}
							closeTo(t, s, "drawn", m.Encode(s, x, two), g["drawn"], k.tolerance)
							closeTo(t, s, "shared", m.Encode(s, x, []*torch.Generator{torch.NewGenerator(s, 9)}), g["shared"], k.tolerance)
							one := m.Encode(s, x.Narrow(s, 0, 1, 1), []*torch.Generator{torch.NewGenerator(s, 1), torch.NewGenerator(s, 8)})
							closeTo(t, s, "one picture, two streams", one.Narrow(s, 0, 1, 1), g["drawn"].Narrow(s, 0, 1, 1), k.tolerance)
							shift := 0.0
							if c.ShiftFactor != nil {
								shift = *c.ShiftFactor
							}
							closeTo(t, s, "mode", m.Encode(s, x, nil), mean.SubScalar(s, shift).MulScalar(s, c.ScalingFactor), 1e-6)
						}
						return nil
					}
					if grad {
						require.NoError(t, s.Run(check))
					} else {
						require.NoError(t, s.NoGrad(check))
					}
				}
			}
			return nil
		})
		require.NoError(t, err)
	}
}

func TestTiny(t *testing.T) {
	for _, name := range []string{"taesd", "taef2"} {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			g, meta := torchtest.Golden(t, s, "testdata/"+name+".safetensors")
			c, err := ParseTinyConfig([]byte(meta["config"]))
			require.NoError(t, err)
			for _, k := range kinds {
				m, err := TinyFrom(c, sdtest.Filled(TinyShapes(c)), torch.CPU, k.dtype)
				require.NoError(t, err)
				defer m.Close()
				check := func(s *torch.Scope) error {
					closeTo(t, s, "encoded", m.Encode(s, g["x"].To(s, k.dtype), nil), g["encoded"+k.name], k.tolerance)
					closeTo(t, s, "decoded", m.Decode(s, g["z"].To(s, k.dtype)), g["decoded"+k.name], k.tolerance)
					return nil
				}
				require.NoError(t, s.Run(check))
				require.NoError(t, s.NoGrad(check))
			}
			return nil
		})
		require.NoError(t, err)
	}
}

// The sizes of the published models.
func TestSizes(t *testing.T) {
	require.Equal(t, 83_653_863, nn.Count(Shapes(SD15())))
	require.Equal(t, 83_653_863, nn.Count(Shapes(SDXL())))
	require.Len(t, Shapes(SD15()), 248)
	require.Equal(t, 2_445_063, nn.Count(TinyShapes(TAESD())))
}

// Gradients reach every weight: the passes that work in place do so where nothing was saved.
func TestGradients(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		c := Config{Channels: []int{4, 8}, Layers: 1, Groups: 2}
		m, err := New(c, torch.CPU, torch.Float64, 1)
		require.NoError(t, err)
		defer m.Close()
		tiny, err := NewTiny(TinyConfig{EncoderWidths: []int{4, 4}, DecoderWidths: []int{4, 4}, EncoderBlocks: []int{1, 1},
			DecoderBlocks: []int{1, 1}, Pool: true}, torch.CPU, torch.Float64, 2)
		require.NoError(t, err)
		defer tiny.Close()
		g := torch.NewGenerator(s, 3)
		x := torch.Randn(s, g, torch.Float64, 1, 3, 8, 8)
		for _, a := range []Autoencoder{m, tiny} {
			loss := func(s *torch.Scope) *torch.Tensor {
				return a.Decode(s, a.Encode(s, x, []*torch.Generator{torch.NewGenerator(s, 1)})).Square(s).Sum(s)
			}
			loss(s).Backward()
			for name, p := range a.(interface{ Store() *nn.Store }).Store().Parameters() {
				grad := p.Grad(s)
				require.NotNil(t, grad, name)
				// Along the gradient the loss changes by its square.
				const h = 1e-6
				step := grad.DivScalar(s, grad.Norm(s).Item()+1e-30)
				at := func(h float64) (v float64) {
					require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
						p.AddScaledInPlace(s, step, h)
						v = loss(s).Item()
						p.AddScaledInPlace(s, step, -h)
						return nil
					}))
					return v
				}
				want := grad.Norm(s).Item()
				require.InDelta(t, want, (at(h)-at(-h))/(2*h), 1e-4*max(want, 1), name)
			}
		}
		return nil
	})
	require.NoError(t, err)
}

const realWeights = "../../../../shared/data/weights"

// TAEF2's real weights give real pictures back.
func TestRealWeights(t *testing.T) {
	if _, err := os.Stat(realWeights); err != nil {
		t.Skip("the weights of TAEF2 are not here")
	}
	m, err := OpenTiny(filepath.Join(realWeights, "taef2_encoder.safetensors"), torch.CPU, torch.Float32)
	require.NoError(t, err)
	defer m.Close()
	require.Equal(t, TAEF2(), m.Config())
	f, err := os.Open("../../../../shared/data/emoji/noto-64.tar.gz")
	if err != nil {
		t.Skip("no emoji here")
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			files, seen := tar.NewReader(z), 0
			for seen < 8 {
				h, err := files.Next()
				require.NoError(t, err)
				if filepath.Ext(h.Name) != ".png" {
					continue
				}
				seen++
				x := read(t, s, files)
				y := m.Decode(s, m.Encode(s, x, nil)).Clamp(s, -1, 1)
				mse := y.Sub(s, x).Square(s).Mean(s).Item() / 4
				require.Greater(t, -10*math.Log10(mse), 25.0, h.Name) // of peak to noise, in dB; seen: 25.7 to 28.7
			}
			return nil
		})
	})
	require.NoError(t, err)
}

// read returns a picture on white, [1, 3, H, W].
func read(t *testing.T, s *torch.Scope, r io.Reader) *torch.Tensor {
	t.Helper()
	img, err := png.Decode(r)
	require.NoError(t, err)
	b := img.Bounds()
	v := make([]float32, 3*b.Dx()*b.Dy())
	for y := range b.Dy() {
		for x := range b.Dx() {
			r, g, bl, a := img.At(b.Min.X+x, b.Min.Y+y).RGBA()
			for c, p := range []uint32{r, g, bl} {
				v[(c*b.Dy()+y)*b.Dx()+x] = float32(p+0xffff-a)/0xffff*2 - 1
			}
		}
	}
	return torch.FromSlice(s, v, 1, 3, b.Dy(), b.Dx())
}
