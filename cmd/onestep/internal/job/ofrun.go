package job

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/rundir"
)

// ofRun returns the snapshot of a run of train-lcm or train-lora in place of its directory, with what it is; any other path is returned as it is.
func ofRun(path string) (snapshot, note string, err error) {
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

// adaptersOfRuns puts snapshots in place of runs in values of --lora.
func adaptersOfRuns(texts []string) (all, notes []string, err error) {
	for _, text := range texts {
		file, scale := text, ""
		if _, err := os.Stat(text); err != nil {
			if i := strings.LastIndexByte(text, '='); i > 0 {
				file, scale = text[:i], text[i:]
			}
		}
		path, note, err := ofRun(file)
		if err != nil {
			return nil, nil, fmt.Errorf("--lora: %w", err)
		}
		if note != "" {
			if st, err := os.Stat(path); err == nil && st.IsDir() {
				return nil, nil, usage("--lora %s: the run trains a full model, not an adapter: pass --model %s", quote.Path(file), shellWord(file))
			}
			notes = append(notes, note)
		}
		all = append(all, path+scale)
	}
	return all, notes, nil
}

// modelOfRun puts the snapshot of a full model in place of its run.
func modelOfRun(model string) (path, note string, err error) {
	path, note, err = ofRun(model)
	if err != nil {
		return path, "", fmt.Errorf("--model: %w", err)
	}
	if note == "" {
		return path, "", nil
	}
	if st, err := os.Stat(path); err != nil || !st.IsDir() {
		return model, "", usage("--model %s: the run trains an adapter: pass its base model, and --lora %s", quote.Path(model), shellWord(path))
	}
	return path, note, nil
}
