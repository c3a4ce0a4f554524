package safetensors

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/internal/quote"
)

const maxIndexDepth = 32 // nesting of an index's values outside weight_map

// openIndex opens the shards that an index names as one set.
func openIndex(path string) (_ *File, err error) {
	m, err := mapFile(path)
	if err != nil {
		return nil, err
	}
	weights, err := parseIndex(m)
	if err != nil {
		err = &FormatError{Path: path, Msg: "index: " + err.Error()}
	}
	if err := errors.Join(err, unix.Munmap(m)); err != nil {
		return nil, err
	}

	f := &File{path: path, metadata: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	conflicts := map[string]bool{}
	shards := slices.Compact(slices.Sorted(maps.Values(weights)))
	for _, shard := range shards {
		file := filepath.Join(filepath.Dir(path), shard)
		m, err := mapFile(file)
		if err != nil {
			return nil, fmt.Errorf("%s: shard: %w", quote.Path(path), err)
		}
		f.maps = append(f.maps, m)
		tensors, metadata, err := parse(file, m)
		if err != nil {
			return nil, &FormatError{Path: file, Msg: err.Error()}
		}
		f.tensors = append(f.tensors, tensors...)
		for k, v := range metadata {
			if old, ok := f.metadata[k]; ok && old != v {
				conflicts[k] = true
			}
			f.metadata[k] = v
		}
	}
	for k := range conflicts {
		delete(f.metadata, k)
	}
	if err := f.index(); err != nil {
		return nil, err
	}
	if err := f.matches(weights); err != nil {
		return nil, &FormatError{Path: path, Msg: err.Error()}
	}
	return f, nil
}

// matches checks that the index and the shards name the same tensors.
func (f *File) matches(weights map[string]string) error {
	var wrong []string
	for _, t := range f.tensors {
		if shard, ok := weights[t.Name]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s is in %s, but not in the index", quote.Quoted(t.Name), quote.Text(filepath.Base(t.Path))))
		} else if shard != filepath.Base(t.Path) {
			wrong = append(wrong, fmt.Sprintf("%s is in %s, the index says %s", quote.Quoted(t.Name), quote.Text(filepath.Base(t.Path)), quote.Text(shard)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if _, ok := f.byName[name]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s is not in %s", quote.Quoted(name), quote.Text(weights[name])))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	const most = 8
	more := ""
	if len(wrong) > most {
		wrong, more = wrong[:most], fmt.Sprintf("; and %d more", len(wrong)-most)
	}
	return fmt.Errorf("index and shards differ: %s%s", strings.Join(wrong, "; "), more)
}

// parseIndex reads {"metadata": ..., "weight_map": {"tensor name": "file name", ...}}.
func parseIndex(b []byte) (map[string]string, error) {
	if what := foreign(b); what != "" && !slices.Contains([]string{"json", "text", "empty"}, filetype.Of(b).ID) {
		return nil, errors.New(what)
	}
	if len(b) > maxHeader {
		return nil, fmt.Errorf("it is %d bytes long: want at most %d", len(b), maxHeader)
	}
	if !utf8.Valid(b) {
		return nil, errors.New("it is not UTF-8")
	}
	s := scanner{b: b}
	var weights map[string]string
	files := map[string]string{} // one copy of each file name
	err := s.object("an object", func(key []byte) error {
		if string(key) != "weight_map" {
			return s.skip(maxIndexDepth)
		}
		if weights != nil {
			return s.errorf("weight_map occurs twice")
		}
		weights = map[string]string{}
		return s.object("an object as weight_map", func(key []byte) error {
			name := string(key)
			if _, ok := weights[name]; ok {
				return s.errorf("tensor %s occurs twice", quote.Quoted(name))
			}
			v, err := s.str("a file name as a string")
			if err != nil {
				return err
			}
			file, ok := files[string(v)]
			if !ok {
				file = string(v)
				if err := checkShard(file); err != nil {
					return fmt.Errorf("tensor %s: %w", quote.Quoted(name), err)
				}
				files[file] = file
			}
			weights[name] = file
			return nil
		})
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && len(weights) == 0 {
		err = errors.New("weight_map is missing or empty")
	}
	if err != nil {
		return nil, err
	}
	return weights, nil
}

// checkShard refuses names of files outside the index's directory.
func checkShard(name string) error {
	if strings.ContainsAny(name, "/\\\x00") || !strings.HasSuffix(name, suffix) || name == suffix {
		return fmt.Errorf("shard %s: want the name of a %s file in the index's directory", quote.Quoted(name), suffix)
	}
	return nil
}
