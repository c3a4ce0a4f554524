package job

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
)

// What a picture's text says of every sampler and spacing is read back as the same.
func TestSamplerText(t *testing.T) {
	for _, name := range scheduler.Names() {
		for _, spacing := range append(scheduler.Spacings(), "") {
			m, err := scheduler.Named(name)
			require.NoError(t, err)
			if spacing != "" {
				if m, err = scheduler.WithSpacing(m, spacing); err != nil {
					continue
				}
			}
			var info infotext.Text
			info.AddSampler(scheduler.NameOf(m))
			sampler := info.Get("Sampler")
			got, exact, err := samplerOf(withVariant(sampler, info.Get("UniPC variant")), info.Get("Schedule type"))
			require.NoError(t, err, sampler)
			require.True(t, exact)
			require.Equal(t, scheduler.NameOf(m), got)
		}
	}
}

// A sampler's options reach it, or are refused.
func TestMethod(t *testing.T) {
	eta := 0.5
	m, err := Drawing{Sampler: "ddim", Spacing: "trailing", Eta: &eta}.method()
	require.NoError(t, err)
	require.Equal(t, scheduler.Spaced{Method: scheduler.DDIM{Eta: 0.5}, Spacing: "trailing"}, m)
	m, err = Drawing{Sampler: "dpmpp_2m", Spacing: "karras"}.method()
	require.NoError(t, err)
	require.Equal(t, scheduler.DPMPP2M{Karras: true}, m)
	for _, o := range []Drawing{{Eta: &eta}, {Sampler: "pndm", Eta: &eta}, {Sampler: "lcm", Spacing: "beta"},
		{Sampler: "euler_karras", Spacing: "beta"}} {
		_, err := o.method()
		require.Error(t, err)
	}
}
