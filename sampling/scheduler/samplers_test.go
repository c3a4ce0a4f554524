package scheduler

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// The latents after every step are diffusers', or by the formulas that scripts/golden/sampling/scheduler/samplers.py writes out for what diffusers does not
// have. Factors are computed in float64 here and in float32 there, and levels near each other are subtracted: 1e-5 of the largest value, or of 1; and
// 3e-5 for DEIS of the third order, whose factors are differences of integrals of levels near each other. The golden file is of [2, 2, 2, 2]
// latents.
func TestSamplers(t *testing.T) {
	file, err := os.Open("testdata/samplers.json")
	require.NoError(t, err)
	defer file.Close()
	met := map[string]bool{}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		want, _ := torchtest.Golden(t, s, "testdata/samplers.safetensors")
		lines := bufio.NewScanner(file)
		for i := 0; lines.Scan(); i++ {
			var c struct {
				trace
				Spacing string
			}
			require.NoError(t, json.Unmarshal(lines.Bytes(), &c))
			met[c.Method] = true
			t.Run(fmt.Sprintf("%s_%s_%s", c.Name, c.Method, c.Spacing), func(t *testing.T) {
				config, err := noise.ParseConfig(c.Config)
				require.NoError(t, err)
				name := c.Method
				if c.Spacing != "" {
					name += "_" + c.Spacing
				}
				m, err := Named(name)
				require.NoError(t, err)
				assert.Equal(t, name, NameOf(m))
				tolerance := 1e-5
				if c.Method == "deis" && config.Order == 3 {
					tolerance = 3e-5
				}
				run, err := m.Start(config, c.options())
				require.NoError(t, err)
				require.InDeltaSlice(t, c.At, run.Timesteps(), 2e-3)
				require.InDelta(t, c.InitSigma, run.InitSigma(), 1e-5*c.InitSigma)
				require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
					g := torch.NewGenerator(s, uint64(i))
					draw := func(s *torch.Scope) *torch.Tensor { return torch.Randn(s, g, torch.Float32, 2, 2, 2, 2) }
					x := draw(s)
					if c.Strength != nil {
						x = run.AddNoise(s, draw(s), x, 0)
					} else {
						x = x.MulScalar(s, run.InitSigma())
					}
					w := want[c.Name]
					for i := range c.At {
						got, at := x, c.At[i] // ours may be off in the last bits
						w := w.Narrow(s, 0, i, 1).Squeeze(s, 0)
						require.LessOrEqual(t, got.Sub(s, w).Abs(s).Max(s).Item(), tolerance*max(1, w.Abs(s).Max(s).Item()), "before step %d", i)
						x, _ = run.Step(s, i, x, run.Input(s, x, i).MulScalar(s, at/(at+1)), draw)
					}
					w = w.Narrow(s, 0, len(c.At), 1).Squeeze(s, 0)
					require.LessOrEqual(t, x.Sub(s, w).Abs(s).Max(s).Item(), tolerance*max(1, w.Abs(s).Max(s).Item()), "at the end")
					return nil
				}))
			})
		}
		return nil
	}))
	for _, name := range Names() {
		if !slices.Contains([]string{"lcm", "tcd"}, name) { // which have no spacings, and are in the other file
			assert.True(t, met[name], name)
		}
	}
}

// Quantiles are scipy's.
func TestBetaQuantile(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, "testdata/samplers.safetensors")
		p, want := torch.ToSlice[float64](golden["beta.p"]), torch.ToSlice[float64](golden["beta.x"])
		for i := range p {
			assert.InDelta(t, want[i], betaQuantile(p[i], 0.6, 0.6), 1e-12, "%g", p[i])
		}
		return nil
	}))
}

// Other programs' names of methods and spacings.
func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"Euler a": "euler_a", "euler_ancestral": "euler_a", "k_euler_a": "euler_a", "dpm++2m": "dpmpp_2m", "DPM++ 2M": "dpmpp_2m", "dpmpp2m": "dpmpp_2m",
		"dpmpp2m_karras": "dpmpp_2m_karras", "DPM++ 2M Karras": "dpmpp_2m_karras", "DPM++ 2M SDE Karras": "dpmpp_2m_sde_karras",
		"DPM++ SDE": "dpmpp_sde", "DPM++ 2S a": "dpmpp_2s_a", "dpmpp_2s_ancestral": "dpmpp_2s_a", "DPM++ 3M SDE Exponential": "dpmpp_3m_sde_exponential",
		"DPM2 a Karras": "dpm2_a_karras", "dpm_2_ancestral": "dpm2_a", "dpm_2": "dpm2", "PLMS": "pndm", "LMS Karras": "lms_karras", "uni_pc": "unipc_bh1",
		"uni_pc_bh2": "unipc", "UniPC": "unipc", "DPM++ 2M SDE Heun": "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde_heun",
		"unipc_bh1_karras": "unipc_bh1_karras", "dpmpp_3m": "dpmpp_3m",
		"euler_sgm_uniform": "euler_trailing", "Heun": "heun", "euler_a_beta": "euler_a_beta", "ddim_linspace": "ddim_linspace",
	} {
		m, err := Named(name)
		require.NoError(t, err, name)
		assert.Equal(t, want, NameOf(m), name)
	}
	for _, name := range []string{"", "karras", "_karras", "lcm_karras", "ddim_karras", "pndm_beta", "tcd_trailing", "euler_karras_beta", "euler_karras_karras", "heun_beta_beta", "DPM++ 2M Karras Karras",
		"euler_exponential_karras", "euler_sgm_uniform_trailing", "dpmpp_2m_karras_sgm_uniform", "DPM++ 2M SDE Restart", "restart"} {
		_, err := Named(name)
		assert.Error(t, err, name)
	}
	assert.Equal(t, "ddim", NameOf(DDIM{Eta: 0.5}))
	assert.Equal(t, "tcd", NameOf(TCD{Eta: 0.5}))
	for _, name := range Names() {
		m, err := Named(name)
		require.NoError(t, err)
		assert.Equal(t, name, NameOf(m))
	}
}

// What cannot be done is refused.
func TestSamplersRefuse(t *testing.T) {
	for want, try := range map[string]func() (Schedule, error){
		"custom timesteps are not supported by pndm": func() (Schedule, error) { return PNDM{}.Start(noise.Config{}, Options{Timesteps: []int{9}}) },
		"karras and beta are set": func() (Schedule, error) {
			return LMS{}.Start(noise.Config{Karras: true, BetaSigmas: true}, Options{Steps: 3})
		},
		`sampler ddim does not support the spacing "karras"`: func() (Schedule, error) {
			return Spaced{DDIM{}, "karras"}.Start(noise.Config{}, Options{Steps: 3})
		},
		"the sampler lcm uses the timesteps": func() (Schedule, error) { return Spaced{LCM{}, "trailing"}.Start(noise.Config{}, Options{Steps: 3}) },
		"exponential noise levels: want only one of them": func() (Schedule, error) {
			return Spaced{DPM2{}, "exponential"}.Start(noise.Config{}, Options{Timesteps: []int{9}})
		},
	} {
		_, err := try()
		require.ErrorContains(t, err, want)
	}
	for _, o := range []Options{{Steps: 10, Strength: 0.5}, {Steps: 3}} {
		run, err := PNDM{}.Start(noise.Config{}, o)
		require.NoError(t, err)
		require.Len(t, run.Notices(), 1)
	}
}
