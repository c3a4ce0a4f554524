package lora

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// A model with a merged few-step adapter has the adapter's grid of timesteps in its scheduler's configuration, and nothing else changes there.
func TestMergedGrid(t *testing.T) {
	const config = `{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "num_train_timesteps": 1000, "original_inference_steps": 50}`
	var got map[string]any
	require.NoError(t, json.Unmarshal(withGrid([]byte(config), 10), &got))
	require.Equal(t, map[string]any{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "num_train_timesteps": 1000.0, "original_inference_steps": 10.0}, got)
	for _, other := range []string{"", "{", `{"num_train_timesteps": 5}`} {
		require.Equal(t, other, string(withGrid([]byte(other), 10)), "it has no such grid")
	}
}
