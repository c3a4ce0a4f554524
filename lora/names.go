package lora

import (
	"path/filepath"
	"slices"
	"strings"
)

// Names returns the names by which [Find] finds the adapters in a directory, sorted: those of files without their extension, with the path
// from dir if the name alone is ambiguous, and the paths of directories that peft or diffusers wrote and of training runs. Files are not
// opened, so that a file that is no adapter is listed if its extension is that of one.
func Names(dir string) ([]string, error) {
	files, err := walk(dir, func(path string) bool { return slices.Contains(extensions, filepath.Ext(path)) })
	if err != nil {
		return nil, err
	}
	var paths []string // without extension
	inside := map[string]bool{}
	for _, path := range files {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return nil, err
		}
		in := filepath.Dir(rel)
		if in != "." && (slices.Contains(fileNames, filepath.Base(rel)) || bestOf(filepath.Dir(path)) != filepath.Dir(path)) {
			inside[in] = true
			continue
		}
		paths = append(paths, strings.TrimSuffix(rel, filepath.Ext(rel)))
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
