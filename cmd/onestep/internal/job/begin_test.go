package job

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/recipe"
	"github.com/onestep-go/onestep/training/rundir"
)

// A run that fails before its first step leaves nothing that was not there.
func TestFailedBeforeFirstStepLeavesNothing(t *testing.T) {
	base := t.TempDir()
	data := filepath.Join(base, "data")
	require.NoError(t, os.Mkdir(data, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(data, "a.png"), []byte("no image"), 0o666))
	for _, corrupt := range []string{"error", "skip"} {
		o := tinyRun(filepath.Join(base, "runs", "one"), "ict")
		o.Data, o.Classes, o.Corrupt = data, false, corrupt
		_, err := o.Train(context.Background(), Hooks{})
		require.Error(t, err)
		require.NoDirExists(t, filepath.Join(base, "runs"))
	}
}

// A run in pieces of --duration is the run in one go, to the bit, also when it is extended beyond its end.
func TestDurationsAreExact(t *testing.T) {
	dir := t.TempDir()
	run := func(name string, steps int, duration time.Duration, extend bool) int {
		o := tinyRun(filepath.Join(dir, name), "ict")
		o.Steps, o.SaveEvery, o.Duration, o.Extend = steps, 1000, duration, extend
		r, err := o.Train(context.Background(), Hooks{})
		require.NoError(t, err)
		return r.Step
	}
	same := func(step int) {
		for _, name := range []string{fmt.Sprintf("state-%07d.safetensors", step), fmt.Sprintf("model-%07d.safetensors", step)} {
			a, err := os.ReadFile(filepath.Join(dir, "whole", name))
			require.NoError(t, err)
			b, err := os.ReadFile(filepath.Join(dir, "pieces", name))
			require.NoError(t, err)
			require.True(t, bytes.Equal(a, b), "%s differs", name)
		}
		require.Equal(t, lossesOf(t, filepath.Join(dir, "whole")), lossesOf(t, filepath.Join(dir, "pieces")))
	}
	require.Equal(t, 12, run("whole", 12, 0, false))
	require.Equal(t, 1, run("pieces", 12, 1, false), "a step is the least")
	require.Equal(t, 2, run("pieces", 12, 1, false))
	require.Equal(t, 12, run("pieces", 12, time.Hour, false), "a longer duration goes on to the end")
	same(12)
	require.Equal(t, 12, run("pieces", 12, time.Hour, true), "and not beyond")
	until := lossesOf(t, filepath.Join(dir, "whole"))
	require.Equal(t, 16, run("whole", 16, 0, true))
	require.Equal(t, 13, run("pieces", 16, 1, true))
	require.Equal(t, 16, run("pieces", 16, time.Hour, true), "the same command again")
	same(16)
	require.Equal(t, until, lossesOf(t, filepath.Join(dir, "pieces"))[:12])
}

// The libraries know no flags: the tool says which one helps.
func TestHints(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.Mkdir(data, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(data, "cut.png"), []byte("\x89PNG\r\n\x1a\n"), 0o666))
	for _, teacher := range []string{"", recipe.Empirical} {
		o := tinyRun(filepath.Join(t.TempDir(), "run"), "ct")
		if o.Classes, o.Data = false, data; teacher != "" {
			o.Method = &recipe.CD{Teacher: teacher}
		}
		_, err := o.Train(context.Background(), Hooks{})
		var corrupt *dataset.CorruptError
		require.ErrorAs(t, err, &corrupt)
		require.ErrorContains(t, err, "--corrupt skip")
	}
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ct")
	o.Steps = 2
	_, err := o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	o.Resume = false
	_, err = o.Train(context.Background(), Hooks{})
	require.ErrorIs(t, err, rundir.ErrHoldsRun)
	require.ErrorContains(t, err, "pass --resume")
	require.NotContains(t, strings.ReplaceAll(err.Error(), "pass --resume", ""), "--resume")
}

// Sample grids are drawn whenever a state is saved and at the end, by default, and the data is summed up at the start.
func TestRunsDrawSamplesByDefault(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	o.Steps, o.SaveEvery, o.SampleEvery = 4, 2, nil
	var d DataSummary
	_, err := o.Train(context.Background(), Hooks{Data: func(s DataSummary) { d = s }})
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(o.Out, "samples-0000002.png"))
	require.FileExists(t, filepath.Join(o.Out, "samples-0000004.png"))
	require.Equal(t, 1906, d.Images)
	require.NotEmpty(t, d.Classes)
	require.InDelta(t, 1906.0/4, d.StepsPerEpoch, 1e-9)
	require.InDelta(t, 4/d.StepsPerEpoch, d.Epochs, 1e-9)

	for _, c := range []struct {
		duration   time.Duration
		every      *int
		last, want int
	}{{0, nil, 3, 1}, {time.Nanosecond, nil, 1, 1}, {0, new(0), 3, 0}} {
		o := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
		o.Steps, o.SaveEvery, o.SampleEvery, o.Duration = 3, 1000, c.every, c.duration
		_, err := o.Train(context.Background(), Hooks{})
		require.NoError(t, err)
		grids, err := filepath.Glob(filepath.Join(o.Out, "samples-*.png"))
		require.NoError(t, err)
		require.Len(t, grids, c.want)
		if c.want > 0 {
			require.Equal(t, fmt.Sprintf("samples-%07d.png", c.last), filepath.Base(grids[0]))
		}
	}
}

// A finished run goes on only when asked to, with the rest of its options; its past is in options.json and on the card.
func TestExtend(t *testing.T) {
	first := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	first.Steps, first.Resume = 6, false
	_, err := first.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	next := func(change func(o *Train)) (recipe.Result, error) {
		o := Train{Threads: 1, Run: recipe.Run{Out: first.Out, Resume: true}}
		values, err := ReadRun(first.Out)
		require.NoError(t, err)
		require.NotNil(t, values)
		require.NoError(t, values.Apply(&o.Run))
		change(&o)
		return o.Train(context.Background(), Hooks{})
	}
	r, err := next(func(*Train) {})
	require.NoError(t, err)
	require.Equal(t, 6, r.Step, "nothing is left to do")
	_, err = next(func(o *Train) { o.Steps = 9 })
	require.ErrorContains(t, err, "--extend")
	_, err = next(func(o *Train) { o.Steps, o.Extend, o.Batch = 9, true, 5 })
	require.ErrorContains(t, err, "batch")
	_, err = next(func(o *Train) { o.Steps, o.Extend = 5, true })
	require.ErrorContains(t, err, "--steps")
	r, err = next(func(o *Train) { o.Steps, o.LR, o.Extend = 9, 5e-4, true })
	require.NoError(t, err)
	require.Equal(t, 9, r.Step)
	text, err := os.ReadFile(filepath.Join(first.Out, "options.json"))
	require.NoError(t, err)
	var now struct {
		Steps   int
		History []recipe.Settings
	}
	require.NoError(t, json.Unmarshal(text, &now))
	require.Equal(t, 9, now.Steps)
	require.Equal(t, []recipe.Settings{{Until: 6, Steps: 6, LR: 1e-3, LRDecay: 0.3}}, now.History)
	card, err := os.ReadFile(filepath.Join(first.Out, "card.md"))
	require.NoError(t, err)
	require.Contains(t, string(card), "Extended at step 6")
	r, err = next(func(*Train) {})
	require.NoError(t, err)
	require.Equal(t, 9, r.Step, "the extended run resumes as any other")

	var log bytes.Buffer
	o := first
	o.Resume, o.Extend, o.Steps, o.LR, o.Duration = true, true, 9, 5e-4, time.Hour
	_, err = o.Train(context.Background(), Hooks{Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	require.Contains(t, log.String(), "all of its 9 steps", "a duration alone extends nothing")

	o = Train{}
	o.Data, o.Out, o.Resume, o.Extend, o.Steps = "emoji", filepath.Join(t.TempDir(), "none"), true, true, 3
	_, err = o.Train(context.Background(), Hooks{})
	require.ErrorContains(t, err, "no run")
}
