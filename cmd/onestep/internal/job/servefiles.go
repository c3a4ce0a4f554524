package job

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/sampling/generate"
)

// modelFiles are the files of a model that a server opens, as they were when it was last opened.
type modelFiles struct {
	path string

	mu sync.Mutex
	of map[string]os.FileInfo
}

// mostFiles is how many files of a directory are looked at; models have a few dozen.
const mostFiles = 1000

// modelKinds are the extensions of weights and configurations.
var modelKinds = []string{".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json"}

// filesOf finds the files of a model.
func filesOf(path string) (*modelFiles, error) {
	m := &modelFiles{path: path}
	return m, m.look()
}

// look remembers the files as they are.
func (m *modelFiles) look() error {
	if m.path == "builtin" { // it is in the program
		return nil
	}
	root, err := filepath.EvalSymlinks(m.path)
	if err != nil {
		return quote.Error(err)
	}
	of := map[string]os.FileInfo{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return nil
		case len(of) == mostFiles:
			return fs.SkipAll
		}
		if path != root && !slices.Contains(modelKinds, filepath.Ext(path)) {
			return nil // a text about the model, a log
		}
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() { // a link is that to which it leads
			of[path] = st
		}
		return nil
	})
	if err != nil {
		return quote.Error(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of = of
	return nil
}

// before returns a function that opens the model after a look at its files.
func (m *modelFiles) before(open func() (*generate.Model, error)) func() (*generate.Model, error) {
	return func() (*generate.Model, error) {
		if err := m.look(); err != nil {
			return nil, err
		}
		return open()
	}
}

// there returns an error if a file has gone.
func (m *modelFiles) there() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(m.of)) {
		if _, err := os.Stat(path); err != nil {
			return quote.Error(err)
		}
	}
	return nil
}

// changed reports whether a file has another size or time than when the model was opened, or is another one. One that has gone is as it was: its data is
// there while it is open.
func (m *modelFiles) changed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, before := range m.of {
		if now, err := os.Stat(path); err == nil && (!os.SameFile(before, now) || before.Size() != now.Size() || !before.ModTime().Equal(now.ModTime())) {
			return true
		}
	}
	return false
}
