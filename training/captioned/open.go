package captioned

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/archive"
	"github.com/onestep-go/onestep/training/internal/imagefile"
	"github.com/onestep-go/onestep/training/internal/webdataset"
)

// Open opens a set of images with captions:
//
//   - a directory of images, at any depth, with the caption of cat.jpg in cat.txt or cat.caption;
//   - a directory with metadata.jsonl or metadata.csv (Hugging Face imagefolder), with a column file_name and a column text, caption or
//     prompt, which in JSON may be a list of captions;
//   - a directory with subdirectories N_name (kohya's layout): N repeats of its images, and name as the caption of images without one;
//   - WebDataset shards, .tar or .tar.gz: a file, a directory, a pattern such as "train-{000..127}.tar" or "train-*.tar", http:// or
//     https:// URLs (patterns in braces allowed), which are downloaded to o.Cache and kept, or pipe:COMMAND, a shell command that writes a
//     shard to its standard output; captions are in .txt, .text or .caption, or in the field text, caption or prompt of .json;
//   - a dataset configuration of kohya's scripts, a .toml or .json file with [general], [[datasets]] and [[datasets.subsets]]. Its values
//     take precedence over o. An unknown or unsupported key is an error.
//
// All images are read once, for their sizes and hashes. The set must be closed.
func Open(ctx context.Context, spec string, o Options) (_ *Set, err error) {
	fail := func(err error) (*Set, error) { return nil, &Error{err} }
	if err := o.defaults(); err != nil {
		return fail(err)
	}
	s := &Set{name: spec, prior: o.PriorWeight}
	s.summary.LeftOut = map[string]int{}
	parts, err := s.find(ctx, spec, o)
	if err == nil && o.Prior != "" {
		if parts, err = s.withPrior(parts, o); err != nil {
			err = &PriorError{err}
		}
	}
	if err == nil {
		err = s.build(ctx, parts, o)
	}
	if err != nil {
		return fail(errors.Join(err, s.Close()))
	}
	return s, nil
}

// Error is an error of a set's images, captions or options. A program that names the data itself takes Err.
type Error struct{ Err error }

// Error returns the message, which begins with data.
func (e *Error) Error() string { return "data: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// PriorError is the error of regularisation images.
type PriorError struct{ Err error }

// Error returns the cause's message.
func (e *PriorError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PriorError) Unwrap() error { return e.Err }

// part is a subset that was found, before its images have been looked at.
type part struct {
	subset
	images []found
	group  int // of subsets that regularisation images are balanced in
}

// found is an image with its captions.
type found struct {
	key string
	content
	captions []string
	dropped  bool  // the caption has lines that are not used
	err      error // of its captions
}

// find lists the images that a spec names.
func (s *Set) find(ctx context.Context, spec string, o Options) ([]part, error) {
	if spec == "" {
		return nil, errors.New("want a path, got nothing")
	}
	if isRemote(spec) {
		s.name = spec
		if isURL(spec) {
			s.name = path.Base(strings.SplitN(spec, "?", 2)[0]) // without a password or a signature
		}
		return s.findRemote(ctx, spec, o)
	}
	st, err := os.Stat(spec)
	if errors.Is(err, fs.ErrNotExist) {
		paths, err := patternOf(spec)
		if err != nil {
			return nil, err
		}
		if paths != nil {
			s.name = filepath.Base(spec)
			return s.findShards(webdataset.Files(paths), o)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: no such file or directory", quote.Path(spec))
	case err != nil:
		return nil, quote.Error(err)
	case imagefile.Ext(spec) == ".toml" || imagefile.Ext(spec) == ".json":
		return s.findConfig(spec, o)
	case st.IsDir():
		s.name = filepath.Base(filepath.Clean(spec))
		paths, err := shardsIn(spec)
		if err != nil {
			return nil, err
		}
		if paths != nil {
			return s.findShards(webdataset.Files(paths), o)
		}
		return s.findDirectory(spec, o)
	case archive.IsShard(spec):
		s.name = filepath.Base(spec)
		return s.findShards(webdataset.Files([]string{spec}), o)
	case imagefile.Is(spec):
		return nil, fmt.Errorf("%s is an image: give the directory that holds it", quote.Path(spec))
	case imagefile.IsPacked(spec):
		return nil, imagefile.Repack(spec)
	}
	return nil, fmt.Errorf("%s: want a directory of images, a .tar or .tar.gz shard, or a dataset configuration (.toml)", quote.Path(spec))
}

// withPrior adds regularisation images to the parts of a set.
func (s *Set) withPrior(parts []part, o Options) ([]part, error) {
	for i := range parts {
		if parts[i].Regularization {
			return nil, fmt.Errorf("%s has regularisation images already: give no others", quote.Path(s.name))
		}
		if parts[i].group != parts[0].group {
			return nil, fmt.Errorf("%s has several datasets: give the regularisation images in it (is_reg)", quote.Path(s.name))
		}
	}
	st, err := os.Stat(o.Prior)
	if err != nil {
		return nil, quote.Error(err)
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("%s: want a directory of regularisation images", quote.Path(o.Prior))
	}
	prior, err := s.findDirectory(o.Prior, o)
	for i := range prior {
		prior[i].Regularization, prior[i].group = true, parts[0].group
	}
	return append(parts, prior...), err
}

// whole is the subset of data that has only one.
func (o Options) whole() subset {
	return subset{Settings: o.Settings, sizes: sizes{o.Resolution, o.Resolution, o.Buckets}}
}
