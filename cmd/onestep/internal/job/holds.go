package job

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/rundir"
)

// identify notes what the run reads.
func (o *Train) identify(ctx context.Context, data *dataset.Set) (err error) {
	if o.DataHolds, err = data.Identity(); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if o.TeacherHolds, err = modelHolds(ctx, o.Teacher); err != nil {
		return fmt.Errorf("--teacher: %w", err)
	}
	o.InitHolds = o.TeacherHolds
	if o.Init != o.Teacher {
		if o.InitHolds, err = modelHolds(ctx, o.Init); err != nil {
			return fmt.Errorf("--init: %w", err)
		}
	}
	if o.LPIPS != "" {
		if o.LPIPSHolds, err = fileHolds(ctx, o.LPIPS); err != nil {
			return fmt.Errorf("--lpips: %w", err)
		}
	}
	return nil
}

// modelHolds tells the model's file from others; "" stands for what is no file.
func modelHolds(ctx context.Context, path string) (string, error) {
	if slices.Contains([]string{"", "none", empirical, "builtin"}, path) {
		return "", nil
	}
	file, err := checkpoint.Find(path)
	if err != nil {
		return "", err
	}
	return fileHolds(ctx, file)
}

func fileHolds(ctx context.Context, path string) (string, error) {
	sum := sha256.New()
	if err := hashFrom(ctx, sum, path, func(*os.File) error { return nil }); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, sha256 %.8x", filepath.Base(path), sum.Sum(nil)), nil
}

// mayChange lists the options that may differ when the run in that folder goes on with these. Where it has noted what it read, and
// that is what it reads now, the path does not matter; a run of an earlier version has not.
func mayChange(dir string, now map[string]any) []string {
	may := slices.Clone(changeable)
	was, err := rundir.ReadOptions(dir)
	if err != nil {
		return may // rundir says what is wrong, or there is nothing to compare
	}
	for _, name := range []string{"data", "teacher", "init", "lpips"} {
		switch holds := name + "_holds"; was[holds] {
		case nil:
			may = append(may, holds)
		case now[holds]:
			may = append(may, name)
		}
	}
	return may
}
