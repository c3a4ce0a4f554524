package component

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/saved"
)

// File is a source of weights in one or more open files.
type File interface {
	nn.Source
	Close() error
}

// Open opens a file of weights: safetensors, an index of shards and the shards that it names, or a file of torch.save.
func Open(path string) (File, error) {
	switch {
	case strings.HasSuffix(path, ".json"):
		return openShards(path)
	case saved.Named(path):
		return saved.Open(path)
	default:
		return torch.OpenWeights(path)
	}
}

// Paths returns the paths of the files of weights that are open: path, or those of shards.
func Paths(path string, f File) []string {
	if s, ok := f.(*Shards); ok {
		return s.paths
	}
	return []string{path}
}

// Shards are several files that are read as one source.
type Shards struct {
	files []File
	paths []string        // of files
	by    map[string]File // by tensor name
}

// maxIndex is the limit for an index of shards, in bytes; real ones are far smaller.
const maxIndex = 16 << 20

// maxShards is far above the number of shards of the largest models.
const maxShards = 1000

// openShards reads an index and opens the files that it names, in the same directory. Unlike package safetensors, it reads variants and
// pickles.
func openShards(path string) (_ *Shards, err error) {
	data, err := plainfile.Read(path, maxIndex)
	if err != nil {
		return nil, err
	}
	weights, err := parseIndex(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	all := &Shards{by: map[string]File{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, all.Close())
		}
	}()
	for _, name := range slices.Compact(slices.Sorted(maps.Values(weights))) {
		at := filepath.Join(filepath.Dir(path), name)
		f, err := Open(at)
		if err != nil {
			return nil, fmt.Errorf("%s: shard: %w", quote.Path(path), err)
		}
		all.files, all.paths = append(all.files, f), append(all.paths, at)
		for tensor := range f.Names() {
			switch said, ok := weights[tensor]; {
			case !ok:
				return nil, fmt.Errorf("%s: tensor %s is in %s, but not in the index", quote.Path(path), quote.Quoted(tensor), quote.Text(name))
			case said != name:
				return nil, fmt.Errorf("%s: tensor %s is in %s, but the index says %s", quote.Path(path), quote.Quoted(tensor), quote.Text(name), quote.Text(said))
			}
			all.by[tensor] = f
		}
	}
	for _, tensor := range slices.Sorted(maps.Keys(weights)) {
		if all.by[tensor] == nil {
			return nil, fmt.Errorf("%s: tensor %s is not in %s, but the index says so", quote.Path(path), quote.Quoted(tensor), quote.Text(weights[tensor]))
		}
	}
	return all, nil
}

// parseIndex returns the file of each tensor: {"metadata": …, "weight_map": {"tensor": "file", …}}.
func parseIndex(data []byte) (map[string]string, error) {
	var index struct {
		Weights map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("want an index of shards: %w", quote.Error(err))
	}
	if len(index.Weights) == 0 {
		return nil, errors.New("want an index of shards: weight_map is missing or empty")
	}
	names := map[string]bool{}
	for tensor, name := range index.Weights {
		if strings.ContainsAny(name, "/\\\x00") || filepath.Ext(name) == "" || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".json") {
			return nil, fmt.Errorf("tensor %s: want the name of a file in the directory of the index, got %s", quote.Quoted(tensor), quote.Quoted(name))
		}
		names[name] = true
	}
	if len(names) > maxShards {
		return nil, fmt.Errorf("it names %d files: want at most %d", len(names), maxShards)
	}
	return index.Weights, nil
}

// Info implements nn.Source.
func (a *Shards) Info(name string) ([]int, torch.DType, bool) {
	if f := a.by[name]; f != nil {
		return f.Info(name)
	}
	return nil, 0, false
}

// Names implements nn.Source.
func (a *Shards) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, f := range a.files {
			for name := range f.Names() {
				if !yield(name) {
					return
				}
			}
		}
	}
}

// Get implements nn.Source.
func (a *Shards) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	if f := a.by[name]; f != nil {
		return f.Get(s, name)
	}
	return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
}

// Release implements nn.Source.
func (a *Shards) Release(name string) {
	if f := a.by[name]; f != nil {
		f.Release(name)
	}
}

// File returns the file that has a tensor, or nil.
func (a *Shards) File(name string) File { return a.by[name] }

// Close closes the files.
func (a *Shards) Close() error {
	var err error
	for _, f := range a.files {
		err = errors.Join(err, f.Close())
	}
	return err
}
