package job

import (
	"encoding/json"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/clip"
	sdunet "github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
)

// What needs more than any machine has is refused, with both numbers; Force goes on; ordinary work passes.
func TestMemory(t *testing.T) {
	big := network.Config{Net: unet.Config{Resolution: 1024}}.WithDefaults()
	small := network.Config{Net: dit.Config{Resolution: 32}}.WithDefaults()
	train := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	train.Resolution, train.Batch, train.Size = 1024, 1<<16, nil
	var space *MemoryError
	_, err := train.Plan()
	require.ErrorAs(t, err, &space)
	require.Equal(t, 2, strings.Count(err.Error(), "iB"), err.Error())
	for _, change := range []func(){func() { train.Force = true }, func() { train.Force, train.Batch, train.Resolution = false, 1, 8 }} {
		change()
		p, err := train.Plan()
		require.NoError(t, err)
		require.NoError(t, p.Close())
	}

	sample := DefaultSample()
	sample.N, sample.Batch = 1<<20, 1<<20
	require.ErrorAs(t, sample.fitsMemory(big, torch.CPU), &space)
	sample.N = 1
	require.NoError(t, sample.fitsMemory(small, torch.CPU))

	n, notice := threads(4096)
	require.Equal(t, runtime.NumCPU(), n)
	require.Contains(t, notice, "4096")
	n, notice = threads(1)
	require.Equal(t, 1, n)
	require.Empty(t, notice)
}

// Models as published, at their own sizes and in float32, fit into 22 GiB, what a machine of 24 has to give;
// an image of 16384×16384 pixels does not.
func TestMemoryOfPublished(t *testing.T) {
	config := func(v any) *weights.Component {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		return &weights.Component{Config: data}
	}
	const room = 22 << 30
	second := clip.Config{Width: 1280, MLPWidth: 5120, Depth: 32, Heads: 20, Projection: true}.WithDefaults()
	for name, m := range map[string]*weights.Model{
		"sd15": {UNet: config(sdunet.SD15()), Text: config(clip.Config{}.WithDefaults()), VAE: config(vae.SD15())},
		"lcm":  {UNet: config(sdunet.LCM15()), Text: config(clip.Config{}.WithDefaults()), VAE: config(vae.SD15())},
		"sdxl": {UNet: config(sdunet.SDXL()), Text: config(clip.Config{}.WithDefaults()), Text2: config(second), VAE: config(vae.SDXL())},
	} {
		n, err := sd.EstimateNeed(m, sd.Options{}, sd.Drawing{Guided: true})
		require.NoError(t, err, name)
		t.Logf("%s: %+v, %.1f GiB", name, n, n.Peak()/(1<<30))
		require.Less(t, n.Peak()+host, float64(room), name)
		require.Greater(t, n.Peak(), 4e9, name)
		huge, err := sd.EstimateNeed(m, sd.Options{}, sd.Drawing{Width: 16384, Height: 16384})
		require.NoError(t, err)
		require.Greater(t, huge.Peak(), 20*float64(room), name)
		tiled, err := sd.EstimateNeed(m, sd.Options{Tile: 512}, sd.Drawing{Width: 2048, Height: 2048})
		require.NoError(t, err)
		whole, err := sd.EstimateNeed(m, sd.Options{}, sd.Drawing{Width: 2048, Height: 2048})
		require.NoError(t, err)
		require.Less(t, tiled.Decoder, whole.Decoder/5)
	}
}
