package tests

import (
	"context"
	"maps"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Prompt embeddings are diffusers' and can be taken from there, noise that is given means the same, and so do the latents that come out.
func TestEmbedsAreDiffusers(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors")
	script, err := filepath.Abs("testdata/diffusers_embeds.py")
	require.NoError(t, err)
	for kind, pipeline := range map[string]string{"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"} {
		dir := t.TempDir()
		at := func(name string) string { return filepath.Join(dir, name) }
		require.NoError(t, tinysd.Write(at(kind), kind))
		m, err := sd.Open(at(kind), sd.Options{})
		require.NoError(t, err)
		defer m.Close()
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			noise := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 1, 4, 8, 8)
			require.NoError(t, torch.SaveSafetensors(at("in.safetensors"), maps.All(map[string]*torch.Tensor{"latents": noise}), torch.SaveOptions{}))
			runScript(t, python, dir, script, at(kind), pipeline, at("in.safetensors"), at("out.safetensors"))
			theirs, _ := torchtest.Golden(t, s, at("out.safetensors"))
			near := func(name string, got *torch.Tensor) {
				t.Helper()
				want := theirs[name]
				require.Equal(t, want.Shape(), got.Shape(), name)
				d := got.Sub(s, want).Abs(s).Max(s).Item()
				t.Logf("%s: %s: largest difference %.2g", kind, name, d)
				require.Less(t, d, 1e-4*max(1, want.Abs(s).Max(s).Item()), name) // float32 in another order
			}
			draw := texttoimage.Pipeline{Model: m, Method: scheduler.DDIM{}, Steps: 3, Guidance: 5, Negative: "a dog", Latents: noise, LatentsOnly: true}
			ours, err := draw.Encode(context.Background(), s, "a red cat")
			require.NoError(t, err)
			near("prompt_embeds", ours.Prompt)
			near("negative_prompt_embeds", ours.Negative)
			if kind == "sdxl" {
				near("pooled_prompt_embeds", ours.Pooled)
				near("negative_pooled_prompt_embeds", ours.NegativePooled)
			}
			for _, e := range []texttoimage.Embeds{ours, {Prompt: theirs["prompt_embeds"], Negative: theirs["negative_prompt_embeds"],
				Pooled: theirs["pooled_prompt_embeds"], NegativePooled: theirs["negative_pooled_prompt_embeds"]}} {
				draw.PromptEmbeds = []texttoimage.Embeds{e}
				for st, err := range draw.Run(context.Background()) {
					require.NoError(t, err)
					if st.I == st.Steps {
						x, err := st.Latents(s)
						require.NoError(t, err)
						near("latents", x)
					}
				}
			}
			return nil
		}))
	}
}
