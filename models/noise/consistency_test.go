package noise_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
)

// The levels of published timesteps: those of the sampling commands of openai/consistency_models, as standard deviations.
func TestConsistencyConfig(t *testing.T) {
	c, err := noise.ParseConsistencyConfig([]byte(`{"_class_name": "CMStochasticIterativeScheduler", "_diffusers_version": "0.18.0.dev0", "num_train_timesteps": 40}`))
	require.NoError(t, err)
	require.Equal(t, noise.DefaultConsistency(), c)
	for _, v := range []struct {
		steps, timestep int
		sigma           float64
	}{{40, 0, 80}, {40, 39, 0.002}, {40, 22, 1.382}, {40, 17, 4.366}, {40, 18, 3.520}, {201, 106, 1.913}, {151, 67, 3.991}, {151, 62, 5.249}} {
		c.Steps = v.steps
		require.InEpsilon(t, v.sigma, c.Level(v.timestep), 5e-4, v)
	}
	c.Steps = 40
	levels, err := c.Levels([]int{22, 0})
	require.NoError(t, err)
	require.InDeltaSlice(t, []float64{80, 1.382}, levels, 1e-3)
	one, err := c.Spaced(1)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float64{80}, one, 1e-9)
	two, err := c.Spaced(2)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float64{80, c.Level(20)}, two, 1e-9)
	all, err := c.Spaced(40)
	require.NoError(t, err)
	require.Len(t, all, 39, "the last level is the smallest, at which the function is the identity")
	for _, steps := range []int{0, 41} {
		_, err := c.Spaced(steps)
		require.ErrorContains(t, err, fmt.Sprint("1 to 40 steps, as many as the model has timesteps, got ", steps))
	}
	for _, v := range [][]int{{39}, {-1}, {3, 3}, {0, 22}} {
		_, err := c.Levels(v)
		require.Error(t, err, v)
	}
}

func TestConsistencyConfigRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                                "scheduler config",
		`{"_class_name": "DDPMScheduler"}`: "_class_name is DDPMScheduler",
		`{"num_train_timesteps": 1}`:       "num_train_timesteps is 1",
		`{"num_train_timesteps": 1e9}`:     "num_train_timesteps",
		`{"sigma_min": 0}`:                 "sigma_min is 0",
		`{"sigma_max": 0.001}`:             "sigma_max is 0.001",
		`{"sigma_data": -1}`:               "sigma_data is -1",
		`{"s_noise": 1.007}`:               "s_noise is 1.007",
		`{"rho": 0}`:                       "rho is 0",
	} {
		_, err := noise.ParseConsistencyConfig([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}
