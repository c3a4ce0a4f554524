package lora

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/optim"
)

// openHalf opens the tiny model in bfloat16.
func openHalf(t *testing.T) *sd.Model {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "half")
	require.NoError(t, tiny.Write(dir, "sd15"))
	m, err := sd.Open(dir, sd.Options{DType: torch.BFloat16})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// adaptedLayer is a layer that takes adapters.
type adaptedLayer interface {
	nn.Layer
	Adapted(s *torch.Scope, x *torch.Tensor, a nn.Adapters) *torch.Tensor
}

// layersFor returns a linear layer and a 3×3 convolution, with inputs for them.
func layersFor(t *testing.T, s *torch.Scope, st *nn.Store) map[adaptedLayer]*torch.Tensor {
	t.Helper()
	out := map[adaptedLayer]*torch.Tensor{}
	g := torch.NewGenerator(s, 1)
	for path, l := range st.Layers() {
		switch l := l.(type) {
		case nn.Linear:
			if path == "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q" {
				out[l] = torch.Randn(s, g, torch.Float32, 5, l.Weight.Dim(1))
			}
		case nn.Conv2D:
			if path == "down_blocks.0.resnets.0.conv1" {
				out[l] = torch.Randn(s, g, torch.Float32, 2, l.Weight.Dim(1), 6, 6)
			}
		}
	}
	require.Len(t, out, 2)
	return out
}

// Beside a bfloat16 model A and B are float32, so that small steps are not rounded away: after 20 steps of AdamW at 1e-4 nearly all
// elements of A have moved, as have those of B. In bfloat16 two thirds have not.
func TestTrainingBesideHalfPrecision(t *testing.T) {
	m := openHalf(t)
	n := Networks{unetPart: m.UNet.Store()}
	half := torch.BFloat16
	moved := func(c Config) (a, b float64) {
		adapter, err := New(n, c)
		require.NoError(t, err)
		defer adapter.Close()
		o, err := optim.AdamW{LR: 1e-4}.New(adapter.Parameters())
		require.NoError(t, err)
		defer o.Close()
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			before := map[string][]float32{}
			values := func(p *torch.Tensor) []float32 { return torch.ToSlice[float32](p.Detach(s).To(s, torch.Float32)) }
			for name, p := range adapter.Parameters() {
				before[name] = values(p)
			}
			layers := layersFor(t, s, m.UNet.Store())
			for range 20 {
				o.ZeroGrad()
				loss := torch.Zeros(s, torch.Float32)
				for l, x := range layers {
					y := l.Adapted(s, x.To(s, half), adapter.At(1))
					require.Equal(t, half, y.DType())
					loss = loss.Add(s, y.To(s, torch.Float32).SubScalar(s, 1).Square(s).Mean(s))
				}
				loss.Backward()
				o.Step(s)
			}
			all, of := map[bool]float64{}, map[bool]float64{}
			for name, p := range adapter.Parameters() {
				up := strings.HasSuffix(name, upName+".weight")
				for i, v := range values(p) {
					of[up]++
					if v != before[name][i] {
						all[up]++
					}
				}
			}
			a, b = all[false]/of[false], all[true]/of[true]
			return nil
		}))
		return a, b
	}
	targets := []string{"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.resnets.0.conv1"}
	a, b := moved(Config{Rank: 4, Targets: targets})
	require.Greater(t, a, 0.99)
	require.Greater(t, b, 0.99)
	a, _ = moved(Config{Rank: 4, Targets: targets, DType: &half})
	require.Less(t, a, 0.6, "the test is none")

	for model, want := range map[*sd.Model]torch.DType{m: torch.Float32, openTiny(t, "sd15"): torch.Float32} {
		adapter, err := New(Of(model), Config{Rank: 1})
		require.NoError(t, err)
		for _, p := range adapter.Parameters() {
			require.Equal(t, want, p.DType())
		}
		require.NoError(t, adapter.Close())
	}
	whole := torch.Int64
	_, err := New(n, Config{DType: &whole})
	require.ErrorContains(t, err, "int64")
}

// The gradients of float32 factors beside a bfloat16 layer are those beside the same layer in float32, but for bfloat16's rounding of what
// they are computed of: 2⁻⁸ relative of each number, here of sums of some dozen. An adapter that was read is trained in the same way.
func TestGradientsBesideHalfPrecision(t *testing.T) {
	m, full := openHalf(t), openTiny(t, "sd15")
	path := filepath.Join(t.TempDir(), "a.safetensors")
	half, single := torch.Float16, torch.Float32
	require.NoError(t, filled(t, Networks{unetPart: full.UNet.Store()}, Config{Rank: 3, Alpha: 2, Seed: 4}).Write(path, WriteOptions{DType: &half}))
	gradients := func(model *sd.Model, d torch.DType) map[string][]float32 {
		f, err := Open(path)
		require.NoError(t, err)
		a, err := Attach(Networks{unetPart: model.UNet.Store()}, f, Options{DType: &single})
		require.NoError(t, err)
		defer a.Close()
		a.Store().SetRequiresGrad(true)
		out := map[string][]float32{}
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			loss := torch.Zeros(s, single)
			for l, x := range layersFor(t, s, model.UNet.Store()) {
				loss = loss.Add(s, l.Adapted(s, x.To(s, d), a.At(1)).To(s, single).Square(s).Sum(s))
			}
			loss.Backward()
			for name, p := range a.Parameters() {
				require.Equal(t, single, p.DType(), name)
				if g := p.Grad(s); g != nil {
					require.Equal(t, single, g.DType(), name)
					out[name] = torch.ToSlice[float32](g)
				}
			}
			return nil
		}))
		return out
	}
	want, got := gradients(full, single), gradients(m, torch.BFloat16)
	require.Len(t, want, 4)
	require.Len(t, got, 4)
	for name, w := range want {
		var diff, size float64
		for i, v := range w {
			diff += math.Pow(float64(got[name][i]-v), 2)
			size += math.Pow(float64(v), 2)
		}
		require.Less(t, math.Sqrt(diff/size), 0.02, name)
		require.NotZero(t, size, name)
	}
}
