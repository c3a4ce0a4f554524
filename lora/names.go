package lora

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
)

// Names returns the names by which [Find] finds the adapters in a directory, sorted: those of files without their extension, with the path
// from dir if the name alone is ambiguous, and the paths of directories that peft or diffusers wrote and of training runs. Files are not
// opened, so that a file that is no adapter is listed if its extension is that of one.
func Names(dir string) ([]string, error) {
	var paths []string // without extension
	inside := map[string]bool{}
	err := plainfile.Walk(dir, func(path string) error {
		ext := filepath.Ext(path)
		if !slices.Contains(extensions, ext) {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		in := filepath.Dir(rel)
		switch best := bestOf(filepath.Dir(path)); {
		case in == ".":
		case slices.Contains(fileNames, filepath.Base(rel)), best != filepath.Dir(path):
			inside[in] = true
			return nil
		}
		paths = append(paths, strings.TrimSuffix(rel, ext))
		return nil
	})
	if err != nil {
		return nil, err
	}
	times := map[string]int{}
	for _, path := range paths {
		times[filepath.Base(path)]++
	}
	var names []string
	for _, path := range paths {
		if name := filepath.Base(path); times[name] == 1 {
			path = name
		}
		names = append(names, path)
	}
	for path := range inside {
		names = append(names, path)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
