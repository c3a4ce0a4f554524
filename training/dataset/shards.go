package dataset

import (
	"errors"
	"io"

	"github.com/onestep-go/onestep/training/internal/webdataset"
)

// shards is the samples of WebDataset shards.
type shards struct{ *webdataset.Shards }

func openShards(name string, paths []string, o Options) (*Set, error) {
	x, err := webdataset.Open(name, webdataset.Files(paths))
	if err != nil {
		return nil, err
	}
	classes, err := x.Classes()
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	set, err := newSet(name, shards{x}, classes, o)
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return set, nil
}

func (s shards) label(i int) int               { return s.Label(i) }
func (s shards) name(i int) string             { return s.Name(i) }
func (s shards) identify(w io.Writer) error    { return s.Identify(w) }
func (s shards) encoded(i int) ([]byte, error) { return s.Encoded(i) }
func (s shards) caption(i int) (string, error) { return s.Caption(i) }
