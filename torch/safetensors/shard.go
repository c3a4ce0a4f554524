package safetensors

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// WriteSharded writes tensors as several files of at most maxBytes of data each, and an index of them, as transformers and
// diffusers do: model.safetensors becomes model-00001-of-00003.safetensors and so on and model.safetensors.index.json. A
// larger tensor gets a file of its own. When one file is enough, only that is written, under path. It returns the path to
// open: the index, or path.
//
// The files appear only when all are complete; when writing fails, none is left. Overwriting also removes the files of the
// previous set. A machine crash while a set is being replaced leaves no index, so that a mixture of the two cannot be opened.
func WriteSharded(path string, tensors []Source, maxBytes int, o Options) (string, error) {
	stem, ok := strings.CutSuffix(path, suffix)
	if !ok || filepath.Base(path) == suffix {
		return "", fmt.Errorf("write %s: want a file name with the extension %s", quote.Path(path), suffix)
	}
	if maxBytes <= 0 {
		return "", fmt.Errorf("write %s: shards of %d bytes: want at least 1", quote.Path(path), maxBytes)
	}
	if _, _, err := plan(tensors, o.Metadata); err != nil { // checked before anything is written
		return "", fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	old, err := filesOfSet(stem)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	if len(old) > 0 && !o.Overwrite {
		return "", fmt.Errorf("write %s: %s: %w", quote.Path(path), quote.Path(old[0]), atomicfile.ErrExists)
	}

	var files []*atomicfile.File
	committed := false
	defer func() {
		if !committed { // also when Data panics
			for _, p := range files {
				p.Discard()
			}
		}
	}()
	result, index := path, stem+indexSuffix
	shards := split(tensors, maxBytes)
	names := []string{path}
	if len(shards) > 1 {
		result, names = index, nil
		for i := range shards {
			names = append(names, fmt.Sprintf("%s-%05d-of-%05d%s", stem, i+1, len(shards), suffix))
		}
	}
	for i, name := range names {
		p, err := prepare(name, shards[i], o)
		if err != nil {
			return "", err
		}
		files = append(files, p)
	}
	if len(shards) > 1 {
		p, err := atomicfile.Prepare(index, o.how(), func(w io.Writer) error { return writeIndex(w, names, shards) })
		if err != nil {
			return "", err
		}
		files = append(files, p)
		names = append(names, index)
	}

	if slices.Contains(old, index) {
		if err := os.Remove(index); err != nil { // no index may exist while its shards change
			return "", fmt.Errorf("write %s: %w", quote.Path(path), err)
		}
	}
	committed = true
	if err := atomicfile.Commit(files...); err != nil {
		return "", err
	}
	for _, file := range old {
		if file != index && !slices.Contains(names, file) {
			if err := os.Remove(file); err != nil {
				return "", fmt.Errorf("write %s: remove a file of the previous set: %w", quote.Path(path), err)
			}
		}
	}
	return result, nil
}

// writeIndex writes the index of the shards with those names.
func writeIndex(w io.Writer, names []string, shards [][]Source) error {
	type metadata struct {
		TotalSize int `json:"total_size"`
	}
	index := struct {
		Metadata  metadata          `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}{WeightMap: map[string]string{}}
	for i, tensors := range shards {
		for _, t := range tensors {
			size, _ := t.DType.bytesOf(t.Shape)
			index.Metadata.TotalSize += size
			index.WeightMap[t.Name] = filepath.Base(names[i])
		}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(index)
}

var shardName = regexp.MustCompile(`^-\d{5,}-of-\d{5,}\.safetensors$`)

// filesOfSet lists the existing files of a set with that stem: path, shards, index.
func filesOfSet(stem string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(stem))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(stem))
		if ok && (rest == suffix || rest == indexSuffix || shardName.MatchString(rest)) {
			files = append(files, filepath.Join(filepath.Dir(stem), e.Name()))
		}
	}
	return files, nil
}

// split groups tensors, in order, into files of at most maxBytes; a larger tensor gets its own. There is at least one group.
func split(tensors []Source, maxBytes int) [][]Source {
	shards, room := [][]Source{nil}, maxBytes
	for _, t := range tensors {
		size, _ := t.DType.bytesOf(t.Shape)
		if size > room && len(shards[len(shards)-1]) > 0 {
			shards, room = append(shards, nil), maxBytes
		}
		last := len(shards) - 1
		shards[last] = append(shards[last], t)
		room -= size
	}
	return shards
}
