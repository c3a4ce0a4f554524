package texttoimage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// A folder of Stable Diffusion 1 is drawn by the sampler that it was published with.
func TestOwnSampler(t *testing.T) {
	m := openTiny(t, sd.Options{})
	m.Scheduler = []byte(`{"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": true,
		"set_alpha_to_one": false, "steps_offset": 1, "clip_sample": false}`)
	plan, err := texttoimage.Pipeline{Model: m, Steps: 5, Width: 64, Height: 64}.Plan("a cat")
	require.NoError(t, err)
	require.Equal(t, "pndm", plan.Method)
	require.Equal(t, 5, plan.Steps)
	require.Equal(t, 12, plan.Evaluations, "two a step, with and without the prompt")
	require.Equal(t, []float64{801, 601, 601, 401, 201, 1}, plan.Timesteps)
	require.Empty(t, plan.Notices)
}

// A spacing without a sampler is the own sampler's, or an error.
func TestOwnSpacing(t *testing.T) {
	m := openTiny(t, sd.Options{})
	for class, want := range map[string]string{"EulerDiscreteScheduler": "euler_karras", "UniPCMultistepScheduler": "unipc_karras", "DEISMultistepScheduler": "deis_karras"} {
		m.Scheduler = []byte(`{"_class_name": "` + class + `", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}`)
		plan, err := texttoimage.Pipeline{Model: m, Spacing: "karras"}.Plan("a cat")
		require.NoError(t, err)
		require.Equal(t, want, plan.Method)
	}
	m.Scheduler = []byte(`{"_class_name": "DDIMScheduler"}`)
	_, err := texttoimage.Pipeline{Model: m, Spacing: "karras"}.Plan("a cat")
	require.ErrorContains(t, err, `sampler ddim does not support the spacing "karras"`)
	plan, err := texttoimage.Pipeline{Model: m, Spacing: "trailing"}.Plan("a cat")
	require.NoError(t, err)
	require.Equal(t, "ddim_trailing", plan.Method)
}

// No guidance is not the default, and takes no second pass.
func TestNoGuidance(t *testing.T) {
	m := openTiny(t, sd.Options{})
	plan, err := texttoimage.Pipeline{Model: m, Guidance: texttoimage.NoGuidance, Negative: "x"}.Plan("a cat")
	require.NoError(t, err)
	require.Equal(t, 1.0, plan.Guidance)
	require.Len(t, plan.Notices, 1) // on the negative prompt
}
