package nn_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// layers is one of each layer in a row: [n, 4, 6, 6] to [n, 5].
type layers struct {
	conv   nn.Conv2D
	norm   nn.GroupNorm
	linear nn.Linear
	over   nn.LayerNorm
}

func (l *layers) build(p nn.Path) {
	l.conv = nn.NewConv2D(p.Sub("conv"), 4, 16, 3, torch.Conv2DOptions{Padding: 1})
	l.norm = nn.NewGroupNorm(p.Sub("norm"), 4, 16, 1e-5)
	l.linear = nn.NewLinear(p.Sub("linear"), 16, 5)
	l.over = nn.NewLayerNorm(p.Sub("over"), 5, 1e-5)
}

func (l *layers) forward(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor {
	h := l.norm.AdaptedSiLU(s, l.conv.Adapted(s, x, a), a)
	h = l.norm.Adapted(s, h, a)
	return l.over.Adapted(s, l.linear.Adapted(s, h.Flatten(s, 2, 3).Transpose(s, 1, 2).Contiguous(s), a), a)
}

// Layers with float32 parameters compute in the type of an input in half precision. Gradients of the parameters are float32, and both are
// those of float32 but for rounding; with adapters, with weights from a file, and without gradients, too.
func TestMixedPrecision(t *testing.T) {
	var own, bound layers
	st, err := nn.Build(torch.CPU, torch.Float32, 1, own.build)
	require.NoError(t, err)
	defer st.Close()
	packed, err := nn.BuildFrom(nn.Stored{Store: st}, torch.CPU, torch.Float32, bound.build)
	require.NoError(t, err)
	defer packed.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		low := nn.LowRank{Down: nn.Linear{Weight: torch.Randn(s, g, torch.Float32, 2, 16)}, Up: nn.Linear{Weight: torch.Randn(s, g, torch.Float32, 5, 2)}, Scale: 0.3}
		x := torch.Randn(s, g, torch.Float32, 3, 4, 6, 6)
		for name, l := range map[string]*layers{"built": &own, "from a source": &bound} {
			for _, a := range []nn.Adapters{nil, {l.linear.Weight: {low}}} {
				want := l.forward(s, x, a)
				for d, tolerance := range map[torch.DType]float64{torch.BFloat16: 0.06, torch.Float16: 0.008} {
					require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
						got := l.forward(s, x.To(s, d), a)
						require.Equal(t, d, got.DType())
						off := got.To(s, torch.Float32).Sub(s, want).Abs(s).Max(s).Item() / want.Abs(s).Max(s).Item()
						require.Less(t, off, tolerance, "%s, %v", name, d)
						require.Positive(t, off)
						return nil
					}))
				}
			}
		}
		gradients := func(d torch.DType) map[string][]float32 {
			own.forward(s, x.To(s, d), nil).To(s, torch.Float32).Square(s).Mul(s, torch.Arange(s, 5, torch.Float32)).Sum(s).Backward()
			all := map[string][]float32{}
			for name, p := range st.Parameters() {
				require.Equal(t, torch.Float32, p.Grad(s).DType(), name)
				all[name] = torch.ToSlice[float32](p.Grad(s))
				p.ZeroGrad()
			}
			return all
		}
		want := gradients(torch.Float32)
		for d, tolerance := range map[torch.DType]float64{torch.BFloat16: 0.05, torch.Float16: 0.01} {
			for name, got := range gradients(d) {
				require.Less(t, apart(got, want[name]), tolerance, "%v, %s", d, name)
			}
		}
		return nil
	}))
}

// apart is the norm of a difference relative to that of b.
func apart(a, b []float32) float64 {
	var d, n float64
	for i := range a {
		d += float64(a[i]-b[i]) * float64(a[i]-b[i])
		n += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(d / (n + 1e-12))
}
