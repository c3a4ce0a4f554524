package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

const loraFolder = "testdata/lora"

// loraFile is a line of testdata/lora/files.jsonl; scripts/golden/tests/lora.py says what its keys mean.
type loraFile struct {
	File, Model, Layout string
	Effect, Error       *string
	Unmatched           []string
	Diffusers           string
}

// loraEffect is a line of testdata/lora/effects.jsonl.
type loraEffect struct {
	Name, Model, Kind, Tensors string
	Modules                    map[string][6]float64 // rank, alpha, scale; sum, sum of sizes, weighted sum
}

// jsonLines reads a file with a JSON value on each line.
func jsonLines[T any](t *testing.T, path string) (all []T) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var v T
		d := json.NewDecoder(strings.NewReader(lines.Text()))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&v), lines.Text())
		all = append(all, v)
	}
	require.NoError(t, lines.Err())
	require.NotEmpty(t, all)
	return all
}

// opened are models that are opened once.
type opened map[string]*sd.Model

func (all opened) open(t *testing.T, name string) *sd.Model {
	t.Helper()
	if all[name] == nil {
		m, err := sd.Open(filepath.Join(sdFolder, name), sd.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, m.Close()) })
		all[name] = m
	}
	return all[name]
}

// effect returns what adapters add to each weight and bias that they change, by part and path.
func effect(t *testing.T, s *torch.Scope, m *sd.Model, a nn.Adapters) map[string]*torch.Tensor {
	t.Helper()
	out := map[string]*torch.Tensor{}
	for part, st := range lora.Of(m) {
		for name, w := range st.Tensors() {
			if by := a[w]; len(by) > 0 {
				sum := torch.Zeros(s, torch.Float32, w.Shape()...)
				for _, one := range by {
					one.AddTo(s, sum, w)
				}
				out[part+"."+strings.TrimSuffix(name, ".weight")] = sum
			}
		}
	}
	return out
}

// Adapters in every layout change a model's weights as peft computes it; what does not fit is refused and named.
func TestLoRAFiles(t *testing.T) {
	effects := map[string]loraEffect{}
	for _, e := range jsonLines[loraEffect](t, filepath.Join(loraFolder, "effects.jsonl")) {
		effects[e.Name] = e
	}
	all := opened{}
	first := map[string]map[string][]float32{} // of each effect, by the first file that has it
	for _, f := range jsonLines[loraFile](t, filepath.Join(loraFolder, "files.jsonl")) {
		m := all.open(t, f.Model)
		t.Run(f.File, func(t *testing.T) {
			path := filepath.Join(loraFolder, f.File)
			a, err := lora.Load(m, path, lora.Options{})
			if f.Error != nil {
				require.Error(t, err)
				t.Log(err)
				for _, name := range f.Unmatched {
					stem, _, _ := strings.Cut(name, ".")
					require.ErrorContains(t, err, stem)
				}
				if f.Effect == nil {
					return
				}
				a, err = lora.Load(m, path, lora.Options{Partial: true})
			}
			require.NoError(t, err)
			defer func() { require.NoError(t, a.Close()) }()
			want := effects[*f.Effect]
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				got := effect(t, s, m, a.At(1))
				tolerance := 2e-6
				if want.Kind == "dora" {
					tolerance = 1e-5
				}
				modules := map[string]lora.Module{}
				for _, module := range a.Modules {
					modules[module.Name] = module
				}
				values := map[string][]float32{}
				for path, w := range want.Modules {
					delta := got[path]
					require.NotNil(t, delta, path)
					if module, ok := modules[path]; ok && want.Kind == "lora" {
						require.Equal(t, [2]float64{w[0], w[1]}, [2]float64{float64(module.Rank), module.Alpha}, path)
						require.InEpsilon(t, w[2], module.Scale, 1e-6, path)
					}
					values[path] = torch.ToSlice[float32](delta)
					sum, size, weighted := 0., 0., 0.
					for i, v := range values[path] {
						sum += float64(v)
						size += math.Abs(float64(v))
						weighted += float64(v) * float64(i%97+1)
					}
					require.InDelta(t, w[3], sum, tolerance*w[4], path)
					require.InDelta(t, w[4], size, tolerance*w[4], path)
					require.InDelta(t, w[5], weighted, 97*tolerance*w[4], path)
				}
				require.Len(t, got, len(want.Modules))
				golden, _ := torchtest.Golden(t, s, filepath.Join(loraFolder, want.Tensors))
				for path, w := range golden {
					require.NotNil(t, got[path], path)
					w := w.To(s, torch.Float32).Reshape(s, got[path].Shape()...)
					torchtest.Close(t, path, got[path], w, tolerance*w.Abs(s).Max(s).Item(), 0)
				}
				if before := first[want.Name]; before != nil {
					require.Equal(t, before, values, "other files with these weights give other differences")
				}
				first[want.Name] = values
				requireSnapshot(t, s, m, a)
				return nil
			}))
		})
	}
}

// requireSnapshot writes what a training run would, and reads back the same adapter.
func requireSnapshot(t *testing.T, s *torch.Scope, m *sd.Model, a *lora.Adapter) {
	t.Helper()
	tensors, metadata, err := a.Snapshot(s)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "snapshot.safetensors")
	require.NoError(t, torch.SaveSafetensors(path, tensors, torch.SaveOptions{Metadata: metadata}))
	b, err := lora.Load(m, path, lora.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	want, got := effect(t, s, m, a.At(1)), effect(t, s, m, b.At(1))
	require.Len(t, got, len(want))
	for name := range want {
		require.Contains(t, got, name)
		torchtest.Close(t, name, got[name], want[name], 1e-6*want[name].Abs(s).Max(s).Item(), 0) // of scales that are rounded to their type
	}
}

// The layers of a file are those that the model says are adapted, and weights by block reach them.
func TestLoRAWeights(t *testing.T) {
	m := opened{}.open(t, "sd15")
	a, err := lora.Load(m, filepath.Join(loraFolder, "cover-kohya.safetensors"), lora.Options{})
	require.NoError(t, err)
	defer a.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		whole := effect(t, s, m, a.At(1))
		part := effect(t, s, m, a.By(lora.Weights{"": 0.5, "unet.down_blocks": 0, "unet.down_blocks.0.attentions.1": -2}))
		for _, module := range a.Modules {
			name := module.Name
			factor := 0.5
			switch {
			case strings.HasPrefix(name, "unet.down_blocks.0.attentions.1."):
				factor = -2
			case strings.HasPrefix(name, "unet.down_blocks."):
				require.Nil(t, part[name], name)
				continue
			}
			torchtest.Close(t, name, part[name], whole[name].MulScalar(s, factor), 1e-6, 0)
		}
		require.Empty(t, effect(t, s, m, a.At(0)))
		return nil
	}))
	require.NoError(t, a.Check(lora.Weights{"": 1, "unet.mid_block": 0}))
	require.NoError(t, a.Check(lora.Weights{"text_encoder_2": 0}), "which this adapter does not have")
	require.ErrorContains(t, a.Check(lora.Weights{"unet.mid": 0}), `"unet.mid": want one of the adapter's, such as unet.`)
	require.ErrorContains(t, a.Check(lora.Weights{"": math.NaN()}), "finite")
	require.True(t, slices.ContainsFunc(a.Modules, func(m lora.Module) bool { return m.Name == "unet.down_blocks.0.resnets.1.conv2" }))
}

// loraCase is a line of testdata/lora/cases.jsonl.
type loraCase struct {
	sdCase
	Eta      float64
	Adapters []struct {
		File   string
		Weight any
	}
	Fuse bool
}

// blockWeights reads the weights that diffusers' set_adapters takes: a number, or numbers by block, of which resnets.N and samplers.N have
// that of attentions.N there; blocks without attention and resnets of the middle have none.
func blockWeights(t *testing.T, v any) lora.Weights {
	t.Helper()
	w := lora.Weights{}
	var read func(at string, v any)
	read = func(at string, v any) {
		switch v := v.(type) {
		case float64:
			w[at] = v
		case []any:
			for j, one := range v {
				for _, kind := range []string{"attentions", "resnets", "upsamplers", "downsamplers"} {
					read(fmt.Sprintf("%s.%s.%d", at, kind, j), one)
				}
			}
		case map[string]any:
			for key, one := range v {
				switch {
				case at == "" && (key == "unet" || strings.HasPrefix(key, "text_encoder")):
					read(key, one)
				case key == "down" || key == "up":
					read("unet."+key+"_blocks", one)
					w[map[string]string{"down": "unet.down_blocks.3", "up": "unet.up_blocks.0"}[key]] = 1
				case key == "mid":
					read("unet.mid_block.attentions.0", one)
				default:
					read(at+"."+strings.TrimPrefix(key, "block_"), one)
				}
			}
		default:
			require.Fail(t, "weight", "%v", v)
		}
	}
	read("", v)
	return w
}

// Pictures with adapters are diffusers': one and several, weighed as a whole and by block, at run time and merged, of networks and text
// encoders, in every family, with the samplers that few-step adapters were made for, and the tolerances of pictures without.
func TestLoRAPictures(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	golden, _ := torchtest.Golden(t, s, filepath.Join(loraFolder, "cases.safetensors"))
	for i, c := range jsonLines[loraCase](t, filepath.Join(loraFolder, "cases.jsonl")) {
		if testing.Short() && i%6 != 0 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			m, seen := c.open(t)
			draw := c.drawing(t, m)
			switch draw.Method.(type) {
			case scheduler.TCD:
				draw.Method = scheduler.TCD{Eta: c.Eta}
			}
			for _, a := range c.Adapters {
				one, err := lora.Load(m, filepath.Join(loraFolder, a.File), lora.Options{})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, one.Close()) })
				w := blockWeights(t, a.Weight)
				draw.Adapters = draw.Adapters.And(one.By(w))
			}
			c.compare(t, golden, draw, seen)
			seen.latents = nil
			both := draw.Adapters // the other way, too
			require.NoError(t, lora.Merge(m, both))
			draw.Adapters = nil
			c.compare(t, golden, draw, seen)
			require.NoError(t, lora.Merge(m, nil))
		})
	}
}

// Goroutines that draw with different adapters on one model, or with none, do not disturb each other: each has the picture, to the bit, that
// it has alone. Afterwards, and after merging and taking out, the model draws as it did.
func TestLoRASharedModel(t *testing.T) {
	m := opened{}.open(t, "sd15")
	var with [3]nn.Adapters // none for the first
	for i, file := range []string{"full-kohya.safetensors", "both-peft.safetensors"} {
		a, err := lora.Load(m, filepath.Join(loraFolder, file), lora.Options{})
		require.NoError(t, err)
		defer a.Close()
		with[i+1] = a.At(1)
	}
	draw := func(a nn.Adapters) (levels []uint8, err error) {
		d := texttoimage.Pipeline{Model: m, Method: scheduler.LCM{}, Steps: 3, Guidance: 1.5, Seed: 3, Width: 64, Height: 64, Adapters: a}
		for p, e := range d.Images(context.Background(), "a red cat") {
			if err = e; e == nil {
				levels = append(levels, p.(*image.NRGBA).Pix...)
			}
		}
		return levels, err
	}
	var alone [3][]uint8
	for i, a := range with {
		var err error
		alone[i], err = draw(a)
		require.NoError(t, err)
		require.NotEmpty(t, alone[i])
	}
	require.NotEqual(t, alone[0], alone[1])
	require.NotEqual(t, alone[1], alone[2])
	var all sync.WaitGroup
	for i, a := range with {
		for range 2 {
			all.Go(func() {
				for range 2 {
					if got, err := draw(a); err != nil || !slices.Equal(alone[i], got) {
						t.Errorf("adapters %d: the picture is not what it is alone; %v", i, err)
					}
				}
			})
		}
	}
	all.Wait()
	for range 2 {
		require.NoError(t, lora.Merge(m, with[1]))
		got, err := draw(nil)
		require.NoError(t, err)
		require.NotEqual(t, alone[0], got)
		both, err := draw(with[2]) // one merged, one at run time
		require.NoError(t, err)
		require.NotEqual(t, got, both)
		require.NoError(t, lora.Merge(m, nil))
		got, err = draw(nil)
		require.NoError(t, err)
		require.Equal(t, alone[0], got)
	}
}
