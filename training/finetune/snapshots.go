package finetune

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/rundir"
)

// watched writes each snapshot once, in place of another of its name, and notes which was written last by this process.
type watched struct {
	training.Snapshots
	dir  *rundir.Dir
	step int // -1: none
}

// Write implements [training.Snapshots].
func (w *watched) Write(ctx context.Context, s *torch.Scope, step int, images int64) error {
	if w.step == step {
		return nil
	}
	if err := w.dir.Unlink(w.Path(step)); err != nil {
		return err
	}
	err := w.Snapshots.Write(ctx, s, step, images)
	if err == nil {
		w.step = step
	}
	return err
}

// folder is the path of a snapshot that is a directory.
func (s *session) folder(step int) string { return s.dir.File(fmt.Sprintf("model-%07d", step)) }

// prune removes all snapshots but the last ones and the best. It is called once the last one is known to be good.
func (v *validation) prune() error {
	keep := v.Run.Keep
	if keep == 0 {
		return nil
	}
	if v.adapter != nil { // the best is a copy
		return v.dir.PruneSnapshots(keep)
	}
	found, err := filepath.Glob(filepath.Join(escaped(v.dir.Path()), "model-[0-9][0-9][0-9][0-9][0-9][0-9][0-9]"))
	if err != nil {
		return err
	}
	slices.Sort(found)
	for _, path := range found[:max(0, len(found)-keep)] {
		if path == v.bestPath() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// escaped is a path as a part of a pattern.
func escaped(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// reject renames an unusable snapshot, so that it is not mistaken for a good one.
func (e *SnapshotError) reject() error {
	to := e.Path + ".rejected"
	if err := os.RemoveAll(to); err != nil { // of an earlier try
		return err
	}
	if err := os.Rename(e.Path, to); err != nil {
		return err
	}
	e.Rejected = to
	return nil
}
