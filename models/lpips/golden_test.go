package lpips

import (
	"encoding/json"
	"iter"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// golden is what scripts/golden/models/lpips/distances.py wrote: distances and gradients of the Python packages lpips and, with averaging pools,
// piq.
type golden struct {
	tensors    map[string]*torch.Tensor
	metadata   map[string]string
	seed, step int
	cases      []struct {
		Name   string `json:"name"`
		Config Config `json:"config"`
		Shape  []int  `json:"shape"`
	}
}

func openGolden(t *testing.T, s *torch.Scope) golden {
	t.Helper()
	var g golden
	var err error
	g.tensors, g.metadata = torchtest.Golden(t, s, "testdata/golden.safetensors")
	g.seed, err = strconv.Atoi(g.metadata["seed"])
	require.NoError(t, err)
	g.step, err = strconv.Atoi(g.metadata["step"])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(g.metadata["cases"]), &g.cases))
	return g
}

// draw yields the weights that the generator drew, in its order, and the constants.
func (g golden) draw(t *testing.T, s *torch.Scope, net Net) iter.Seq2[string, *torch.Tensor] {
	t.Helper()
	return func(yield func(string, *torch.Tensor) bool) {
		stream := torch.NewGenerator(s, uint64(g.seed))
		for name, v := range torchtest.Drawn(t, g.metadata[string(net)], func(name string, dims []int) *torch.Tensor {
			v := torch.Randn(s, stream, torch.Float32, dims...)
			switch {
			case strings.HasPrefix(name, "lin"):
				return v.Abs(s).MulScalar(s, 0.1)
			case strings.HasSuffix(name, "weight"):
				return v.MulScalar(s, math.Sqrt(2/float64(dims[1]*dims[2]*dims[3])))
			}
			return v.MulScalar(s, 0.1)
		}) {
			if !yield(name, v) {
				return
			}
		}
		_ = yield("scaling_layer.shift", torch.FromSlice(s, shift[:], 1, 3, 1, 1)) &&
			yield("scaling_layer.scale", torch.FromSlice(s, scale[:], 1, 3, 1, 1))
	}
}

// images draws the two batches that the generator drew for its i-th case.
func (g golden) images(s *torch.Scope, i int) (a, b *torch.Tensor) {
	stream := torch.NewGenerator(s, uint64(g.seed+1+i))
	a = torch.Randn(s, stream, torch.Float32, g.cases[i].Shape...).MulScalar(s, 0.5).Clamp(s, -1, 1)
	return a, a.Add(s, torch.Randn(s, stream, torch.Float32, g.cases[i].Shape...).MulScalar(s, 0.2)).Clamp(s, -1, 1)
}

// Distances and gradients are those of the Python packages, for whole networks with drawn weights.
func TestGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s)
		for _, dtype := range []torch.DType{torch.Float32, torch.Float64} {
			for _, net := range []Net{Alex, VGG} {
				l, err := New(Config{Net: net}, torch.CPU, dtype, 0)
				require.NoError(t, err)
				defer l.Close()
				require.NoError(t, s.Run(func(s *torch.Scope) error { return l.Load(g.draw(t, s, net)) }))
				for i, c := range g.cases {
					if c.Config.Net != net {
						continue
					}
					name := c.Name + "." + dtype.String()
					t.Run(name, func(t *testing.T) {
						if testing.Short() && net == VGG && c.Config.Resize != ResizeNone {
							t.Skip("224×224 pixels through VGG16")
						}
						// Both sides run the same kernels; sums have another order, and more so on another processor. piq's constants, written for images in [0, 1] and
						// rounded to float32, are 3e-8 away, which gradients multiply.
						near := map[torch.DType]float64{torch.Float32: 1e-5, torch.Float64: 1e-13}[dtype]
						if c.Config.AveragePool {
							near = max(near, 1e-6)
						}
						l.config = c.Config
						require.NoError(t, s.Run(func(s *torch.Scope) error {
							a, b := g.images(s, i)
							a, b = a.To(s, dtype), b.To(s, dtype)
							a.SetRequiresGrad(true)
							d := l.Distance(s, a, b)
							requireClose(t, s, g.tensors[name+".distance"], d, near, "distance")
							d.Sum(s).Backward()
							grad := a.Grad(s)
							requireClose(t, s, g.tensors[name+".largest"], grad.Abs(s).Max(s), near, "largest gradient")
							some := grad.Slice(s, 2, 0, c.Shape[2], g.step).Slice(s, 3, 0, c.Shape[3], g.step)
							requireClose(t, s, g.tensors[name+".grad"], some.DivScalar(s, grad.Abs(s).Max(s).Item()), near, "gradient")
							return nil
						}))
					})
				}
			}
		}
		return nil
	}))
}

func requireClose(t *testing.T, s *torch.Scope, want, got *torch.Tensor, tolerance float64, what string) {
	t.Helper()
	require.Equal(t, want.Shape(), got.Shape(), what)
	require.Equal(t, want.DType(), got.DType(), what)
	d := got.Detach(s).Sub(s, want).Abs(s).Max(s).Item() / want.Abs(s).Max(s).Item()
	t.Logf("%s: largest difference %.2g", what, d)
	require.LessOrEqual(t, d, tolerance, what)
}
