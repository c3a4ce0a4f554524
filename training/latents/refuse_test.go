package latents

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/training/captioned"
)

// What does not go together is one line that says so.
func TestRefusals(t *testing.T) {
	dir := pictures(t, 2)
	set := open(t, dir, captioned.Options{})
	m := model(t, "sd15", sd.Options{})
	wide := vae.TinyConfig{LatentChannels: 32, EncoderWidths: []int{8, 8}, DecoderWidths: []int{8, 8}, EncoderBlocks: []int{1, 1}, DecoderBlocks: []int{1, 1}}
	other, err := vae.NewTiny(wide, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer other.Close()
	decoder := slices.DeleteFunc(vae.TinyShapes(vae.TinyConfig{}), func(s nn.Shape) bool { return !strings.HasPrefix(s.Name, "decoder.") })
	lone, err := vae.TinyDecoderFrom(vae.TinyConfig{}, sdtest.Filled(decoder), torch.CPU, torch.Float32)
	require.NoError(t, err)
	defer lone.Close()
	closed := model(t, "sd15", sd.Options{})
	require.NoError(t, closed.Close())
	for name, c := range map[string]struct {
		Config
		want []string
	}{
		"nothing":               {Config{}, []string{"Set", "Model"}},
		"no set":                {Config{Model: m}, []string{"Set"}},
		"no autoencoder":        {Config{Set: set, Model: &sd.Model{Texts: m.Texts}}, []string{"no autoencoder"}},
		"no text encoder":       {Config{Set: set, Model: &sd.Model{VAE: m.VAE}}, []string{"no text encoder"}},
		"channels":              {Config{Set: set, Model: &sd.Model{VAE: other, Texts: m.Texts, UNet: m.UNet}}, []string{"32", "4"}},
		"inpainting":            {Config{Set: set, Model: model(t, "inpaint", sd.Options{})}, []string{"9", "4", "inpainting"}},
		"only a decoder":        {Config{Set: set, Model: &sd.Model{VAE: lone}, Unconditional: true}, []string{"only a decoder"}},
		"closed":                {Config{Set: set, Model: closed}, []string{"closed"}},
		"sides":                 {Config{Set: open(t, dir, captioned.Options{Resolution: 36}), Model: m}, []string{"36", "8"}},
		"smaller than factor":   {Config{Set: open(t, dir, captioned.Options{Resolution: 4}), Model: m}, []string{"4×4", "8"}},
		"clip skip":             {Config{Set: set, Model: m, ClipSkip: 3}, []string{"3", "2"}},
		"batch":                 {Config{Set: set, Model: m, Batch: -1}, []string{"-1"}},
		"together":              {Config{Set: set, Model: m, Together: -2}, []string{"-2"}},
		"captions that are not": {Config{Set: set, Model: m, Captions: true, Unconditional: true}, []string{"Captions", "Unconditional"}},
		"cache is a file":       {Config{Set: set, Model: m, Cache: filepath.Join(dir, "00.png")}, []string{"00.png"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), c.Config)
			require.Error(t, err)
			require.Nil(t, s)
			require.NotContains(t, err.Error(), "\n")
			for _, w := range c.want {
				require.ErrorContains(t, err, w)
			}
		})
	}
}

// Weights that are NaN are found before anything is stored or trained on.
func TestBrokenWeights(t *testing.T) {
	set := open(t, pictures(t, 2), captioned.Options{})
	spoil := func(st *nn.Store) {
		for name, p := range st.Parameters() {
			if filepath.Ext(name) == ".bias" {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					return s.NoGrad(func(s *torch.Scope) error { p.FillInPlace(s, math.NaN()); return nil })
				}))
				return
			}
		}
	}
	m := model(t, "sd15", sd.Options{})
	spoil(m.VAE.(*vae.KL).Store())
	cache := t.TempDir()
	_, err := Open(t.Context(), Config{Set: set, Model: m, Cache: cache})
	require.ErrorIs(t, err, errNotFinite)
	require.ErrorContains(t, err, "00.png")
	require.Empty(t, entries(t, cache))
	src := source(t, Config{Set: set, Model: m})
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		for batch, err := range src.Batches(t.Context(), 0) {
			require.NoError(t, err)
			batch(s)
			break
		}
		return nil
	})
	require.ErrorIs(t, err, errNotFinite)
	m = model(t, "sd15", sd.Options{})
	spoil(m.Texts[0].Store())
	_, err = Open(t.Context(), Config{Set: set, Model: m})
	require.ErrorIs(t, err, errNotFinite)
	require.ErrorContains(t, err, "text encoder")
}

// Merged adapters change what an encoder returns, and leave its weights as they are: no cache may take the one for the other.
func TestMergedAdapters(t *testing.T) {
	set := open(t, pictures(t, 1), captioned.Options{})
	m := model(t, "sd15", sd.Options{})
	a := adapters(t, m.Texts[0].Store())
	require.NoError(t, m.Texts[0].Store().Merge(a.of))
	_, err := Open(t.Context(), Config{Set: set, Model: m})
	require.ErrorContains(t, err, "merged")
	require.NoError(t, m.Texts[0].Store().Merge(nil))
	source(t, Config{Set: set, Model: m})
}
