package job

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/rundir"
)

// ofRun returns the snapshot of a run of train-lcm or train-lora instead of its directory, with what it is; any other path is returned as it is.
func ofRun(path string) (snapshot, note string, err error) {
	if path == "" {
		return "", "", nil
	}
	if st, err := os.Stat(filepath.Join(path, "options.json")); err != nil || st.IsDir() {
		return path, "", nil
	}
	all, err := rundir.ReadOptions(path)
	if err != nil {
		return path, "", err
	}
	if kind, _ := all["run"].(string); kind == "" { // of onestep train
		return path, "", nil
	}
	found, best, err := rundir.Chosen(path)
	if err != nil {
		return path, "", err
	}
	if found == "" {
		return path, "", usage("%s: a run without a snapshot yet", quote.Path(path))
	}
	which := "last"
	if best {
		which = "best"
	}
	return found, fmt.Sprintf("%s is a run: using its %s snapshot, %s", quote.Path(path), which, quote.Path(found)), nil
}

// adaptersOfRuns replaces runs with their snapshots in values of --lora.
func adaptersOfRuns(texts []string) (all, notes []string, err error) {
	for _, text := range texts {
		file, scale := text, ""
		if _, err := os.Stat(text); err != nil {
			if i := strings.LastIndexByte(text, '='); i > 0 {
				file, scale = text[:i], text[i:]
			}
		}
		path, note, err := adapterOfRun("--lora", file)
		if err != nil {
			return nil, nil, err
		}
		if note != "" {
			notes = append(notes, note)
		}
		all = append(all, path+scale)
	}
	return all, notes, nil
}

// adapterOfRun replaces the run of an adapter with its snapshot. flag may be empty.
func adapterOfRun(flag, file string) (path, note string, err error) {
	path, note, err = ofRun(file)
	if err != nil {
		return file, "", flagged(flag, err)
	}
	if st, err := os.Stat(path); note != "" && err == nil && st.IsDir() {
		return file, "", usage("%s: the run trains a full model, not an adapter: pass it as --model %s", strings.TrimSpace(flag+" "+quote.Path(file)), shellWord(file))
	}
	return path, note, nil
}

// modelOfRun replaces the run of a full model with its snapshot.
func modelOfRun(flag, model string) (path, note string, err error) {
	path, note, err = ofRun(model)
	if err != nil {
		return model, "", flagged(flag, err)
	}
	if st, err := os.Stat(path); note != "" && (err != nil || !st.IsDir()) {
		return model, "", usage("%s %s: the run trains an adapter: pass its base model, and --lora %s", flag, quote.Path(model), shellWord(path))
	}
	return path, note, nil
}

// ofRuns replaces runs of full models with their snapshots, by the flags that name them.
func ofRuns(note func(string), models map[string]*string) error {
	for _, flag := range slices.Sorted(maps.Keys(models)) {
		if err := replaceRun(note, flag, models[flag], modelOfRun); err != nil {
			return err
		}
	}
	return nil
}

// replaceRun replaces a run with its snapshot.
func replaceRun(note func(string), flag string, path *string, find func(flag, path string) (string, string, error)) error {
	found, text, err := find(flag, *path)
	if err != nil {
		return err
	}
	if *path = found; text != "" && note != nil {
		note(text)
	}
	return nil
}

func flagged(flag string, err error) error {
	if flag == "" {
		return err
	}
	return fmt.Errorf("%s: %w", flag, err)
}
