package clip

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// How far results may be from transformers', relative to 1 + the element's size. Both sides call the same operators of
// libtorch in the same types: where the files were made, all but float64 agree to the last bit, except for gelu_new, which
// transformers computes step by step. Other processors multiply matrices in other orders, which moves results by a few of
// their last bits.
var tolerances = map[torch.DType]float64{torch.Float64: 1e-12, torch.Float32: 1e-5, torch.Float16: 5e-3, torch.BFloat16: 3e-2}

// golden is a file of scripts/golden/models/sd/clip/clip.py, and the encoder whose output it has.
type golden struct {
	name    string
	config  Config
	tensors map[string]*torch.Tensor
}

func openGolden(t *testing.T, s *torch.Scope, name string) golden {
	t.Helper()
	tensors, metadata := torchtest.Golden(t, s, filepath.Join("testdata", name+".safetensors"))
	c, err := ParseConfig([]byte(metadata["config"]))
	require.NoError(t, err)
	return golden{name, c, tensors}
}

// encoder makes the encoder with the weights that follow from names.
func encoder(t *testing.T, c Config, dtype torch.DType) *Encoder {
	t.Helper()
	e, err := From(c, sdtest.Filled(Shapes(c)), torch.CPU, dtype)
	require.NoError(t, err)
	t.Cleanup(e.Close)
	return e
}

// compare compares with the golden tensor of that key, and reports whether there is one.
func (g golden) compare(t *testing.T, dtype torch.DType, key string, got *torch.Tensor) bool {
	t.Helper()
	key = fmt.Sprintf("%s.%s", dtype, key)
	want, ok := g.tensors[key]
	if ok {
		torchtest.Close(t, g.name+" "+key, got, want, tolerances[dtype], tolerances[dtype])
	}
	return ok
}

// Every hidden state, with and without the final norm, and the pooled output are transformers', in all types and grad modes:
// three kinds of encoders, two rules for the end of the text.
func TestTransformers(t *testing.T) {
	for _, name := range []string{"l", "h", "bigg", "gelu_new"} {
		for dtype := range tolerances {
			t.Run(fmt.Sprint(name, " ", dtype), func(t *testing.T) {
				s := torch.NewScope(torch.CPU)
				defer s.Close()
				g := openGolden(t, s, name)
				e := encoder(t, g.config, dtype)
				compared := 0
				compare := func(s *torch.Scope, key string, o Options) {
					out := e.Forward(s, g.tensors["ids"], o)
					require.Equal(t, o.HiddenOnly, out.Pooled == nil)
					if g.compare(t, dtype, key, out.Hidden) {
						compared++
					}
					if out.Pooled != nil {
						require.True(t, g.compare(t, dtype, "pooled", out.Pooled))
					}
				}
				modes := []func(func(*torch.Scope) error) error{s.Run, s.NoGrad, s.Inference}
				for _, run := range modes {
					require.NoError(t, run(func(s *torch.Scope) error {
						for k := range g.config.Depth + 1 {
							for _, only := range []bool{false, true} {
								compare(s, fmt.Sprintf("norm.%d", k), Options{Skip: k, HiddenOnly: only})
								compare(s, fmt.Sprintf("raw.%d", k), Options{Skip: k, Raw: true, HiddenOnly: only})
							}
						}
						return nil
					}))
				}
				want := 3 // the last, and what SDXL takes with the norm and without
				if dtype == torch.Float64 {
					want = 2 * (g.config.Depth + 1)
				}
				require.Equal(t, want*2*len(modes), compared)
			})
		}
	}
}

// Heads, widths, vocabulary and length of the real CLIP-L.
func TestTransformersLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("draws 54 million weights")
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	g := openGolden(t, s, "large")
	for _, dtype := range []torch.DType{torch.Float32, torch.Float64} {
		e := encoder(t, g.config, dtype)
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			part := func(x *torch.Tensor) *torch.Tensor { return x.Slice(s, 1, 0, x.Dim(1), 7).Slice(s, 2, 0, x.Dim(2), 12) }
			ids := g.tensors["ids"]
			out := e.Forward(s, ids, Options{})
			require.True(t, g.compare(t, dtype, "norm.0", part(out.Hidden)))
			require.True(t, g.compare(t, dtype, "pooled", out.Pooled))
			require.True(t, g.compare(t, dtype, "raw.1", part(e.Forward(s, ids, Options{Skip: 1, Raw: true}).Hidden)))
			return nil
		}))
	}
}
