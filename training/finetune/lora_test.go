package finetune_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	. "github.com/onestep-go/onestep/training/finetune"
)

// Styles are trained with the denoising loss and its variants, with adapters of the text encoders, and beside a few-step adapter. Each loss
// is another, and each resumes.
func TestLoRA(t *testing.T) {
	model, data := base(t, "sd15"), photos(t, 3)
	few := LCM{LoRA: true, Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
	lcm, err := few.Train(t.Context())
	require.NoError(t, err)
	losses := map[float64]string{}
	for name, change := range map[string]func(r *LoRA){
		"plain": func(*LoRA) {}, "min-SNR": func(r *LoRA) { r.MinSNR = 0.5 }, "offset": func(r *LoRA) { r.NoiseOffset = 0.5 },
		"text": func(r *LoRA) { r.TextEncoder, r.TextLR = true, 0.02 }, "few-step": func(r *LoRA) { r.FewStep = lcm.Snapshot },
	} {
		run := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}}
		run.Steps = 3
		change(&run)
		r, err := run.Train(t.Context())
		require.NoError(t, err, name)
		require.Empty(t, losses[r.Loss], name)
		losses[r.Loss] = name
		texts := 0
		for tensor := range weightsOf(t, r.Snapshot) {
			if len(tensor) > 8 && tensor[:8] == "lora_te_" {
				texts++
			}
		}
		require.Equal(t, name == "text", texts > 0, name)
		require.NoError(t, os.Remove(r.Snapshot))
		run.Resume = true
		_, err = run.Train(t.Context())
		require.NoError(t, err, name)
	}
	wrong := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}, FewStep: lcm.Snapshot, MinSNR: 5}
	_, err = wrong.Train(t.Context())
	var of *OptionError
	require.ErrorAs(t, err, &of)
	require.Equal(t, "few-step", of.Option)
}
