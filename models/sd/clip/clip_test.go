package clip

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// tiny is an encoder with everything: a projection, and an end that is found by its number.
func tiny() Config {
	return Config{
		Vocab: 20, Width: 12, MLPWidth: 16, Depth: 3, Heads: 3, Positions: 6, EOS: 19, ProjectionDim: 5, Projection: true,
	}
}

func tinyIDs(s *torch.Scope) *torch.Tensor {
	return torch.FromSlice(s, []int64{18, 4, 7, 19, 19, 18, 19, 3, 3, 3}, 2, 5)
}

func zeros(s *torch.Scope, n, l int) *torch.Tensor { return torch.Zeros(s, torch.Int64, n, l) }

// What a token becomes does not depend on those after it, nor on other texts.
func TestCausal(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		e := encoder(t, tiny(), torch.Float64)
		ids := tinyIDs(s)
		all := e.Forward(s, ids, Options{}).Hidden
		for l := 1; l < 5; l++ {
			part := e.Forward(s, ids.Narrow(s, 1, 0, l), Options{HiddenOnly: true}).Hidden
			torchtest.Close(t, fmt.Sprint(l, " tokens"), part, all.Narrow(s, 1, 0, l), 1e-12, 0)
		}
		second := e.Forward(s, ids.Narrow(s, 0, 1, 1), Options{}).Hidden
		torchtest.Close(t, "the second text", second, all.Narrow(s, 0, 1, 1), 1e-12, 0)
		return nil
	}))
}

// Pooled is the final norm's vector of the token that ends the text.
func TestPooledIsAtTheEnd(t *testing.T) {
	for _, c := range []struct {
		eos  int
		want []int
	}{{19, []int{3, 1}}, {legacyEOS, []int{3, 1}}, {3, []int{0, 2}}, {4, []int{1, 0}}, {1 << 20, []int{0, 0}}} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			config := tiny()
			config.EOS, config.Projection = c.eos, false
			out := encoder(t, config, torch.Float64).Forward(s, tinyIDs(s), Options{})
			for i, at := range c.want {
				want := out.Hidden.Select(s, 0, i).Select(s, 0, at)
				torchtest.Close(t, fmt.Sprintf("end %d, text %d", c.eos, i), out.Pooled.Select(s, 0, i), want, 1e-12, 0)
			}
			return nil
		}))
	}
}

// shift adds to a layer's weight, and counts.
type shift struct {
	delta *torch.Tensor
	calls *int
}

func (a shift) AddTo(s *torch.Scope, sum, _ *torch.Tensor) {
	*a.calls++
	sum.AddInPlace(s, a.delta)
}

// Adapters of all linear layers work as if their weights were changed; each is asked once.
func TestAdapters(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			e, changed := encoder(t, tiny(), torch.Float64), encoder(t, tiny(), torch.Float64)
			plain := e.Forward(s, tinyIDs(s), Options{})
			weights := maps.Collect(changed.Tensors())
			g := torch.NewGenerator(s, 5)
			adapters, calls := nn.Adapters{}, map[string]*int{}
			for name, w := range e.Parameters() {
				if w.NDim() == 2 && !strings.Contains(name, "embedding") {
					calls[name] = new(int)
					delta := torch.Randn(s, g, torch.Float64, w.Shape()...).MulScalar(s, 0.1)
					adapters[w] = []nn.Adapter{shift{delta, calls[name]}}
					weights[name].AddInPlace(s, delta)
				}
			}
			require.Len(t, adapters, 6*3+1)
			want, got := changed.Forward(s, tinyIDs(s), Options{}), e.Forward(s, tinyIDs(s), Options{Adapters: adapters})
			torchtest.Close(t, "hidden", got.Hidden, want.Hidden, 1e-12, 0)
			torchtest.Close(t, "pooled", got.Pooled, want.Pooled, 1e-12, 0)
			require.Greater(t, got.Hidden.Sub(s, plain.Hidden).Abs(s).Max(s).Item(), 0.1)
			for name, n := range calls {
				require.Equal(t, 1, *n, name)
			}
			// A layer that is left out is not run, and neither is the projection.
			e.Forward(s, tinyIDs(s), Options{Skip: 1, HiddenOnly: true, Adapters: adapters})
			for name, n := range calls {
				left := strings.Contains(name, "layers.2.") || name == "text_projection.weight"
				require.Equal(t, left, *n == 1, name)
			}
			return nil
		})
	}))
}

// Gradients of both outputs are the slopes that central differences find, for every tensor, from every number of layers.
func TestGradients(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		e, err := New(tiny(), torch.CPU, torch.Float64, 3)
		require.NoError(t, err)
		defer e.Close()
		g := torch.NewGenerator(s, 4)
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error { // where norms and biases matter
			for _, p := range e.Parameters() {
				p.AddInPlace(s, torch.Randn(s, g, torch.Float64, p.Shape()...).MulScalar(s, 0.3))
			}
			return nil
		}))
		for _, o := range []Options{{}, {Skip: 1, Raw: true}} {
			hw, pw := torch.Randn(s, g, torch.Float64, 2, 5, 12), torch.Randn(s, g, torch.Float64, 2, 5)
			loss := func(s *torch.Scope) *torch.Tensor {
				out := e.Forward(s, tinyIDs(s), o)
				return out.Hidden.Mul(s, hw).Sum(s).Add(s, out.Pooled.Mul(s, pw).Sum(s))
			}
			for _, p := range e.Parameters() {
				p.ZeroGrad()
			}
			loss(s).Backward()
			for name, p := range e.Parameters() {
				const step = 1e-4
				along := torch.Randn(s, g, torch.Float64, p.Shape()...)
				at := func(v float64) (l float64) {
					require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
						p.AddScaledInPlace(s, along, v)
						l = loss(s).Item()
						p.AddScaledInPlace(s, along, -v)
						return nil
					}))
					return l
				}
				want := (at(step) - at(-step)) / (2 * step)
				assert.InDelta(t, want, p.Grad(s).Mul(s, along).Sum(s).Item(), 1e-5*(1+math.Abs(want)), "%+v %s", o, name)
			}
		}
		return nil
	}))
}

// Initial weights have transformers' standard deviations; biases are zero, norms one.
func TestInitialWeights(t *testing.T) {
	c := Config{Vocab: 300, Width: 128, MLPWidth: 256, Depth: 2, Heads: 2, Positions: 100, ProjectionDim: 64, Projection: true}
	e, err := New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer e.Close()
	d := 128.0
	want := map[string]float64{
		"token_embedding": 0.02, "position_embedding": 0.02, "q_proj": 1 / math.Sqrt(d*4), "k_proj": 1 / math.Sqrt(d*4),
		"v_proj": 1 / math.Sqrt(d*4), "out_proj": 1 / math.Sqrt(d), "fc1": 1 / math.Sqrt(2*d), "fc2": 1 / math.Sqrt(d*4),
		"text_projection": 1 / math.Sqrt(d),
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			seen := map[string]bool{}
			for name, p := range e.Parameters() {
				parts := strings.Split(name, ".")
				layer := parts[len(parts)-2]
				mean, square := p.Mean(s).Item(), p.Mul(s, p).Mean(s).Item()
				switch std, ok := want[layer]; {
				case strings.HasSuffix(name, "bias"):
					require.Zero(t, square, name)
				case ok:
					require.InEpsilon(t, std, math.Sqrt(square), 0.03, name)
					seen[layer] = true
				default:
					require.Equal(t, []float64{1, 1}, []float64{mean, square}, name)
				}
			}
			require.Len(t, seen, len(want))
			return nil
		})
	}))
}

// What cannot be encoded, or skipped, is an error that says what can.
func TestForwardRefuses(t *testing.T) {
	e := encoder(t, tiny(), torch.Float32)
	for _, c := range []struct {
		forward func(s *torch.Scope)
		want    string
	}{
		{func(s *torch.Scope) { e.Forward(s, zeros(s, 1, 7), Options{}) }, "clip: want tokens of shape [n, 1 to 6], got [1 7]"},
		{func(s *torch.Scope) { e.Forward(s, zeros(s, 1, 0), Options{}) }, "clip: want tokens of shape [n, 1 to 6], got [1 0]"},
		{func(s *torch.Scope) { e.Forward(s, torch.Zeros(s, torch.Int64, 6), Options{}) }, "got [6]"},
		{func(s *torch.Scope) { e.Forward(s, torch.Zeros(s, torch.Float32, 1, 6), Options{}) }, "want int64, got float32"},
		{func(s *torch.Scope) { e.Forward(s, zeros(s, 1, 6), Options{Skip: 4}) }, "want Options.Skip of 0 to 3, got 4"},
		{func(s *torch.Scope) { e.Forward(s, zeros(s, 1, 6), Options{Skip: -1}) }, "want Options.Skip of 0 to 3, got -1"},
		{func(s *torch.Scope) { e.Forward(s, zeros(s, 1, 2).AddScalar(s, 20), Options{}) }, "want numbers from 0 to"},
	} {
		require.ErrorContains(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			c.forward(s)
			return nil
		}), c.want)
	}
}

// Names that do not fit are reported as those of the file.
func TestFromReportsWhatDoesNotFit(t *testing.T) {
	c := tiny().WithDefaults()
	given := sdtest.Filled(Shapes(c))[1:]
	c.Projection = false
	_, err := From(c, given, torch.CPU, torch.Float32)
	require.EqualError(t, err, "clip: weights do not fit the network: 1 missing: text_model.embeddings.token_embedding.weight; "+
		"1 unexpected: text_projection.weight")
}

// A pass without gradients leaves its output and nothing else, whatever is asked for.
func TestForwardLeavesItsOutput(t *testing.T) {
	e := encoder(t, tiny(), torch.Float32)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			ids := tinyIDs(s)
			for skip := range 4 {
				for _, raw := range []bool{false, true} {
					for _, only := range []bool{false, true} {
						before := torch.Live()
						out := e.Forward(s, ids, Options{Skip: skip, Raw: raw, HiddenOnly: only})
						want := map[bool]int{false: 2, true: 1}[only]
						require.EqualValues(t, want, torch.Live()-before, "skip %d, raw %t, hidden only %t", skip, raw, only)
						require.Equal(t, []int{2, 5, 12}, out.Hidden.Shape())
					}
				}
			}
			return nil
		})
	}))
}

// One encoder serves several goroutines.
func TestGoroutines(t *testing.T) {
	e := encoder(t, tiny(), torch.Float64)
	encode := func() (values []float64, err error) {
		err = torch.Run(torch.CPU, func(s *torch.Scope) error {
			values = torch.ToSlice[float64](e.Forward(s, tinyIDs(s), Options{}).Pooled.Detach(s))
			return nil
		})
		return values, err
	}
	want, err := encode()
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				got, err := encode()
				assert.NoError(t, err)
				assert.Equal(t, want, got)
			}
		})
	}
	wg.Wait()
}

// transformers loads the files we write, and computes the same with them.
func TestTransformersReadsOurs(t *testing.T) {
	python := torchtest.Python(t, "transformers", "safetensors")
	for class, projection := range map[string]bool{"CLIPTextModel": false, "CLIPTextModelWithProjection": true} {
		t.Run(class, func(t *testing.T) {
			dir := t.TempDir()
			c := tiny()
			c.Projection, c.Activation = projection, gelu
			e, err := New(c, torch.CPU, torch.Float32, 1)
			require.NoError(t, err)
			defer e.Close()
			config, err := json.Marshal(e.Config())
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644))
			weights := filepath.Join(dir, "model.safetensors")
			require.NoError(t, torch.SaveSafetensors(weights, e.Tensors(), torch.SaveOptions{Metadata: map[string]string{"format": "pt"}}))
			cmd := exec.Command(python, "-W", "ignore", "-c", `
import sys, torch, transformers
from safetensors.torch import save_file
net, info = getattr(transformers, sys.argv[1]).from_pretrained(".", output_loading_info=True)
assert not any(info.values()), info
o = net(torch.tensor([[18, 4, 7, 19, 19], [18, 19, 3, 3, 3]]))
pooled = o.text_embeds if "text_embeds" in o else o.pooler_output
save_file({"hidden": o.last_hidden_state, "pooled": pooled}, "out.safetensors")`, class)
			cmd.Dir = dir
			text, err := cmd.CombinedOutput()
			require.NoError(t, err, string(text))
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				want, _ := torchtest.Golden(t, s, filepath.Join(dir, "out.safetensors"))
				require.ElementsMatch(t, []string{"hidden", "pooled"}, slices.Collect(maps.Keys(want)))
				out := e.Forward(s, tinyIDs(s), Options{})
				torchtest.Close(t, "hidden", out.Hidden.Detach(s), want["hidden"], 1e-5, 1e-5)
				torchtest.Close(t, "pooled", out.Pooled.Detach(s), want["pooled"], 1e-5, 1e-5)
				return nil
			}))
		})
	}
}
