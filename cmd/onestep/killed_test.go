package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
)

// A run that is killed twice at random moments and resumed ends with every byte of the checkpoints, the snapshots' weights and the options of
// an uninterrupted run, with a schedule, accumulation and an EMA. Which snapshot is the best may differ: one whose validation was killed has no
// validation loss.
func TestFinetuneKilledAndResumedIsExact(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "sd15"), "sd15"))
	captionedImages(t, filepath.Join(dir, "photos"), 5)
	const steps = 32
	line := func(out string) string {
		return strings.ReplaceAll("train-lcm --lora --model DIR/sd15 --data DIR/photos --cache DIR/cache --rank 4 --name killed --batch 2 --grad-accum 2 --steps 32 --save-every 7 --keep 3 --lr 0.01 "+
			"--lr-schedule cosine --lr-warmup 0.2 --ema 0.9 --flip --caption-dropout 0.3 --seed 3 --threads 1 --resume --out DIR/", "DIR", dir) + out
	}
	done := func() int {
		text, _ := os.ReadFile(filepath.Join(dir, "killed", "stats.jsonl"))
		return bytes.Count(text, []byte(`"loss"`))
	}
	here := func(out string) {
		code, _, errs := try(strings.Fields(line(out))...)
		require.Zero(t, code, errs)
	}
	here("whole")

	for _, from := range []int{2, 15} {
		at := from + rand.IntN(10)
		cmd := command(line("killed"))
		require.NoError(t, cmd.Start())
		for end := time.Now().Add(5 * time.Minute); done() < at && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait(), "the run had ended before it was killed")
		t.Logf("killed after step %d", done())
		require.Less(t, done(), steps)
	}
	here("killed")

	whole := map[string][]byte{}
	for _, pattern := range []string{"state-*", "model-*", "options.json"} {
		found, err := filepath.Glob(filepath.Join(dir, "whole", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, found, pattern)
		for _, path := range found {
			whole[filepath.Base(path)], err = os.ReadFile(path)
			require.NoError(t, err)
		}
	}
	for name, want := range whole {
		got, err := os.ReadFile(filepath.Join(dir, "killed", name))
		require.NoError(t, err, name)
		if strings.HasSuffix(name, ".safetensors") && !strings.HasPrefix(name, "state-") {
			got, want = tensorBytes(t, got), tensorBytes(t, want) // their metadata have the time
		}
		require.True(t, bytes.Equal(want, got), "%s differs", name)
	}
}

// tensorBytes is a safetensors file without its header.
func tensorBytes(t *testing.T, file []byte) []byte {
	t.Helper()
	require.Greater(t, len(file), 8)
	n := 0
	for i := range 8 {
		n |= int(file[i]) << (8 * i)
	}
	require.Less(t, 8+n, len(file))
	return file[8+n:]
}
