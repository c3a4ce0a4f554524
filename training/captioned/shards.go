package captioned

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/archive"
	"github.com/onestep-go/onestep/training/internal/imagefile"
	"github.com/onestep-go/onestep/training/internal/webdataset"
)

// sample is an image in a shard.
type sample struct {
	*webdataset.Shards
	i int
}

func (x sample) encoded() ([]byte, error) { return x.Encoded(x.i) }
func (x sample) name() string             { return x.Name(x.i) }

// isRemote reports whether a spec is fetched: an address, or a command.
func isRemote(spec string) bool { return isURL(spec) || strings.HasPrefix(spec, pipe) }

// patternOf lists the shards that a pattern in braces or of a shell names; nil if it is no pattern.
func patternOf(spec string) ([]string, error) {
	var all []string
	paths := []string{spec}
	if archive.IsPattern(spec) {
		var err error
		if paths, err = archive.Expand(spec); err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(spec), err)
		}
	} else if !strings.ContainsAny(spec, "*?[") {
		return nil, nil
	}
	for _, p := range paths {
		found := []string{p}
		if strings.ContainsAny(p, "*?[") {
			var err error
			if found, err = filepath.Glob(p); err != nil {
				return nil, fmt.Errorf("%s: %w", quote.Path(p), err)
			}
			if len(found) == 0 {
				return nil, fmt.Errorf("%s: no such files", quote.Path(p))
			}
		}
		all = append(all, found...)
	}
	for _, p := range all {
		if !archive.IsShard(p) {
			return nil, fmt.Errorf("%s: a pattern may name only .tar and .tar.gz shards, and it names %s", quote.Path(spec), quote.Path(p))
		}
	}
	return all, nil
}

// shardsIn lists the shards of a directory that holds shards; nil if it holds none.
func shardsIn(dir string) ([]string, error) {
	list, err := imagefile.List(dir, false)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, name := range list.Rest {
		if archive.IsShard(name) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	if len(paths) > 0 && len(list.Images) > 0 {
		return nil, fmt.Errorf("%s has both shards and images: give a directory with one of them", quote.Path(dir))
	}
	return paths, nil
}

// findRemote fetches shards and lists their samples.
func (s *Set) findRemote(ctx context.Context, spec string, o Options) ([]part, error) {
	specs, err := archive.Expand(spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(spec), err)
	}
	f, err := newFetcher(o)
	if err != nil {
		return nil, err
	}
	var files []webdataset.File
	for _, one := range specs {
		line, isCommand := strings.CutPrefix(one, pipe)
		var path string
		name := quote.Text(one)
		if isCommand {
			path, err = f.command(ctx, line)
			// An open file, or what is kept of a gzipped one, needs no name.
			defer os.Remove(path)
		} else {
			path, name, err = f.file(ctx, one)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, webdataset.File{Path: path, Name: name})
	}
	if f.reused > 0 {
		s.note("%s of %d downloaded earlier, from %s", plural.N(f.reused, "shard"), len(files), quote.Path(f.dir))
	}
	if f.fetched > 0 && isURL(spec) {
		s.note("%s downloaded to %s and kept", plural.N(f.fetched, "shard"), quote.Path(f.dir))
	}
	return s.findShards(files, o)
}

// findShards lists the samples of shards.
func (s *Set) findShards(files []webdataset.File, o Options) ([]part, error) {
	shards, err := webdataset.Open(s.name, files)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, shards.Close)
	for ext, n := range shards.LeftOut {
		s.summary.LeftOut[ext] += n
	}
	p := part{subset: o.whole()}
	p.name = s.name
	for i := range shards.Len() {
		f := found{key: shards.Key(i), content: sample{shards, i}}
		text, fields, err := shards.Texts(i)
		if err != nil {
			return nil, err
		}
		if text != nil {
			f.captions, f.dropped, f.err = p.captions(text)
		}
		if f.captions == nil && f.err == nil && fields != nil {
			f.captions, f.err = captionsIn(fields, o.Column)
		}
		p.images = append(p.images, f)
	}
	if len(p.images) == 0 {
		name := s.name
		if len(files) == 1 {
			name = files[0].Name
		}
		return nil, fmt.Errorf("%s: no samples with an image (%s)", quote.Path(name), strings.Join(imagefile.Extensions, ", "))
	}
	return []part{p}, nil
}

// captionsIn are the captions in a sample's JSON.
func captionsIn(data []byte, column string) ([]string, error) {
	var row map[string]any
	if err := json.Unmarshal(data, &row); err != nil {
		return nil, fmt.Errorf("its .json: %w", quote.Error(err))
	}
	columns := captionColumns
	if column != "" {
		columns = []string{column}
	}
	i := slices.IndexFunc(columns, func(name string) bool { return row[name] != nil })
	if i < 0 {
		return nil, nil
	}
	captions, err := textsOf(row[columns[i]])
	if err != nil {
		return nil, fmt.Errorf("%s in its .json: %w", quote.Text(columns[i]), err)
	}
	return captions, nil
}
