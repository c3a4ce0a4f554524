package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training/rundir"
)

// describes reads the description of a model file, a run directory or the builtin model.
func describes(path string) (checkpoint.Description, error) {
	if path != "builtin" {
		return checkpoint.ReadDescription(path)
	}
	f, err := builtin.File()
	if err != nil {
		return checkpoint.Description{}, err
	}
	return checkpoint.ParseDescription(f.Metadata())
}

// otherFolder reports whether the error of a model in pixel space is about a directory that is meant to have one, and no other model.
func otherFolder(path string, err error) bool {
	st, serr := os.Stat(path)
	return serr == nil && st.IsDir() && !errors.Is(err, checkpoint.ErrNoSnapshot)
}

// openFile opens a model that describes can read.
func openFile(path string, dev torch.Device) (*checkpoint.File, error) {
	if path != "builtin" {
		return checkpoint.OpenFile(path, dev)
	}
	m, err := builtin.Open(dev)
	if err != nil {
		return nil, err
	}
	return m.File, nil
}

// noPixels reports whether the error of a model in pixel space is that the file or directory has none, and may be another model.
func noPixels(err error) bool {
	return errors.Is(err, checkpoint.ErrNoDescription) || errors.Is(err, checkpoint.ErrNoSnapshot) || errors.As(err, new(*safetensors.FormatError))
}

// tell passes notices on to note, which may be nil.
func tell(note func(string), notices ...string) {
	if note == nil {
		return
	}
	for _, n := range notices {
		note(n)
	}
}

// ofBest returns a notice if a model is the best snapshot of a run that was given by its directory.
func ofBest(given string, m *checkpoint.File) []string {
	if filepath.Base(m.Path) != rundir.BestName || given == m.Path {
		return nil
	}
	return []string{fmt.Sprintf("%s is a run: using its best snapshot, %s, of step %d", quote.Path(given), quote.Path(m.Path), m.Description.Step)}
}
