package texttoimage_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// The default sampler of a guidance-distilled model is that of its configuration, lcm or tcd, and a notice tells of one that it was not
// distilled for.
func TestSamplerOfDistilled(t *testing.T) {
	m := openKind(t, "lcm15", sd.Options{})
	lcm := m.Scheduler
	tcd := bytes.Replace(lcm, []byte("LCMScheduler"), []byte("TCDScheduler"), 1)
	for _, c := range []struct {
		config         []byte
		method         scheduler.Method
		want, complain string
	}{
		{lcm, nil, "lcm", ""}, {tcd, nil, "tcd", ""}, {lcm, scheduler.TCD{}, "tcd", ""}, {tcd, scheduler.TCD{}, "tcd", ""},
		{tcd, scheduler.LCM{}, "lcm", "distilled for the sampler tcd"}, {lcm, scheduler.DDIM{}, "ddim", "distilled for the sampler lcm"},
	} {
		m.Scheduler = c.config
		p, err := texttoimage.Pipeline{Model: m, Method: c.method, Steps: 4}.Plan()
		require.NoError(t, err)
		require.Equal(t, c.want, p.Method)
		if c.complain == "" {
			require.Empty(t, p.Notices)
		} else {
			require.Contains(t, joinNotices(p.Notices), c.complain)
		}
	}
}

// The default guidance scale of a guidance-distilled model is in the range that it was trained with, and a notice tells of one outside.
func TestGuidanceOfDistilled(t *testing.T) {
	m := openKind(t, "lcm15", sd.Options{})
	for _, c := range []struct {
		trained     weights.Scales
		given, want float64
		complain    string
	}{
		{weights.Scales{}, 0, 8.5, ""}, {weights.Scales{}, 30, 30, ""}, {weights.Scales{Min: 1.5, Max: 4}, 0, 2.75, ""},
		{weights.Scales{Min: 1.5, Max: 4}, 4, 4, ""}, {weights.Scales{Min: 1.5, Max: 4}, 8.5, 8.5, "from 1.5 to 4, and not with 8.5"},
	} {
		m.Guidance = c.trained
		p, err := texttoimage.Pipeline{Model: m, Guidance: c.given}.Plan()
		require.NoError(t, err)
		require.Equal(t, c.want, p.Guidance)
		if c.complain == "" {
			require.Empty(t, p.Notices)
		} else {
			require.Contains(t, joinNotices(p.Notices), c.complain)
		}
	}
}
