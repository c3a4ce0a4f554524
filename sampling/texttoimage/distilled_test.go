package texttoimage_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
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
