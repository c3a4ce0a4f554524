package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/finetune"
	"github.com/onestep-go/onestep/training/recipe"
	"github.com/onestep-go/onestep/training/rundir"
)

// runInfo describes a run and its progress, as JSON.
type runInfo struct {
	Kind      string         `json:"kind"` // "run"
	Path      string         `json:"path"`
	Options   map[string]any `json:"options"`
	Last      map[string]any `json:"last"`           // of the last step in stats.jsonl; null: none yet
	Best      map[string]any `json:"best,omitempty"` // the best snapshot, by evaluations or validation loss
	Snapshots []int          `json:"snapshots"`
	States    []int          `json:"states"`
}

func (a *app) infoRun(dir string) error {
	out := runInfo{Kind: "run", Path: dir}
	var err error
	if out.Options, err = rundir.ReadOptions(dir); err != nil {
		return err
	}
	if out.Last, err = lastStats(filepath.Join(dir, "stats.jsonl")); err != nil {
		return err
	}
	if out.Best, err = bestOf(dir); err != nil {
		return err
	}
	if out.Snapshots, err = rundir.SnapshotSteps(dir); err != nil {
		return err
	}
	if out.States, err = rundir.Steps(dir, "state"); err != nil {
		return err
	}
	out.Snapshots, out.States = append([]int{}, out.Snapshots...), append([]int{}, out.States...)

	var b strings.Builder
	fmt.Fprintf(&b, "%s: run\n", quote.Long(dir, longest))
	list := func(title string, m map[string]any) {
		if m == nil {
			return
		}
		fmt.Fprintf(&b, "%s:\n", title)
		width := 18
		for k := range m {
			width = max(width, utf8.RuneCountInString(quote.Text(k)))
		}
		for k, v := range sorted(m) {
			fmt.Fprintf(&b, "  %-*s %s\n", width, quote.Text(k), quote.Text(shortJSON(v)))
		}
	}
	list("options", used(out.Options))
	list("last statistics", out.Last)
	list("best snapshot", out.Best)
	steps := func(what string, n []int) {
		if len(n) == 0 {
			fmt.Fprintf(&b, "%ss: none\n", what)
		} else {
			fmt.Fprintf(&b, "%s, the last after step %d\n", plural.N(len(n), what), n[len(n)-1])
		}
	}
	steps("snapshot", out.Snapshots)
	steps("checkpoint", out.States)
	return a.print(out, b.String())
}

// used drops the options of other methods, networks, distances and data, which the run does not use. --json has all.
func used(options map[string]any) map[string]any {
	if kind, _ := options["run"].(string); kind != "" { // of train-lcm or train-lora
		out := maps.Clone(options)
		var without any = &struct{ finetune.Adapter }{}
		if on, _ := options["lora"].(bool); kind == "train-lora" || on {
			without = &struct {
				GuidanceSize int      `option:"guidance-size"`
				TargetEMA    *float64 `option:"target-ema"`
			}{}
		}
		for _, o := range ofOptions(without) {
			delete(out, o)
		}
		return out
	}
	var run recipe.Run
	for _, name := range []string{"method", "network", "distance", "data"} {
		if v, ok := options[name].(string); ok {
			_ = recipe.Values{name: v}.Apply(&run) // errors do not matter here
		}
	}
	if n, ok := options["eval_every"].(float64); ok {
		run.EvalEvery = int(n)
	}
	out := maps.Clone(options)
	maps.DeleteFunc(out, func(name string, _ any) bool { return run.Unused(strings.ReplaceAll(name, "_", "-")) != nil })
	return out
}

// ofOptions lists the keys of a struct's options.
func ofOptions(p any) (keys []string) {
	for _, o := range options.Of(p) {
		keys = append(keys, o.Key())
	}
	return keys
}

// sameStep tells whether two lines of statistics are of the same step.
func sameStep(a, b map[string]any) bool {
	m, ok := a["step"].(float64)
	n, also := b["step"].(float64)
	return ok && also && m == n
}

// bestOf returns what a run records of its best snapshot; nil: there is none.
func bestOf(dir string) (map[string]any, error) {
	path := filepath.Join(dir, "best.json")
	text, err := plainfile.Read(path, 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var v map[string]any
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), quote.Error(err))
	}
	return v, nil
}

// lastStats returns the statistics of a run's last step, which may have several lines, such as one of an evaluation; nil if there is none.
func lastStats(path string) (map[string]any, error) {
	f, _, err := plainfile.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const tail = 64 << 10 // longer than any two lines
	if st, err := f.Stat(); err == nil && st.Size() > tail {
		if _, err := f.Seek(-tail, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	var last map[string]any
	for _, line := range slices.Backward(bytes.Split(text, []byte("\n"))) {
		var v map[string]any
		switch {
		case json.Unmarshal(line, &v) != nil || v == nil:
			continue
		case last == nil:
			last = v
			continue
		case !sameStep(v, last):
			return last, nil
		}
		for name, value := range v {
			if _, later := last[name]; !later {
				last[name] = value
			}
		}
	}
	return last, nil
}
