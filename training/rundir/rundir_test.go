package rundir

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var options = map[string]any{"lr": 0.1, "steps": 40, "threads": 1}

func open(t *testing.T, path string, o map[string]any, resume bool) *Dir {
	t.Helper()
	d, err := Open(path, o, resume, "threads")
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runs", "a")
	d := open(t, path, options, false)
	got, err := ReadOptions(path)
	require.NoError(t, err)
	require.EqualValues(t, 0.1, got["lr"])

	_, err = Open(path, options, true, "threads")
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, d.Record(map[string]any{"step": 1}))
	require.NoError(t, d.Close())

	_, err = Open(path, options, false)
	require.ErrorIs(t, err, ErrHoldsRun)
	_, err = Open(path, map[string]any{"lr": 0.2, "steps": 40, "threads": 8, "new": true}, true, "threads")
	require.ErrorContains(t, err, "lr was 0.1, now 0.2; new was null, now true")
	require.NotContains(t, err.Error(), "threads")
	open(t, path, map[string]any{"lr": 0.1, "steps": 40, "threads": 8}, true)

	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "thesis.tex"), []byte("x"), 0o644))
	for _, resume := range []bool{false, true} {
		_, err = Open(other, options, resume)
		require.ErrorContains(t, err, "thesis.tex")
		require.NotErrorIs(t, err, ErrHoldsRun)
	}
	entries, err := os.ReadDir(other)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is created in a directory that is not a run's")
	_, err = Open("", options, false)
	require.Error(t, err)
	_, err = Open(filepath.Join(other, "thesis.tex"), options, false)
	require.Error(t, err)

	damaged := t.TempDir()
	for text, want := range map[string]string{"{": "unexpected EOF", "": "empty", "[1, 2]": "array", "null": "null"} {
		require.NoError(t, os.WriteFile(filepath.Join(damaged, "options.json"), []byte(text), 0o644))
		_, err = Open(damaged, options, true)
		require.ErrorContains(t, err, "options.json")
		require.ErrorContains(t, err, want)
		_, err = ReadOptions(damaged)
		require.ErrorContains(t, err, "options.json")
	}
	require.NoError(t, os.WriteFile(filepath.Join(damaged, "options.json"), []byte("{}"), 0o644))
	many := map[string]any{}
	for i := range 20 {
		many[string(rune('a'+i))] = i
	}
	_, err = Open(damaged, many, true)
	require.ErrorContains(t, err, "a was null, now 0; b was null, now 1;")
	require.ErrorContains(t, err, "; and 12 more;")
}

// What changes when a run resumes is written as it is now, with what it was and up to which step.
func TestUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	d := open(t, path, options, false)
	resume := func(o map[string]any) map[string]any {
		t.Helper()
		require.NoError(t, d.Close())
		d = open(t, path, o, true)
		require.NoError(t, d.Update(o))
		got, err := ReadOptions(path)
		require.NoError(t, err)
		return got
	}
	require.NoError(t, Write(d.State(20), []byte("x")))
	before, err := os.Stat(d.File("options.json"))
	require.NoError(t, err)
	require.NotContains(t, resume(options), "history")
	after, err := os.Stat(d.File("options.json"))
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "it is not written where nothing changed")

	more := map[string]any{"lr": 0.1, "steps": 40, "threads": 8}
	first := map[string]any{"until": 20.0, "threads": 1.0}
	got := resume(more)
	require.EqualValues(t, 8, got["threads"])
	require.Equal(t, []any{first}, got["history"])
	require.Equal(t, got, resume(more), "a history is no option that differs")
	require.NoError(t, Write(d.State(40), []byte("x")))
	got = resume(map[string]any{"lr": 0.1, "steps": 40})
	require.Equal(t, []any{first, map[string]any{"until": 40.0, "threads": 8.0}}, got["history"])
	require.NotContains(t, got, "threads")
	got = resume(more)
	require.Equal(t, []any{first, map[string]any{"until": 40.0, "threads": 8.0}, map[string]any{"until": 40.0, "threads": nil}}, got["history"])
	require.NoError(t, d.Rewrite(options))
	got, err = ReadOptions(path)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"lr": 0.1, "steps": 40.0, "threads": 1.0}, got)
}

func TestStepsAndPrune(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "run"), options, false)
	for _, n := range []int{1000, 20, 300} {
		require.NoError(t, Write(d.State(n), []byte("x")))
		require.NoError(t, Write(d.Snapshot(n, ""), []byte("x")))
	}
	for _, junk := range []string{"state-.safetensors", "state-12.part", ".state-0000400.safetensors.123", "state-abc.safetensors"} {
		require.NoError(t, os.WriteFile(d.File(junk), nil, 0o644))
	}
	got, err := d.Steps("state")
	require.NoError(t, err)
	require.Equal(t, []int{20, 300, 1000}, got)
	require.NoError(t, d.Prune("state", 2))
	got, err = d.Steps("state")
	require.NoError(t, err)
	require.Equal(t, []int{300, 1000}, got)
	got, err = Steps(d.Path(), "model")
	require.NoError(t, err)
	require.Equal(t, []int{20, 300, 1000}, got, "snapshots stay")
	require.Equal(t, "model-0001000.safetensors", filepath.Base(d.Snapshot(1000, "")))

	// Those of further EMA weights are snapshots, too.
	further := d.Snapshot(300, "width-0.05")
	require.Equal(t, "model-0000300.width-0.05.safetensors", filepath.Base(further))
	require.NoError(t, Write(further, []byte("x")))
	for _, junk := range []string{"model-300.safetensors", "model-0000300.width-0.05.part", "model-.width-0.05.safetensors", ".model-0000300.safetensors.tmp-A"} {
		require.NoError(t, os.WriteFile(d.File(junk), nil, 0o644))
	}
	all, err := Snapshots(d.Path())
	require.NoError(t, err)
	require.Equal(t, []string{d.Snapshot(20, ""), d.Snapshot(300, ""), further, d.Snapshot(1000, "")}, all)
	got, err = d.Steps("model")
	require.NoError(t, err)
	require.Equal(t, []int{20, 300, 1000}, got)
	require.NoError(t, Write(d.Snapshot(20, "width-0.05"), []byte("x")))
	require.NoError(t, d.PruneSnapshots(3))
	require.FileExists(t, d.Snapshot(20, ""), "there are no more than that")
	require.NoError(t, d.PruneSnapshots(2))
	all, err = Snapshots(d.Path())
	require.NoError(t, err)
	require.Equal(t, []string{d.Snapshot(300, ""), further, d.Snapshot(1000, "")}, all, "those of step 20 are gone, with all EMA weights")
	require.NoError(t, d.Forget(300))
	require.FileExists(t, d.Snapshot(1000, ""))
	got, err = d.Steps("state")
	require.NoError(t, err)
	require.Equal(t, []int{300}, got)
	_, err = Snapshots(d.File("none"))
	require.ErrorContains(t, err, "run directory")
}

func TestStats(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run")
	d := open(t, path, options, false)
	for k := 1; k <= 5; k++ {
		require.NoError(t, d.Record(map[string]any{"step": k, "loss": 1 / float64(k)}))
	}
	require.NoError(t, d.Close())
	// A killed run may leave a line half-written.
	f, err := os.OpenFile(filepath.Join(path, "stats.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"step": 2, "lo`)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	d = open(t, path, options, true)
	cut, err := d.CutStats(3)
	require.NoError(t, err)
	require.True(t, cut)
	require.NoError(t, d.Record(map[string]any{"step": 4, "loss": 9}))
	cut, err = d.CutStats(4)
	require.NoError(t, err)
	require.False(t, cut, "nothing to cut")
	text, err := os.ReadFile(filepath.Join(path, "stats.jsonl"))
	require.NoError(t, err)
	require.Equal(t, "{\"loss\":1,\"step\":1}\n{\"loss\":0.5,\"step\":2}\n{\"loss\":0.3333333333333333,\"step\":3}\n{\"loss\":9,\"step\":4}\n", string(text))
	require.Error(t, d.Record(map[string]any{"loss": func() {}}))
}

func TestWriteIsAtomic(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.json")
	require.NoError(t, WriteJSON(path, map[string]int{"a": 1}))
	require.Error(t, WriteJSON(path, func() {}), "what cannot be encoded")
	var v map[string]int
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &v))
	require.Equal(t, 1, v["a"], "a failed write leaves what was there")
	require.Error(t, Write(filepath.Join(dir, "none", "x"), nil))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary files stay")
}

// The files of a run that failed before its first step are replaced; temporary files of a killed one are removed.
func TestIdleRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	d, err := Open(dir, map[string]any{"data": "misspelt"}, false)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	d, err = Open(dir, map[string]any{"data": "right"}, false)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "card.md"), nil, 0o644))
	begun, err := Check(dir, map[string]any{"data": "other"}, true)
	require.NoError(t, err, "a card is not a step")
	require.False(t, begun)
	require.NoError(t, d.Record(map[string]any{"step": 1}))
	require.NoError(t, d.Close())
	begun, err = Check(dir, map[string]any{"data": "right"}, true)
	require.NoError(t, err)
	require.True(t, begun)
	_, err = Check(dir, map[string]any{"data": "right"}, false)
	require.ErrorIs(t, err, ErrHoldsRun)
	_, err = Check(dir, map[string]any{"data": "other"}, true)
	require.ErrorContains(t, err, "data was")
	begun, err = Check(filepath.Join(dir, "none"), nil, true)
	require.NoError(t, err)
	require.False(t, begun)
	require.NoDirExists(t, filepath.Join(dir, "none"))
	o, err := ReadOptions(dir)
	require.NoError(t, err)
	require.Equal(t, "right", o["data"])
	_, err = Open(dir, map[string]any{"data": "right"}, false)
	require.ErrorIs(t, err, ErrHoldsRun)

	left := filepath.Join(dir, ".onestep-ABCDEFGHIJKLMNOPQRSTUVWXYZ.tmp")
	other := filepath.Join(dir, ".mine.tmp-ABC")
	for _, name := range []string{left, other} {
		require.NoError(t, os.WriteFile(name, nil, 0o644))
	}
	d, err = Open(dir, map[string]any{"data": "right"}, true)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoFileExists(t, left)
	require.FileExists(t, other)
}

// Options are compared digit by digit: two seeds that differ beyond a float64's 53 bits are two seeds.
func TestLargeSeeds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	d, err := Open(dir, map[string]any{"seed": uint64(1<<64 - 1)}, false)
	require.NoError(t, err)
	require.NoError(t, d.Record(map[string]any{"step": 1}))
	require.NoError(t, d.Close())
	_, err = Open(dir, map[string]any{"seed": uint64(1<<64 - 2)}, true)
	require.ErrorContains(t, err, "seed was 18446744073709551615, now 18446744073709551614")
}

// A lock that is a link to another file is not followed.
func TestLockIsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o644))
	run := filepath.Join(dir, "run")
	require.NoError(t, os.Mkdir(run, 0o755))
	require.NoError(t, os.Symlink(victim, filepath.Join(run, ".lock")))
	_, err := Open(run, nil, false)
	require.Error(t, err)
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
}

// A run that has done no step leaves nothing behind; one that has is kept.
func TestDiscard(t *testing.T) {
	base := t.TempDir()
	path := filepath.Join(base, "runs", "one")
	options := map[string]any{"steps": 3}
	begin := func() *Dir {
		d, err := Open(path, options, false)
		require.NoError(t, err)
		require.NoError(t, Write(d.File("card.md"), []byte("x")))
		require.NoError(t, os.WriteFile(d.File("events.out.tfevents.1"), nil, 0o666))
		return d
	}
	require.NoError(t, begin().Discard())
	require.NoDirExists(t, filepath.Join(base, "runs"))

	require.NoError(t, os.MkdirAll(path, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(path, ".keep"), nil, 0o666))
	require.NoError(t, begin().Discard())
	entries, err := os.ReadDir(path)
	require.NoError(t, err)
	require.Len(t, entries, 1, "existing files stay")

	d := begin()
	_, err = Open(path, options, true)
	require.ErrorContains(t, err, "in use")
	require.FileExists(t, d.File("card.md"), "a process that finds the directory in use removes nothing")
	require.NoError(t, os.WriteFile(d.State(0), nil, 0o666))
	require.NoError(t, d.Discard())
	require.FileExists(t, d.File("options.json"))

	require.NoError(t, os.WriteFile(filepath.Join(base, "file"), nil, 0o666))
	_, err = Open(filepath.Join(base, "file", "x", "y"), options, false)
	require.Error(t, err)
}

// Links in place of a run's files are not written through.
func TestLinksAreNotWritten(t *testing.T) {
	options := map[string]any{"steps": 3}
	for _, name := range []string{"log.txt", "stats.jsonl"} {
		for _, there := range []bool{true, false} {
			dir := t.TempDir()
			run, victim := filepath.Join(dir, "run"), filepath.Join(dir, "victim")
			d, err := Open(run, options, false)
			require.NoError(t, err)
			require.NoError(t, d.Record(map[string]any{"step": 1}))
			require.NoError(t, d.Close())
			require.NoError(t, os.Remove(filepath.Join(run, name)))
			if there {
				require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o644))
			}
			require.NoError(t, os.Symlink(victim, filepath.Join(run, name)))
			_, err = Open(run, options, true)
			require.ErrorContains(t, err, filepath.Join(run, name)+" is a symbolic link")
			b, err := os.ReadFile(victim)
			require.Equal(t, there, err == nil)
			require.True(t, !there || string(b) == "precious")
			if there {
				own := &Dir{path: run}
				require.NoError(t, own.Unlink(filepath.Join(run, name)))
				require.NoFileExists(t, filepath.Join(run, name))
				require.NoError(t, own.Unlink(victim))
				require.FileExists(t, victim)
			}
		}
	}
}

// A run directory that cannot be made is an error before any work: below a file, and where a link leads nowhere.
func TestCheckIsWritable(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	for path, want := range map[string]string{"file/run": "not a directory", "link": "link is a symbolic link whose target does not exist", "link/run": "link is a symbolic link"} {
		_, err := Check(filepath.Join(dir, path), nil, false)
		require.ErrorContains(t, err, want)
	}
	begun, err := Check(filepath.Join(dir, "new/run"), nil, false)
	require.NoError(t, err)
	require.False(t, begun)
	require.NoDirExists(t, filepath.Join(dir, "new"))
}
