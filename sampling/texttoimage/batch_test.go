package texttoimage_test

import (
	"context"
	"fmt"
	"image"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch/nn"
)

// Images of several prompts are generated in one batch, each as alone but for rounding, unless the prompts have other adapters or more
// chunks of tokens.
func TestBatchesOfPrompts(t *testing.T) {
	for _, c := range []struct {
		kind string
		d    texttoimage.Pipeline
	}{
		{"sd15", texttoimage.Pipeline{}},
		{"sd15", texttoimage.Pipeline{Guidance: 1}},
		{"lcm15", texttoimage.Pipeline{}},
		{"sdxl", texttoimage.Pipeline{Negative: "fog"}},
	} {
		t.Run(fmt.Sprintf("%s %g", c.kind, c.d.Guidance), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), c.kind)
			require.NoError(t, tiny.Write(dir, c.kind))
			m, err := sd.Open(dir, sd.Options{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, m.Close()) })
			bias := maps.Collect(m.UNet.Store().Tensors())["conv_out.bias"]
			d := c.d
			d.Model, d.Steps = m, 2
			d.Tagged = func([]prompt.LoRA) (sd.Adaptation, error) { // a new map for each prompt
				return sd.Adaptation{Adapters: nn.Adapters{bias: {shift(0.5)}}}, nil
			}
			prompts := []string{"a cat", "a dog", "a dog", strings.Repeat("a very long prompt ", 30), "a bird", "a fox <lora:x:1>", "an elk <lora:x:1>"}
			var want []image.Image
			for i, text := range prompts {
				one := d
				one.Seed = uint64(100 - i)
				want = append(want, images(t, one, text)...)
			}
			d.Batch = 4
			for i := range prompts {
				d.Seeds = append(d.Seeds, uint64(100-i))
			}
			var sizes []int
			var got []image.Image
			for st, err := range d.Run(context.Background(), prompts...) {
				require.NoError(t, err)
				require.Len(t, st.Prompts, len(st.Seeds))
				if st.Images == nil {
					continue
				}
				sizes = append(sizes, len(st.Images))
				require.Equal(t, len(got), st.First)
				for i := range st.Images {
					require.Equal(t, st.First+i, st.Prompts[i])
					require.Equal(t, uint64(100-st.First-i), st.Seeds[i])
					require.Equal(t, prompts[st.First+i], st.Info(i).Prompt)
				}
				got = append(got, st.Images...)
			}
			require.Equal(t, []int{3, 1, 1, 2}, sizes)
			for i := range want {
				require.LessOrEqual(t, off(want[i], got[i]), 1, prompts[i])
			}
			require.Greater(t, off(got[1], got[2]), 10, "the same prompt with another seed")
		})
	}
}

func TestSeeds(t *testing.T) {
	m := openTiny(t, sd.Options{})
	d := texttoimage.Pipeline{Model: m, Steps: 1, N: 2, Seeds: []uint64{9, 4, 4, 7}}
	all := images(t, d, "a cat", "a dog")
	one := texttoimage.Pipeline{Model: m, Steps: 1, Seed: 4}
	require.Zero(t, off(all[1], images(t, one, "a cat")[0]))
	require.Zero(t, off(all[2], images(t, one, "a dog")[0]))
	for _, wrong := range []texttoimage.Pipeline{
		{Model: m, N: 2, Seeds: []uint64{1}}, {Model: m, Seeds: []uint64{}}, {Model: m, Seeds: []uint64{1}, Seed: 2}, {Model: m, Seeds: []uint64{1}, SharedNoise: true},
	} {
		_, err := wrong.Plan("a cat")
		var option *texttoimage.OptionError
		require.ErrorAs(t, err, &option)
		require.Equal(t, "Seeds", option.Option)
	}
}
