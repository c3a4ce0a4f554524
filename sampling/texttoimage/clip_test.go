package texttoimage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// clip_sample is off for Stable Diffusion 1 and 2, as StableDiffusionPipeline of diffusers has it; thresholding stays, as there.
func TestClipSample(t *testing.T) {
	m := openKind(t, "sd15", sd.Options{})
	const class = `"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"`
	with := func(more string) texttoimage.Pipeline {
		m.Scheduler = []byte("{" + class + more + "}")
		return texttoimage.Pipeline{Model: m, Method: scheduler.DDIM{}, Steps: 3, Seed: 1, Guidance: 5}
	}
	d := with(`, "clip_sample": false`)
	plan, err := d.Plan("a cat")
	require.NoError(t, err)
	require.Empty(t, plan.Notices)
	want := images(t, d, "a cat")
	for _, more := range []string{"", `, "clip_sample": true`, `, "clip_sample": true, "clip_sample_range": 0.1`} {
		d := with(more)
		plan, err := d.Plan("a cat")
		require.NoError(t, err)
		require.Contains(t, joinNotices(plan.Notices), "clip_sample")
		same(t, more, want, images(t, d, "a cat"))
	}
	d = with(`, "clip_sample": false, "thresholding": true`)
	require.NotZero(t, off(want[0], images(t, d, "a cat")[0]))
}
