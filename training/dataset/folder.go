package dataset

import (
	"errors"
	"fmt"
	"image"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var imageExtensions = []string{".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"}

func isImage(name string) bool {
	return slices.Contains(imageExtensions, strings.ToLower(filepath.Ext(name)))
}

// folder is image files; those in subfolders have the subfolder as their class.
type folder struct {
	dir     string
	files   []string // relative to dir, sorted
	labels  []int    // nil: none
	classes []string
	c, h, w int
}

func openImages(dir string, o Options) (Dataset, error) {
	d := &folder{dir: dir, c: o.Channels, h: o.Resolution, w: o.Resolution}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") && path != dir {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !e.IsDir() && isImage(e.Name()) {
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			d.files = append(d.files, rel)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if d.files == nil {
		return nil, fmt.Errorf("%s: no images (%s), CIFAR-10 binaries or shards in it", dir, strings.Join(imageExtensions, ", "))
	}
	slices.Sort(d.files)
	classOf := func(f string) string { return strings.SplitN(filepath.ToSlash(f), "/", 2)[0] }
	inFolders := !slices.ContainsFunc(d.files, func(f string) bool { return filepath.Dir(f) == "." })
	if inFolders {
		for _, f := range d.files {
			if c := classOf(f); len(d.classes) == 0 || d.classes[len(d.classes)-1] != c {
				if i := slices.Index(d.classes, c); i < 0 {
					d.classes = append(d.classes, c)
				}
			}
			d.labels = append(d.labels, slices.Index(d.classes, classOf(f)))
		}
	}
	if d.c == 0 {
		d.c = 3
	}
	if d.h == 0 {
		cfg, err := configOf(filepath.Join(dir, d.files[0]))
		if err != nil {
			return nil, &CorruptError{filepath.Join(dir, d.files[0]), fmt.Errorf("%w (its size would be the set's: give a resolution)", err)}
		}
		d.h, d.w = cfg.Height, cfg.Width
		if d.h > 4096 || d.w > 4096 {
			return nil, fmt.Errorf("%s has %d×%d pixels: give a resolution", d.files[0], d.w, d.h)
		}
	}
	return d, nil
}

func configOf(path string) (image.Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return image.Config{}, err
	}
	defer f.Close()
	cfg, _, err := image.DecodeConfig(f)
	return cfg, err
}

func (d *folder) Name() string           { return filepath.Base(d.dir) }
func (d *folder) Len() int               { return len(d.files) }
func (d *folder) Shape() (int, int, int) { return d.c, d.h, d.w }
func (d *folder) Classes() []string      { return d.classes }

func (d *folder) Read(i int, dst []byte) (int, error) {
	path := filepath.Join(d.dir, d.files[i])
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	data, err := readLimited(f, maxImageBytes)
	if err == nil {
		data, err = decode(data, d.c, d.h, d.w)
	}
	if err != nil {
		var path2 *fs.PathError
		if errors.As(err, &path2) {
			return 0, err
		}
		return 0, &CorruptError{path, err}
	}
	copy(dst, data)
	if d.labels == nil {
		return -1, nil
	}
	return d.labels[i], nil
}
