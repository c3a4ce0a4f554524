package recipe

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training/rundir"
)

// changeable are the entries of options.json that may differ when a run is resumed: they do not change its results beyond rounding,
// except for corrupt, skips and rollbacks, which control how errors are handled.
var changeable = []string{"device", "workers", "save_every", "sample_every", "log_every", "keep", "data_dir", "corrupt", "skips", "rollbacks", "checkpointing",
	"eval_every", "eval_data", "eval_n", "eval_steps", "eval_features"}

// identify returns entries of options.json that identify the files which the run reads, so that resuming with other data or another
// teacher is an error.
func (p *Plan) identify(ctx context.Context) (map[string]string, error) {
	r := &p.Run
	holds := map[string]string{}
	note := func(entry, text string) {
		if text != "" {
			holds[entry] = text
		}
	}
	data, err := p.Data.Identity()
	if err != nil {
		return nil, failed("data", err)
	}
	note("data_holds", data)
	teacher, err := r.modelHolds(ctx, r.teacher())
	if err != nil {
		return nil, failed("teacher", err)
	}
	note("teacher_holds", teacher)
	init := teacher
	if r.Init != r.teacher() {
		if init, err = r.modelHolds(ctx, r.Init); err != nil {
			return nil, failed("init", err)
		}
	}
	note("init_holds", init)
	if weights := valueOf[string](r, "lpips"); weights != "" {
		text, err := fileHolds(ctx, weights)
		if err != nil {
			return nil, failed("lpips", err)
		}
		note("lpips_holds", text)
	}
	return holds, nil
}

// modelHolds identifies a model's files by name and hash; "" if the model is not in files.
func (r *Run) modelHolds(ctx context.Context, path string) (string, error) {
	if _, ours := r.Models[path]; ours || slices.Contains([]string{"", "none", Empirical}, path) {
		return "", nil
	}
	files, err := checkpoint.Files(path)
	if err != nil {
		return "", err
	}
	var all []string
	for _, file := range files {
		text, err := fileHolds(ctx, file)
		if err != nil {
			return "", err
		}
		all = append(all, text)
	}
	return strings.Join(all, "; "), nil
}

// fileHolds identifies a file by name and hash. Gigabytes take seconds: cancelling ctx ends it.
func fileHolds(ctx context.Context, path string) (string, error) {
	sum := sha256.New()
	if err := plainfile.CopyTo(ctx, sum, path, nil); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, sha256 %.8x", filepath.Base(path), sum.Sum(nil)), nil
}

// mayChange lists the entries that may differ between options.json and now when the run is resumed. A path may differ if the file that it
// names has the recorded identity. Runs of earlier versions recorded none, and recorded options of other methods.
func (r *Run) mayChange(now map[string]any) []string {
	may := slices.Clone(changeable)
	was, err := rundir.ReadOptions(r.Out)
	if err != nil {
		return may // rundir returns the error, or there is nothing to compare
	}
	for _, entries := range []map[string]any{was, now} {
		for k := range entries {
			_, option := declared(dashed(k))
			_, own := r.option(dashed(k)) // of a program's own method
			if !option && !own && k != "method" && (k == "onestep" || !slices.Contains(told, dashed(k))) {
				may = append(may, k) // see Extra
			}
		}
	}
	for _, entry := range []string{"data", "teacher", "init", "lpips"} {
		switch holds := entry + "_holds"; was[holds] {
		case nil:
			may = append(may, holds)
		case now[holds]:
			may = append(may, entry)
		}
	}
	for _, o := range table() {
		o, _ = r.declares(o.Name)
		before, after := was[o.Key()], now[o.Key()]
		if before == nil && o.unsaidJSON(after) || after == nil && o.unsaidJSON(before) {
			may = append(may, o.Key())
		}
	}
	return may
}

// unsaidJSON is unsaid for a value that was decoded from JSON.
func (o Option) unsaidJSON(v any) bool {
	text, err := json.Marshal(v)
	if err != nil {
		return false
	}
	value, _ := o.Decode(text)
	return unsaid(o.Option, value)
}
