package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/rundir"
)

// runsInfo lists the runs in a directory, as JSON.
type runsInfo struct {
	Kind string   `json:"kind"` // "runs"
	Path string   `json:"path"`
	Runs []oneRun `json:"runs"`
}

// oneRun is a run in a directory of runs.
type oneRun struct {
	Path   string `json:"path"`
	Method string `json:"method,omitempty"`
	Data   string `json:"data,omitempty"`
	Step   int    `json:"step"` // of the last snapshot; 0: none yet
	Error  string `json:"error,omitempty"`
}

// runsIn lists the run directories in a directory; nil: there are none.
func runsIn(dir string) ([]oneRun, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var runs []oneRun
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if st, err := os.Stat(filepath.Join(at, "options.json")); err != nil || st.IsDir() {
			continue
		}
		run := oneRun{Path: at}
		options, err := rundir.ReadOptions(at)
		if err == nil {
			if run.Method, _ = options["method"].(string); run.Method == "" {
				run.Method, _ = options["run"].(string)
			}
			run.Data, _ = options["data"].(string)
			var steps []int
			if steps, err = rundir.SnapshotSteps(at); len(steps) > 0 {
				run.Step = steps[len(steps)-1]
			}
		}
		if err != nil {
			run.Error = err.Error()
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// infoRuns lists runs: each with its method, data and last snapshot.
func (a *app) infoRuns(dir string, runs []oneRun) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: a directory of runs; onestep info RUN describes one\n", quote.Long(dir, longest))
	for _, r := range runs {
		what := "no snapshot yet"
		if r.Step > 0 {
			what = fmt.Sprintf("last snapshot after step %d", r.Step)
		}
		text := fmt.Sprintf("%s on %s, %s", quote.Text(r.Method), quote.Text(r.Data), what)
		if r.Error != "" {
			text = r.Error //quote: of this program, which has quoted paths
		}
		fmt.Fprintf(&b, "  %-18s %s\n", quote.Text(r.Path), text)
	}
	return a.print(runsInfo{Kind: "runs", Path: dir, Runs: runs}, b.String())
}
