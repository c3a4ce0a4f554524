package finetune_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/safetensors"
	. "github.com/onestep-go/onestep/training/finetune"
)

// The batch size and the resolution of a dataset configuration are those of the run: they are used, estimated with and recorded, and where an
// option asked for others a notice says so.
func TestDatasetConfiguration(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data.toml")
	text := fmt.Sprintf("[[datasets]]\nresolution = [48, 32]\nbatch_size = 3\n[[datasets.subsets]]\nimage_dir = '%s'\n", photos(t, 3))
	require.NoError(t, os.WriteFile(data, []byte(text), 0o600))
	run := LCM{LoRA: true, Run: tinyRun(t, base(t, "sd15"), data), Adapter: Adapter{Rank: 2}}
	run.Batch, run.Steps, run.SaveEvery, run.ValBatches = 0, 1, 1, new(0)
	p, err := run.Plan(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, p.Run.Batch)
	require.NotContains(t, strings.Join(p.Notices(), "\n"), "precedence")
	small, err := p.Need()
	require.NoError(t, err)
	require.NoError(t, p.Close())

	run.Batch, run.Resolution = 1, 64
	p, err = run.Plan(t.Context())
	require.NoError(t, err)
	notices := strings.Join(p.Notices(), "\n")
	require.Contains(t, notices, "batch_size is 3, not 1")
	require.Contains(t, notices, "48×32, not 64")
	same, err := p.Need()
	require.NoError(t, err)
	require.Equal(t, small, same)
	require.NoError(t, p.Close())

	r, err := run.Train(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, r.Seen)
	f, err := safetensors.Open(r.Snapshot)
	require.NoError(t, err)
	defer f.Close()
	meta := f.Metadata()
	require.Equal(t, "48x32", meta["modelspec.resolution"])
	require.Equal(t, "3", meta["ss_total_batch_size"])
	was, err := os.ReadFile(filepath.Join(run.Out, "options.json"))
	require.NoError(t, err)
	var options struct{ Batch, Resolution int }
	require.NoError(t, json.Unmarshal(was, &options))
	require.Equal(t, struct{ Batch, Resolution int }{3, 39}, options, "the square of that area")

	run.Resume = true // with what was recorded
	run.Batch, run.Resolution = options.Batch, options.Resolution
	p, err = run.Plan(t.Context())
	require.NoError(t, err)
	require.NotContains(t, strings.Join(p.Notices(), "\n"), "precedence")
	_, err = p.Check()
	require.NoError(t, err)
	require.NoError(t, p.Close())
}
