package captioned

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// maxConfig limits a dataset configuration, in bytes.
const maxConfig = 4 << 20

// config is what a dataset configuration of kohya's scripts says of one subset: the values of its own table come before those of
// its dataset, these before [general], and these before Options.
type config struct {
	sizes
	Settings
	batch        int
	skip         int    // images of at most so many pixels are left out
	extension    string // of caption files; "": those of captionExtensions
	imageDir     string
	metadataFile string
}

// findConfig lists the images that a dataset configuration names, in TOML or JSON.
func (s *Set) findConfig(file string, o Options) ([]part, error) {
	data, err := plainfile.Read(file, maxConfig)
	if err != nil {
		return nil, err
	}
	root, err := parseConfig(file, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(file), err)
	}
	r := configReader{Set: s, o: o, dir: filepath.Dir(file), unused: map[string]bool{}, over: map[string]bool{}}
	parts, err := r.read(root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(file), err)
	}
	if unused := slices.Sorted(maps.Keys(r.unused)); len(unused) > 0 {
		s.note("%s: enable_bucket is off, ignored: %s", quote.Path(file), strings.Join(unused, ", "))
	}
	if over := slices.Sorted(maps.Keys(r.over)); len(over) > 0 {
		s.note("%s takes precedence over the options given for %s", quote.Path(file), strings.Join(over, ", "))
	}
	return parts, nil
}

func parseConfig(file string, data []byte) (root map[string]any, err error) {
	if imagefile.Ext(file) == ".json" {
		if err := json.Unmarshal(data, &root); err != nil {
			return nil, fmt.Errorf("want a dataset configuration in JSON: %w", quote.Error(err))
		}
		return root, nil
	}
	err = toml.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &root)
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		row, column := bad.Position()
		return nil, fmt.Errorf("line %d, column %d: %w", row, column, quote.Error(err))
	}
	return root, quote.Error(err)
}

// configReader reads a configuration's tables.
type configReader struct {
	*Set
	o      Options
	dir    string          // of the configuration
	unused map[string]bool // keys of buckets where they are off
	over   map[string]bool // keys whose values are used in place of those in o
}

// overridden notes which of the options that were given have another value in a subset.
func (r *configReader) overridden(c config) {
	for key, differs := range map[string]bool{
		"enable_bucket": r.o.Buckets.Enable && !c.Enable, "flip_aug": r.o.Flip && !c.Flip, "random_crop": r.o.RandomCrop && !c.RandomCrop,
		"shuffle_caption": r.o.Shuffle && !c.Shuffle, "keep_tokens": r.o.KeepTokens > 0 && r.o.KeepTokens != c.KeepTokens,
		"caption_dropout_rate": r.o.Dropout > 0 && r.o.Dropout != c.Dropout, "class_tokens": r.o.ClassTokens != "" && r.o.ClassTokens != c.ClassTokens,
	} {
		if differs {
			r.over[key] = true
		}
	}
}

func (r *configReader) read(root map[string]any) ([]part, error) {
	for _, key := range slices.Sorted(maps.Keys(root)) {
		if key != "general" && key != "datasets" {
			return nil, unknownKey(key, "the configuration", []string{"general", "datasets"})
		}
	}
	general := config{sizes: sizes{r.o.Resolution, r.o.Resolution, r.o.Buckets}, Settings: r.o.Settings}
	if general.Lines == JoinLines {
		general.Lines = FirstLine // as kohya's scripts do
	}
	table, err := tableOf(root, "general")
	if err != nil {
		return nil, err
	}
	if err := general.apply(table, inGeneral); err != nil {
		return nil, fmt.Errorf("[general]: %w", err)
	}
	datasets, err := tablesOf(root, "datasets", "datasets")
	if err != nil {
		return nil, err
	}
	var parts []part
	for i, t := range datasets {
		more, err := r.dataset(general, t, i)
		if err != nil {
			return nil, fmt.Errorf("[[datasets]] %d: %w", i+1, err)
		}
		parts = append(parts, more...)
	}
	return parts, nil
}

// tableOf is the table of a key; nil if it is missing.
func tableOf(root map[string]any, key string) (map[string]any, error) {
	if root[key] == nil {
		return nil, nil
	}
	t, ok := root[key].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("want one table, [%s]", key) //quote: written in this file
	}
	return t, nil
}

// tablesOf are the tables of a key, of which there must be one.
func tablesOf(root map[string]any, key, as string) (tables []map[string]any, err error) {
	list, _ := root[key].([]any)
	for _, one := range list {
		t, ok := one.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("want tables, each [[%s]]", as) //quote: written in this file
		}
		tables = append(tables, t)
	}
	if len(tables) == 0 {
		return nil, fmt.Errorf("want at least one table [[%s]], got none", as) //quote: written in this file
	}
	return tables, nil
}

func (r *configReader) dataset(general config, table map[string]any, number int) ([]part, error) {
	c := general
	if err := c.apply(table, inDataset); err != nil {
		return nil, err
	}
	if c.batch > 0 {
		if r.batch > 0 && r.batch != c.batch {
			return nil, fmt.Errorf("batch_size: %d, and another dataset has %d: batches of one size are supported, give all datasets the same", c.batch, r.batch)
		}
		r.batch = c.batch
	}
	if !c.Enable {
		for key, given := range map[string]bool{"min_bucket_reso": c.Min != 0, "max_bucket_reso": c.Max != 0, "bucket_reso_steps": c.Step != 0, "bucket_no_upscale": c.NoUpscale} {
			if given {
				r.unused[key] = true
			}
		}
		c.Buckets = Buckets{}
	}
	if err := c.Buckets.defaults(); err != nil {
		return nil, err
	}
	subsets, err := tablesOf(table, "subsets", "datasets.subsets")
	if err != nil {
		return nil, err
	}
	var parts []part
	seen := map[string]bool{}
	for i, t := range subsets {
		x := c
		err := x.apply(t, inSubset)
		name := x.imageDir
		if x.metadataFile != "" {
			name = x.metadataFile
		}
		if err == nil && seen[name] {
			r.note("%s is listed twice in a dataset: used once", quote.Path(name))
			continue
		}
		seen[name] = true
		var p part
		if err == nil {
			p, err = r.subset(x)
		}
		if err != nil {
			return nil, fmt.Errorf("[[datasets.subsets]] %d: %w", i+1, err)
		}
		p.group = number
		parts = append(parts, p)
		r.overridden(x)
	}
	return parts, nil
}

func (r *configReader) subset(c config) (part, error) {
	if err := c.Settings.defaults(); err != nil {
		return part{}, err
	}
	if c.imageDir == "" && c.metadataFile == "" {
		return part{}, errors.New("want image_dir, a directory of images")
	}
	p := part{subset: subset{Settings: c.Settings, sizes: c.sizes, skip: c.skip}}
	dir, err := r.locate(c.imageDir)
	if err != nil {
		return p, fmt.Errorf("image_dir: %w", err)
	}
	if c.metadataFile != "" {
		if c.Regularization {
			return p, errors.New("is_reg: regularisation images are a directory, without metadata_file")
		}
		file, err := r.locate(c.metadataFile)
		if err != nil {
			return p, fmt.Errorf("metadata_file: %w", err)
		}
		p.name = filepath.Base(file)
		return p, r.findListed(&p, file, dir)
	}
	p.name = filepath.Base(filepath.Clean(dir))
	how := place{extensions: captionExtensions, column: r.o.Column}
	if c.extension != "" {
		how.extensions = []string{c.extension}
	}
	err = r.findImages(&p, dir, how)
	for i := range p.images {
		p.images[i].key = p.name + "/" + p.images[i].key
	}
	return p, err
}

// locate finds a path of a configuration: relative to the working directory, as kohya's scripts do, or else to the configuration's.
func (r *configReader) locate(path string) (string, error) {
	if path == "" || filepath.IsAbs(path) {
		return path, nil
	}
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		beside := filepath.Join(r.dir, path)
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
		return "", fmt.Errorf("%s: no such file or directory, in the working directory or in %s", quote.Path(path), quote.Path(r.dir))
	}
	return path, quote.Error(err)
}
