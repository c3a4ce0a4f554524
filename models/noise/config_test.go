package noise

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// testdata/configs holds what diffusers saves of each class's defaults, one file a line; DPM-Solver's has a number that is
// not JSON.
func TestSavedConfigs(t *testing.T) {
	data, err := os.ReadFile("testdata/configs")
	require.NoError(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		c, err := ParseConfig([]byte(line))
		if strings.Contains(line, "FlowMatch") || strings.Contains(line, "EDM") {
			require.ErrorContains(t, err, "not supported", line)
			continue
		}
		require.NoError(t, err, line)
		again, err := json.Marshal(c)
		require.NoError(t, err)
		var back Config
		require.NoError(t, json.Unmarshal(again, &back))
		require.Equal(t, c, back)
		// Files name the betas of their class, so that its defaults can be compared with them.
		bare, err := Config{Class: c.Class, Predicts: c.Predicts}.Chain()
		require.NoError(t, err)
		full, err := c.Chain()
		require.NoError(t, err)
		require.Equal(t, bare, full, c.Class)
	}
}

// Predictions go through a file in the words of diffusers.
func TestPredictionType(t *testing.T) {
	for text, want := range map[string]Prediction{
		`{}`: Epsilon, `{"prediction_type": null}`: Epsilon, `{"prediction_type": "epsilon"}`: Epsilon,
		`{"prediction_type": "v_prediction"}`: Velocity, `{"prediction_type": "sample"}`: Sample,
	} {
		c, err := ParseConfig([]byte(text))
		require.NoError(t, err)
		require.Equal(t, want, c.Predicts, text)
		again, err := json.Marshal(c)
		require.NoError(t, err)
		require.Contains(t, string(again), `"prediction_type":"`+want.Diffusers()+`"`)
	}
	_, err := json.Marshal(Config{Predicts: 3})
	require.Error(t, err)
	require.Error(t, Config{Predicts: -1}.Validate())
}

func TestParseConfig(t *testing.T) {
	// Stable Diffusion 1.5's own file.
	c, err := ParseConfig([]byte(`{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
		"beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
		"trained_betas": null, "clip_sample": false}`))
	require.NoError(t, err)
	require.Equal(t, "PNDMScheduler", c.Class)
	require.Equal(t, Epsilon, c.Predicts)
	require.True(t, c.SkipPRK)
	require.Equal(t, 1, c.StepsOffset)
	for text, want := range map[string]string{
		`{"num_train_timesteps": 1000000000}`:                 "num_train_timesteps is 1000000000: want 2 to 100000",
		`{"num_train_timesteps": -1}`:                         "num_train_timesteps is -1",
		`{"num_train_timesteps": "x"}`:                        "num_train_timesteps: want a whole number, got a JSON string",
		`{"beta_schedule": "sigmoid"}`:                        `beta_schedule is "sigmoid": want linear, scaled_linear or squaredcos_cap_v2`,
		`{"beta_end": 2}`:                                     "beta_end is 2",
		`{"prediction_type": "flow_prediction"}`:              "prediction_type",
		`{"timestep_spacing": "both"}`:                        "timestep_spacing",
		`{"trained_betas": [0.1]}`:                            "the length of trained_betas is 1: want num_train_timesteps, 1000",
		`{"trained_betas": [2, 0], "num_train_timesteps": 2}`: "trained_betas[0] is 2",
		`{"solver_order": 4}`:                                 "solver_order is 4: want 1, 2 or 3",
		`{"steps_offset": 1000}`:                              "steps_offset",
		`{"original_inference_steps": 1001}`:                  "original_inference_steps",
		`{"sample_max_value": 0.5}`:                           "sample_max_value",
		`{"dynamic_thresholding_ratio": 7}`:                   "dynamic_thresholding_ratio",
		`[]`:                                                  "scheduler config: want an object",
		`null`:                                                "want an object, got null",
		`{"beta_start": NaN}`:                                 "beta_start",
		`{"beta_end": 0.0}`:                                   "beta_end is 0: want a number above 0",
		`{"lambda_min_clipped": -5.1}`:                        "lambda_min_clipped is -5.1, which is not supported: want -Infinity",
		`{"disable_corrector": [0]}`:                          "disable_corrector is [0]",
		`{"_class_name": "EDMEulerScheduler"}`:                "EDMEulerScheduler, which is not supported",
		`{"_class_name": "IPNDMScheduler"}`:                   "IPNDMScheduler, which is not supported",
		`{"_class_name": "FlowMatchEulerDiscreteScheduler"}`:  "_class_name is FlowMatchEulerDiscreteScheduler, which is not supported",
		`{"sigma_max": 80.0, "sigma_min": 0.002}`:             "sigma_min or sigma_max",
		`{"variance_type": "learned_range"}`:                  "variance_type",
	} {
		_, err := ParseConfig([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestQuoted(t *testing.T) {
	for in, want := range map[string]string{
		`{"a": -Infinity, "b":[NaN,Infinity]}`: `{"a": "-Infinity", "b":["NaN","Infinity"]}`,
		`{"NaN": "a\" NaN", "c": Infinity`:     `{"NaN": "a\" NaN", "c": "Infinity"`,
		`NaN`:                                  `"NaN"`,
		`"\`:                                   `"\`,
		``:                                     ``,
	} {
		require.Equal(t, want, string(ValidJSON([]byte(in))), in)
	}
}

// What ParseConfig takes comes back from what is written of it, and has a chain or none with an error.
func FuzzParseConfig(f *testing.F) {
	for _, c := range []string{`{}`, `{"rescale_betas_zero_snr": true, "prediction_type": "sample"}`, `{"num_train_timesteps": 2}`,
		`{"beta_start": 0.999, "beta_end": 1e-300}`, `{"trained_betas": [0.1, 1], "num_train_timesteps": 2}`, `{"lambda_min_clipped": -Infinity}`} {
		f.Add([]byte(c))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		require.NoError(t, err)
		back, err := ParseConfig(again)
		require.NoError(t, err)
		twice, err := json.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, string(again), string(twice))
		if c.TrainSteps > 2000 {
			return
		}
		alphas, err := c.Alphas()
		require.True(t, (err == nil) == (len(alphas) == c.Steps()))
		chain, err := c.Chain()
		require.True(t, err != nil || chain.Steps() == c.Steps())
	})
}
