package scheduler

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// trace is a case of scripts/golden/sampling/scheduler/traces.py.
type trace struct {
	Name      string
	Method    string
	Config    json.RawMessage
	Steps     int
	Eta       *float64
	Timesteps []int
	Original  int
	Strength  *float64
	Shorten   bool
	DType     string
	At        []float64
	InitSigma float64 `json:"init_sigma"`
}

func (c trace) method(t *testing.T) Method {
	t.Helper()
	m, err := Named(c.Method)
	require.NoError(t, err)
	if c.Eta != nil {
		switch c.Method {
		case "tcd":
			m = TCD{Eta: *c.Eta}
		case "ddim":
			m = DDIM{Eta: *c.Eta}
		}
	}
	return m
}

func (c trace) options() Options {
	o := Options{Steps: c.Steps, Timesteps: c.Timesteps, OriginalSteps: c.Original, Shorten: c.Shorten}
	if c.Strength != nil {
		o.Strength = *c.Strength
	}
	return o
}

// tolerance is how far traces may be from diffusers', relative to the largest value. Most are equal to the bit. UniPC solves its
// two equations by LAPACK there and in closed form here; Karras's levels take powers and logarithms of numpy's; in half precision
// diffusers rounds the factors that it multiplies by from the left, too, which we do not.
func (c trace) tolerance() float64 {
	var config struct {
		Karras bool `json:"use_karras_sigmas"`
	}
	_ = json.Unmarshal(c.Config, &config)
	switch {
	case c.DType == "bfloat16":
		return 3e-2
	case c.DType == "float16":
		return 5e-3
	case c.Method == "unipc":
		return 2e-6
	case config.Karras:
		return 2e-6
	}
	return 0
}

func traces(t *testing.T) []trace {
	t.Helper()
	data, err := os.ReadFile("testdata/traces.json")
	require.NoError(t, err)
	var all []trace
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var c trace
		require.NoError(t, json.Unmarshal(lines.Bytes(), &c))
		all = append(all, c)
	}
	return all
}

var dtypes = map[string]torch.DType{"float32": torch.Float32, "bfloat16": torch.BFloat16, "float16": torch.Float16}

// The latents after every step are diffusers', to the bit where both sides compute the same on the kind of processor that the golden file
// was made on; on others, noise has other last bits.
func TestTraces(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, "testdata/traces.safetensors")
		all := golden["latents"] // of all cases below each other: before the first step and after each
		for i, c := range traces(t) {
			n := len(c.At) + 1
			want := all.Narrow(s, 0, 0, n)
			all = all.Narrow(s, 0, n, all.Dim(0)-n)
			t.Run(fmt.Sprintf("%s_%s_%s", c.Name, c.Method, c.DType), func(t *testing.T) {
				config, err := noise.ParseConfig(c.Config)
				require.NoError(t, err)
				run, err := c.method(t).Start(config, c.options())
				require.NoError(t, err)
				require.InDeltaSlice(t, c.At, run.Timesteps(), 1e-3)
				require.InDelta(t, c.InitSigma, run.InitSigma(), 1e-5*c.InitSigma)
				require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
					d := dtypes[c.DType]
					g := torch.NewGenerator(s, uint64(i))
					draw := func(s *torch.Scope) *torch.Tensor { return torch.Randn(s, g, torch.Float32, 2, 2, 2, 2).To(s, d) }
					x := draw(s)
					if c.Strength != nil {
						x = run.AddNoise(s, draw(s), x, 0)
					} else {
						x = x.MulScalar(s, run.InitSigma())
					}
					got := []*torch.Tensor{x.To(s, torch.Float32)}
					for i := range run.Timesteps() {
						at := c.At[i] // ours may be off in the last bit
						in := run.Input(s, x, i)
						x, _ = run.Step(s, i, x, in.MulScalar(s, at/(at+1)), draw)
						assert.Equal(t, d, x.DType())
						got = append(got, x.To(s, torch.Float32))
					}
					off := torch.Stack(s, got, 0).Sub(s, want).Abs(s).Max(s).Item()
					assert.LessOrEqual(t, off, max(c.tolerance(), ulps)*want.Abs(s).Max(s).Item(), "%s %+v", c.Config, c.options())
					return nil
				}))
			})
		}
		return nil
	})
	require.NoError(t, err)
}

// ulps are some last bits of a float32. libtorch computes roots and powers by libraries whose last bits differ between processors.
const ulps = 1e-6

// diffusers' own tests of LCMScheduler run this loop and publish the sums of sizes.
func TestPublishedLoops(t *testing.T) {
	for steps, want := range map[int]float64{1: 18.7097, 10: 197.7616} {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			run, err := LCM{}.Start(noise.Config{}, Options{Steps: steps})
			require.NoError(t, err)
			const n = 4 * 3 * 8 * 8
			x := torch.Arange(s, n, torch.Float32).Reshape(s, 3, 8, 8, 4).DivScalar(s, n).Permute(s, 3, 0, 1, 2).Contiguous(s)
			g := torch.NewGenerator(s, 0)
			draw := func(s *torch.Scope) *torch.Tensor { return torch.Randn(s, g, torch.Float32, 4, 3, 8, 8) }
			for i, at := range run.Timesteps() {
				x, _ = run.Step(s, i, x, x.MulScalar(s, at/(at+1)), draw)
			}
			assert.InDelta(t, want, x.Abs(s).Sum(s).Item(), 1e-3)
			return nil
		})
		require.NoError(t, err)
	}
}

func TestLCMTimesteps(t *testing.T) {
	for n, want := range map[int][]float64{
		1: {999}, 2: {999, 499}, 3: {999, 679, 339}, 4: {999, 759, 499, 259}, 5: {999, 799, 599, 399, 199},
		6: {999, 839, 679, 499, 339, 179}, 7: {999, 859, 719, 579, 439, 299, 159}, 8: {999, 879, 759, 639, 499, 379, 259, 139},
	} {
		run, err := LCM{}.Start(noise.Config{}, Options{Steps: n})
		require.NoError(t, err)
		require.Equal(t, want, run.Timesteps())
		require.Empty(t, run.Notices())
	}
	run, err := LCM{}.Start(noise.Config{}, Options{Timesteps: []int{998, 499}})
	require.NoError(t, err)
	require.Equal(t, []string{
		"the first timestep is 998 and not 999: the model may not have learned to start there",
		"timesteps [998] are not among the 50 that the model was distilled at",
	}, run.Notices())
}

func TestRefused(t *testing.T) {
	nan := math.NaN()
	for want, try := range map[string]func() (Schedule, error){
		"51 steps: the model was distilled at 50 timesteps, of which 50 are available: want at most that many steps": func() (Schedule, error) {
			return LCM{}.Start(noise.Config{}, Options{Steps: 51})
		},
		"4 steps: the model was distilled at 50 timesteps, of which 2 are available: want at most that many steps": func() (Schedule, error) {
			return LCM{}.Start(noise.Config{}, Options{Steps: 4, Strength: 0.05, Shorten: true})
		},
		"strength 0.2 of 4 steps leaves no steps: want a strength of at least 0.25, or more steps": func() (Schedule, error) {
			return LCM{}.Start(noise.Config{}, Options{Steps: 4, Strength: 0.2})
		},
		"strength: want a number above 0 and up to 1, got NaN": func() (Schedule, error) {
			return Euler{}.Start(noise.Config{}, Options{Steps: 4, Strength: nan})
		},
		"want 1 to 1000 steps, got 0": func() (Schedule, error) { return DDIM{}.Start(noise.Config{}, Options{}) },
		"original steps: want 1 to 1000, the number of training timesteps, got 1001": func() (Schedule, error) {
			return LCM{}.Start(noise.Config{}, Options{Steps: 1, OriginalSteps: 1001})
		},
		"timesteps [1 2]: want descending timesteps": func() (Schedule, error) {
			return TCD{}.Start(noise.Config{}, Options{Timesteps: []int{1, 2}})
		},
		"timestep 1000: want 0 to 999": func() (Schedule, error) { return Heun{}.Start(noise.Config{}, Options{Timesteps: []int{1000}}) },
		"2 steps and 1 timestep: want only one of them, or as many timesteps as steps": func() (Schedule, error) {
			return Heun{}.Start(noise.Config{}, Options{Steps: 2, Timesteps: []int{1}})
		},
		"custom timesteps cannot be combined with karras noise levels: want only one of them": func() (Schedule, error) {
			return UniPC{Karras: true}.Start(noise.Config{}, Options{Timesteps: []int{1}})
		},
		"scheduler config: lower_order_final is false, but unipc needs a lower order in the last step to noise level 0; want true, or final_sigmas_type sigma_min": func() (Schedule, error) {
			no := false
			return UniPC{}.Start(noise.Config{LowerFinal: &no}, Options{Steps: 5})
		},
		"tcd: want an eta from 0 to 1, got 2": func() (Schedule, error) { return TCD{Eta: 2}.Start(noise.Config{}, Options{Steps: 1}) },
		"scheduler config: rescale_betas_zero_snr is incompatible with prediction_type epsilon: at the last timestep x_0 does not follow from " +
			"the noise; want v_prediction or sample": func() (Schedule, error) { return LCM{}.Start(noise.Config{ZeroSNR: true}, Options{Steps: 1}) },
		"scheduler config: steps_offset gives timestep 1000: want 0 to 999; use fewer steps or a smaller offset": func() (Schedule, error) {
			return DDIM{}.Start(noise.Config{StepsOffset: 1}, Options{Steps: 1000})
		},
	} {
		_, err := try()
		require.EqualError(t, err, want)
	}
}

func TestDefault(t *testing.T) {
	for class, want := range map[string]string{"PNDMScheduler": "pndm", "LCMScheduler": "lcm"} {
		name, exact := Default(noise.Config{Class: class})
		require.Equal(t, want, name)
		require.True(t, exact)
	}
}

func TestNamed(t *testing.T) {
	for _, name := range append(Names(), "dpmpp2m", "dpmpp2m_karras") {
		_, err := Named(name)
		require.NoError(t, err)
	}
	_, err := Named("restart")
	require.ErrorContains(t, err, `there is no sampler "restart": want one of ddim, ddpm, deis,`)
}

// What noise.ParseConfig takes, methods can start with or refuse.
func FuzzStart(f *testing.F) {
	for _, c := range []string{`{}`, `{"rescale_betas_zero_snr": true, "prediction_type": "sample"}`, `{"num_train_timesteps": 1}`,
		`{"beta_start": 0.999, "beta_end": 1e-300, "use_karras_sigmas": true, "timestep_spacing": "trailing"}`} {
		f.Add([]byte(c), uint8(4))
	}
	f.Fuzz(func(t *testing.T, data []byte, steps uint8) {
		c, err := noise.ParseConfig(data)
		if err != nil || c.TrainSteps > 2000 {
			return
		}
		for name, m := range methods {
			run, err := m.Start(c, Options{Steps: int(steps)})
			if err != nil {
				continue
			}
			for _, at := range run.Timesteps() {
				if !(at >= 0 && at < float64(c.Steps())) {
					t.Fatalf("%s: timestep %g for %s", name, at, data)
				}
			}
		}
	})
}
