package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/archive"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// Open opens a dataset by name or path:
//
//   - emoji, the embedded dataset: 1,906 emoji at 32×32, whose classes are groups of emoji;
//   - fashion-mnist, cifar10 and cifar100, which are searched for in o.Dir, in $XDG_DATA_HOME/onestep, and in datasets in
//     $XDG_DATA_DIRS, where packages install them;
//   - a directory of images, of one subdirectory of images per class, of CIFAR files, of IDX files, or of shards; if it has
//     subdirectories train and test (or val), the one for the split in o;
//   - an IDX file of images (its labels are read from the same directory), a file of CIFAR-10 or CIFAR-100, binary or Python version,
//     or its archive, a .tar or .tar.gz shard, or a pattern for several shards, such as "train-*.tar" or "train-{000..127}.tar".
func Open(spec string, o Options) (*Set, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	s, err := open(spec, o)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return s, nil
}

// openPattern opens the shards that match a pattern.
func openPattern(spec string, paths []string, o Options) (*Set, error) {
	for _, p := range paths {
		if !archive.IsShard(p) {
			return nil, fmt.Errorf("%s: want a pattern that matches only .tar and .tar.gz shards; it matches %s", quote.Path(spec), quote.Path(p))
		}
	}
	return openShards(filepath.Base(spec), paths, o)
}

// Looked lists the names of the datasets that [Open] searches for in Options.Dir and the default directories.
func Looked() []string { return []string{"fashion-mnist", "cifar10", "cifar100"} }

func open(spec string, o Options) (*Set, error) {
	switch spec {
	case "":
		return nil, errors.New("want emoji, fashion-mnist, cifar10, cifar100 or a path, got nothing")
	case "emoji":
		return openEmoji(o)
	case "fashion-mnist":
		return openFashion(o)
	case "cifar10", "cifar100":
		return openCIFAR(spec, o)
	}
	st, err := os.Stat(spec)
	if err != nil && archive.IsPattern(spec) {
		paths, err := archive.Expand(spec)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(spec), err)
		}
		return openPattern(spec, paths, o)
	}
	if err != nil && strings.ContainsAny(spec, "*?[") {
		paths, err := filepath.Glob(spec)
		if err == nil && len(paths) == 0 {
			err = errors.New("no such files")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(spec), err)
		}
		return openPattern(spec, paths, o)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no such file or directory, and not one of emoji, fashion-mnist, cifar10, cifar100", quote.Path(spec))
	}
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		return openFolder(spec, o)
	case st.Mode().IsRegular():
		return openFile(spec, o)
	}
	return nil, fmt.Errorf("%s: neither a regular file nor a directory", quote.Path(spec))
}

func openFile(path string, o Options) (*Set, error) {
	if archive.IsShard(path) {
		if v, err := cifarArchive(path); err != nil {
			return nil, err
		} else if v != nil {
			return v.openArchive(path, o)
		}
	}
	v, part := cifarFile(path)
	if v == nil && strings.EqualFold(filepath.Ext(path), ".bin") { // a renamed file
		v, part = binaryCIFAR(path), o.wanted()
	}
	if v != nil {
		if o.Test && part != test {
			return nil, noSplit(path, o)
		}
		return v.openFiles([]string{path}, o)
	}
	if name := base(path); o.Test && !idxFile(name, true) && !hasPrefix(name, testNames) {
		return nil, noSplit(path, o)
	}
	if archive.IsShard(path) {
		return openShards(filepath.Base(path), []string{path}, o)
	}
	if isIDX, err := looksLikeIDX(path); err != nil || isIDX {
		if err != nil {
			return nil, err
		}
		return openIDX(filepath.Base(path), path, nil, o)
	}
	if imagefile.Is(path) {
		return nil, fmt.Errorf("%s is an image: pass its directory", quote.Path(path))
	}
	if imagefile.IsPacked(path) {
		return nil, imagefile.Repack(path)
	}
	return nil, fmt.Errorf("%s: want a directory, an IDX file, a file of CIFAR-10 or CIFAR-100, or a .tar or .tar.gz shard", quote.Path(path))
}

// openFolder opens the dataset in a directory, whose format it detects.
func openFolder(dir string, o Options) (*Set, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var idx, shards []string
	var images int
	var version *cifar
	folders := map[string]string{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch name := strings.ToLower(e.Name()); {
		case imagefile.Hidden(name):
		case imagefile.IsDir(path, e):
			folders[name] = path
		case imagefile.Is(name):
			images++
		case idxFile(name, false) || idxFile(name, true):
			idx = append(idx, path)
		case archive.IsShard(name):
			shards = append(shards, path)
		default:
			v, _ := cifarFile(path)
			if v != nil && version != nil && v != version {
				return nil, fmt.Errorf("%s has files of both %s and %s: pass a directory with one of them", quote.Path(dir), version.folder, v.folder)
			}
			version = cmp.Or(version, v)
		}
	}
	if shards != nil && images > 0 {
		return nil, fmt.Errorf("%s has both shards and images: pass a directory with only one of the two", quote.Path(dir))
	}
	name := filepath.Base(filepath.Clean(dir))
	switch {
	case version != nil:
		return version.openFolder(dir, o)
	case idx != nil:
		if idx = slices.DeleteFunc(idx, func(p string) bool { return !idxFile(base(p), o.Test) }); len(idx) == 0 {
			return nil, noSplit(dir, o)
		}
		// The same file may be there both gzipped and not.
		if one := strings.TrimSuffix(idx[0], ".gz"); slices.ContainsFunc(idx, func(p string) bool { return strings.TrimSuffix(p, ".gz") != one }) {
			return nil, fmt.Errorf("%s has several IDX files of images: pass one of them, such as %s", quote.Path(dir), quote.Path(idx[0]))
		}
		return openIDX(name, idx[0], nil, o)
	case shards != nil:
		for _, file := range shards {
			v := cifarNamed(base(file))
			if v != nil && len(shards) > 1 {
				return nil, fmt.Errorf("%s has several archives: pass one of them, such as %s", quote.Path(dir), quote.Path(file))
			} else if v != nil {
				return v.openArchive(file, o)
			}
		}
		of := func(names []string) []string {
			return slices.DeleteFunc(slices.Clone(shards), func(p string) bool { return !hasPrefix(base(p), names) })
		}
		train, test := of([]string{"train"}), of(testNames)
		switch {
		case o.Test && len(test) == 0:
			return nil, noSplit(dir, o)
		case o.Test:
			shards = test
		case len(train) > 0:
			shards = train
		}
		return openShards(name, shards, o)
	}
	for _, v := range cifars {
		if sub, ok := folders[v.folder]; ok && images == 0 {
			return openFolder(sub, o)
		}
	}
	if sub, ok := splitFolder(folders, o); ok {
		return openFolder(sub, withoutSplit(o))
	}
	if o.Test {
		return nil, noSplit(dir, o)
	}
	return openImages(name, dir, o)
}

var testNames = []string{"test", "val"}

func hasPrefix(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// splitFolder returns the subdirectory of a split. Subdirectories are splits, not classes, only if there are both train and test or val.
func splitFolder(folders map[string]string, o Options) (string, bool) {
	train, ok := folders["train"]
	for _, n := range testNames {
		if test, found := folders[n]; found && ok {
			if o.Test {
				return test, true
			}
			return train, true
		}
	}
	return "", false
}

// withoutSplit returns options for a directory that was already chosen by its split.
func withoutSplit(o Options) Options { o.Test = false; return o }

func noSplit(path string, o Options) error {
	if o.Test {
		return fmt.Errorf("%s has no test split", quote.Path(path))
	}
	return fmt.Errorf("%s has only a test split", quote.Path(path))
}

func base(path string) string { return strings.ToLower(filepath.Base(path)) }

// dataDirs are the directories that are searched for named datasets.
func dataDirs(o Options) []string {
	var dirs []string
	if o.Dir != "" {
		dirs = append(dirs, o.Dir)
	}
	home, _ := os.UserHomeDir()
	if data := os.Getenv("XDG_DATA_HOME"); data != "" {
		dirs = append(dirs, filepath.Join(data, "onestep"))
	} else if home != "" {
		dirs = append(dirs, filepath.Join(home, ".local", "share", "onestep"))
	}
	system := os.Getenv("XDG_DATA_DIRS")
	if system == "" {
		system = "/usr/local/share:/usr/share"
	}
	for _, d := range filepath.SplitList(system) {
		dirs = append(dirs, filepath.Join(d, "datasets"))
	}
	return dirs
}
