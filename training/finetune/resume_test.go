package finetune_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	. "github.com/onestep-go/onestep/training/finetune"
)

// rewrite replaces a text in a file.
func rewrite(t testing.TB, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, strings.Contains(string(text), from), "%s has no %s", path, from)
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from, to)), 0o600))
}

// A run resumes with the model that it began with: another noise schedule, prediction type, tokenizer, or text encoder that is trained, is an
// error, and another class of scheduler for the same noise is not.
func TestResumeNoticesAnotherModel(t *testing.T) {
	data := photos(t, 2)
	scheduler := filepath.Join("scheduler", "scheduler_config.json")
	for name, c := range map[string]struct {
		change func(t *testing.T, model string)
		text   bool
		same   bool
	}{
		"noise schedule": {change: func(t *testing.T, m string) { rewrite(t, filepath.Join(m, scheduler), "0.012", "0.02") }},
		"prediction":     {change: func(t *testing.T, m string) { rewrite(t, filepath.Join(m, scheduler), `"epsilon"`, `"v_prediction"`) }},
		"class":          {change: func(t *testing.T, m string) { rewrite(t, filepath.Join(m, scheduler), "LCMScheduler", "DDIMScheduler") }, same: true},
		"text encoder": {text: true, change: func(t *testing.T, m string) {
			path := filepath.Join(m, "text_encoder", "model.safetensors")
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			text[len(text)-4] ^= 1
			require.NoError(t, os.WriteFile(path, text, 0o600))
		}},
		"tokenizer": {text: true, change: func(t *testing.T, m string) {
			rewrite(t, filepath.Join(m, "tokenizer", "merges.txt"), "\npho to</w>\n", "\n")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			model := base(t, "sd15")
			run := LoRA{Run: tinyRun(t, model, data), Adapter: Adapter{Rank: 4}, TextEncoder: c.text}
			run.Steps, run.SaveEvery, run.ValBatches = 1, 1, new(0)
			_, err := run.Train(t.Context())
			require.NoError(t, err)
			c.change(t, model)
			run.Resume, run.Steps = true, 2
			_, err = run.Train(t.Context())
			if c.same {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "model_holds")
		})
	}
}
