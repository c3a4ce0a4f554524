package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// Open opens a set by name or by path:
//
//   - emoji, the set in this package: 1,906 emoji at 32×32, by group;
//   - fashion-mnist, cifar10 and cifar100, looked for in o.Dir, in $XDG_DATA_HOME/onestep, and where packages put them;
//   - a folder of images, of class folders with images, of CIFAR's files, of IDX files, or of shards; with train and
//     test (or val) folders in it, the one that o asks for;
//   - an IDX file of images (labels are found beside it), a file of CIFAR-10 or CIFAR-100, binary or for Python, or the archive
//     that they come in, a .tar or .tar.gz shard, or a pattern such as "train-*.tar" for several.
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

// openPattern opens the shards that a pattern names.
func openPattern(spec string, paths []string, o Options) (*Set, error) {
	for _, p := range paths {
		if !isShard(p) {
			return nil, fmt.Errorf("%s: a pattern may name only .tar and .tar.gz shards, and it names %s", quote.Path(spec), quote.Path(p))
		}
	}
	return openShards(filepath.Base(spec), paths, o)
}

// Looked lists the sets that are looked for in Options.Dir.
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
	if err != nil && braces.MatchString(spec) {
		paths, err := expand(spec)
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
		return nil, fmt.Errorf("%s: no such file or folder, and not one of emoji, fashion-mnist, cifar10, cifar100", quote.Path(spec))
	}
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		return openFolder(spec, o)
	case st.Mode().IsRegular():
		return openFile(spec, o)
	}
	return nil, fmt.Errorf("%s: neither a file nor a folder", quote.Path(spec))
}

func openFile(path string, o Options) (*Set, error) {
	if isShard(path) {
		if v, err := cifarArchive(path); err != nil {
			return nil, err
		} else if v != nil {
			return v.openArchive(path, o)
		}
	}
	v, part := cifarFile(path)
	if v == nil && strings.EqualFold(filepath.Ext(path), ".bin") { // under a name of one's own
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
	if isShard(path) {
		return openShards(filepath.Base(path), []string{path}, o)
	}
	if isIDX, err := looksLikeIDX(path); err != nil || isIDX {
		if err != nil {
			return nil, err
		}
		return openIDX(filepath.Base(path), path, nil, o)
	}
	if isImage(path) {
		return nil, fmt.Errorf("%s is an image: give the folder that holds it", quote.Path(path))
	}
	if slices.Contains(packedExtensions, strings.ToLower(filepath.Ext(path))) {
		return nil, repack(path)
	}
	return nil, fmt.Errorf("%s: want a folder, an IDX file, a file of CIFAR-10 or CIFAR-100, or a .tar or .tar.gz shard", quote.Path(path))
}

// openFolder looks at what a folder holds.
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
		case hidden(name):
		case isDir(path, e):
			folders[name] = path
		case isImage(name):
			images++
		case idxFile(name, false) || idxFile(name, true):
			idx = append(idx, path)
		case isShard(name):
			shards = append(shards, path)
		default:
			v, _ := cifarFile(path)
			if v != nil && version != nil && v != version {
				return nil, fmt.Errorf("%s holds files of %s and of %s: give a folder that holds one of them", quote.Path(dir), version.folder, v.folder)
			}
			version = cmp.Or(version, v)
		}
	}
	if shards != nil && images > 0 {
		return nil, fmt.Errorf("%s holds both shards and images: give a folder that holds only what is meant", quote.Path(dir))
	}
	name := filepath.Base(filepath.Clean(dir))
	switch {
	case version != nil:
		return version.openFolder(dir, o)
	case idx != nil:
		if idx = slices.DeleteFunc(idx, func(p string) bool { return !idxFile(base(p), o.Test) }); len(idx) == 0 {
			return nil, noSplit(dir, o)
		}
		// The same file may be there gzipped and plain.
		if one := strings.TrimSuffix(idx[0], ".gz"); slices.ContainsFunc(idx, func(p string) bool { return strings.TrimSuffix(p, ".gz") != one }) {
			return nil, fmt.Errorf("%s holds several IDX files of images: give one of them, such as %s", quote.Path(dir), quote.Path(idx[0]))
		}
		return openIDX(name, idx[0], nil, o)
	case shards != nil:
		for _, file := range shards {
			v := cifarNamed(base(file))
			if v != nil && len(shards) > 1 {
				return nil, fmt.Errorf("%s holds several archives: give one of them, such as %s", quote.Path(dir), quote.Path(file))
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

// splitFolder finds a split among folders, if they are splits and not classes: there must be a pair.
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

// withoutSplit is for what has been chosen by its split.
func withoutSplit(o Options) Options { o.Test = false; return o }

func noSplit(path string, o Options) error {
	if o.Test {
		return fmt.Errorf("%s has no test split", quote.Path(path))
	}
	return fmt.Errorf("%s has only a test split", quote.Path(path))
}

// isDir follows symbolic links.
func isDir(path string, e os.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir()
	}
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func base(path string) string { return strings.ToLower(filepath.Base(path)) }

// dataDirs are the places where named sets are looked for.
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

// readExactly reads n bytes and no more than are there: its buffer grows with what comes, because n is only a promise.
func readExactly(r io.Reader, n int64) ([]byte, error) {
	data := make([]byte, 0, min(n, 1<<20))
	for int64(len(data)) < n {
		if len(data) == cap(data) {
			grown := make([]byte, len(data), min(n, 2*int64(cap(data))))
			copy(grown, data)
			data = grown
		}
		k, err := io.ReadFull(r, data[len(data):cap(data)])
		data = data[:len(data)+k]
		if err != nil {
			return data, noEOF(err)
		}
	}
	return data, nil
}

// noEOF is an error of a read that should have had more.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
