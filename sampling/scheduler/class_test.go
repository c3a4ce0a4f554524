package scheduler

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
)

// Every method starts with what diffusers saves of each class's defaults, and each class has its method.
func TestSavedConfigs(t *testing.T) {
	data, err := os.ReadFile("../../models/noise/testdata/configs")
	require.NoError(t, err)
	built := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if strings.Contains(line, "FlowMatch") || strings.Contains(line, "EDM") {
			continue
		}
		c, err := noise.ParseConfig([]byte(line))
		require.NoError(t, err, line)
		name, exact := Default(c)
		if exact {
			require.Equal(t, classes[c.Class], name)
			built[c.Class] = true
		}
		for name, m := range methods {
			run, err := m.Start(c, Options{Steps: 4})
			if strings.HasPrefix(name, "unipc") && !is(c.LowerFinal, true) { // DPMSolverSinglestepScheduler's
				require.ErrorContains(t, err, "lower_order_final")
				continue
			}
			require.NoError(t, err, "%s: %s", name, line)
			if name != "pndm" { // which may leave out steps
				require.Empty(t, run.Notices())
			}
		}
	}
	for class := range classes {
		// These two were not installed where the file was made, for want of scipy and torchsde; they have keys of Heun's.
		require.True(t, built[class] || class == "LMSDiscreteScheduler" || class == "DPMSolverSDEScheduler", class)
	}
}

// A model that was published with a variant that is not built can be sampled by methods that do without it.
func TestVariants(t *testing.T) {
	for text, exact := range map[string]bool{
		`{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}`:     false,
		`{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver"}`: false,
		`{"_class_name": "DEISMultistepScheduler", "solver_order": 3}`:                      true,
		`{"_class_name": "DPMSolverMultistepScheduler", "solver_type": "heun"}`:             true,
		`{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "deis"}`:          true,
		`{"_class_name": "UniPCMultistepScheduler", "solver_type": "heun"}`:                 true,
		`{"_class_name": "UniPCMultistepScheduler", "solver_order": 3}`:                     true,
		`{"_class_name": "EulerDiscreteScheduler", "solver_order": 3}`:                      true,
	} {
		c, err := noise.ParseConfig([]byte(text))
		require.NoError(t, err, text)
		name, got := Default(c)
		require.Equal(t, exact, got, text)
		require.Equal(t, classes[c.Class], name)
		for _, m := range methods {
			_, err := m.Start(c, Options{Steps: 5})
			require.NoError(t, err, text)
		}
	}
	for text, name := range map[string]string{
		`{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}`:                        "dpmpp_2m_sde",
		`{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3}`:     "dpmpp_3m_sde",
		`{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}`: "dpmpp_2m_sde_heun",
		`{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}`:                                          "dpmpp_3m",
		`{"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}`:                                           "unipc_bh1",
		`{"_class_name": "LMSDiscreteScheduler"}`:                                                                    "lms",
		`{"_class_name": "DPMSolverSDEScheduler"}`:                                                                   "dpmpp_sde",
	} {
		c, err := noise.ParseConfig([]byte(text))
		require.NoError(t, err, text)
		got, exact := Default(c)
		require.Equal(t, name, got)
		require.True(t, exact, text)
	}
	c, err := noise.ParseConfig([]byte(`{"use_lu_lambdas": true}`))
	require.NoError(t, err)
	for name, m := range methods {
		_, err := m.Start(c, Options{Steps: 5})
		switch {
		case slices.Contains([]string{"lcm", "tcd", "ddim", "ddpm", "pndm", "euler_a"}, name) || strings.HasSuffix(name, "_karras"):
			require.NoError(t, err, name)
		default:
			require.ErrorContains(t, err, "use_lu_lambdas is true, which is not supported", name)
		}
	}
}
