package finetune_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	. "github.com/onestep-go/onestep/training/finetune"
	"github.com/onestep-go/onestep/training/rundir"
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

// What may change when a run resumes is what it resumes with from then on, with a history; what may not is refused by its name.
func TestResumeWithOtherOptions(t *testing.T) {
	data := photos(t, 2)
	run := LoRA{Run: tinyRun(t, base(t, "sd15"), data), Adapter: Adapter{Rank: 4}}
	run.Steps, run.SaveEvery, run.Extra = 1, 1, map[string]any{"threads": 2}
	_, err := run.Train(t.Context())
	require.NoError(t, err)
	run.Resume, run.Steps, run.Keep, run.LogEvery, run.ValBatches, run.Extra = true, 2, 3, 7, new(1), nil
	_, err = run.Train(t.Context())
	require.NoError(t, err)
	was, err := rundir.ReadOptions(run.Out)
	require.NoError(t, err)
	for name, v := range map[string]any{"steps": 2.0, "keep": 3.0, "log_every": 7.0, "val_batches": 1.0, "rank": 4.0} {
		require.Equal(t, v, was[name], name)
	}
	require.NotContains(t, was, "threads")
	require.Equal(t, []any{map[string]any{"until": 1.0, "steps": 1.0, "keep": 0.0, "log_every": 1.0, "val_batches": 4.0, "threads": 2.0}}, was["history"])
	text, err := os.ReadFile(filepath.Join(run.Out, "options.json"))
	require.NoError(t, err)
	values, err := ReadOptions(new(LoRA), text)
	require.NoError(t, err)
	require.NotContains(t, values, "history")

	run.Rank, run.LR = 2, 0.5
	_, err = run.Train(t.Context())
	require.ErrorContains(t, err, "lr was 0.01, now 0.5; rank was 4, now 2;")
}

// A run does not resume with fewer steps than it has done: it would have nothing to do, and its options would say something else than its files.
func TestResumeWithFewerSteps(t *testing.T) {
	run := LoRA{Run: tinyRun(t, base(t, "sd15"), photos(t, 2)), Adapter: Adapter{Rank: 4}}
	run.Steps, run.SaveEvery, run.ValBatches = 3, 1, new(0)
	_, err := run.Train(t.Context())
	require.NoError(t, err)
	before, err := os.ReadFile(filepath.Join(run.Out, "options.json"))
	require.NoError(t, err)
	run.Resume, run.Steps = true, 2
	_, err = run.Train(t.Context())
	require.ErrorContains(t, err, "the run has already done 3 steps: want at least as many, got 2")
	after, err := os.ReadFile(filepath.Join(run.Out, "options.json"))
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	run.Steps = 3
	_, err = run.Train(t.Context())
	require.NoError(t, err)
}
