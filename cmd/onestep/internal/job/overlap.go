package job

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// apart refuses an --out that would replace, contain or lie inside what a command reads, or lie inside a model's directory. same is a path
// that may be read and replaced.
func apart(out, same string, inputs ...Path) error {
	if out == "" {
		return nil
	}
	to, err := resolved(out)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	for _, p := range inputs {
		if p.Path == "" {
			continue
		}
		from, err := resolved(p.Path)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Flag, err)
		}
		what := strings.TrimSpace(p.Flag + " " + quote.Path(p.Path))
		switch {
		case to == from && p.Path == same:
		case to == from:
			return usage("--out: %s would replace %s, which is read: choose another name", quote.Path(out), what)
		case within(to, from):
			return usage("--out: %s is inside %s, which is read: choose another name", quote.Path(out), what)
		case within(from, to):
			return usage("--out: %s holds %s, which is read and would be lost: choose another name", quote.Path(out), what)
		}
	}
	dir := filepath.Dir(to)
	if filepath.Ext(to) == ".safetensors" {
		dir = filepath.Dir(dir) // single files lie next to the components' directories, not in them
	}
	for range 2 {
		if _, err := os.Stat(filepath.Join(dir, "model_index.json")); err == nil {
			return usage("--out: %s is inside the directory of a model, %s: choose another name", quote.Path(out), quote.Path(dir))
		}
		dir = filepath.Dir(dir)
	}
	return nil
}

// resolved is the absolute path without symbolic links; it need not exist.
func resolved(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return path, nil //nolint:nilerr // whether it can be written is checked elsewhere
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// within reports whether a path is below a directory.
func within(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// NotOf refuses an --out that would replace a file of the run that is read.
func NotOf(run, out string) error {
	dir, err := resolved(run)
	if err != nil {
		return err
	}
	to, err := resolved(out)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if _, err := os.Lstat(to); err == nil && within(to, dir) {
		return usage("--out: %s would replace a file of the run %s: choose another name", quote.Path(out), quote.Path(run))
	}
	return nil
}
