package texttoimage_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch/vision"
)

// Each image comes with its settings, which are written with it by one call and read back as what generates it again.
func TestResults(t *testing.T) {
	m := openTiny(t, sd.Options{})
	picture, _ := given()
	d := texttoimage.Pipeline{Model: m, Method: scheduler.DPMPP2M{Karras: true}, Steps: 3, Guidance: 5, Negative: "blurry", N: 2, Seed: 7,
		ClipSkip: 1, Init: picture, Strength: 0.7, VariationSeed: 3, VariationStrength: 0.25}
	n := 0
	for r, err := range d.Results(context.Background(), "a cat", "a dog, sitting") {
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "r.png")
		require.NoError(t, vision.Write(path, r.Image, vision.WriteOptions{Texts: r.Texts}))
		f, err := os.Open(path)
		require.NoError(t, err)
		texts, err := vision.ReadTexts(f)
		require.NoError(t, f.Close())
		require.NoError(t, err)
		require.Equal(t, infotext.Keyword, texts[0].Keyword)
		info := infotext.Parse(texts[0].Value)
		require.Equal(t, []string{"a cat", "a dog, sitting"}[n/2], info.Prompt)
		require.Equal(t, "blurry", info.Negative)
		require.Equal(t, n/2, r.Prompt)
		require.EqualValues(t, 7+n%2, r.Seed)
		for name, want := range map[string]string{"Steps": "3", "Sampler": "DPM++ 2M Karras", "CFG scale": "5", "Seed": []string{"7", "8"}[n%2], "Size": "64x64", "Model": m.Name(),
			"Denoising strength": "0.7", "Clip skip": "2", "Variation seed": "3", "Variation seed strength": "0.25"} {
			require.Equal(t, want, info.Get(name), name)
		}
		n++
	}
	require.Equal(t, 4, n)
	for r, err := range d.Results(context.Background(), "<lora:none:1>") {
		require.Error(t, err)
		require.Nil(t, r.Image)
	}
}
