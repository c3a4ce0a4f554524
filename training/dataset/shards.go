package dataset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"image"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxShardMemory limits what gzipped shards may hold together: they cannot be read at random, so their images are kept
// in memory, encoded.
const maxShardMemory = 4 << 30

// shardSet is WebDataset shards: members of one name up to the first dot belong together.
type shardSet struct {
	name    string
	samples []sample
	classes []string
	c, h, w int
	files   []*os.File
}

// sample is an encoded image: in memory, or at a place in a plain tar file.
type sample struct {
	name     string // shard and member, for errors
	data     []byte
	file     *os.File
	at, size int64
	label    int
	labelled bool
}

func openShards(paths []string, o Options) (Dataset, error) {
	slices.Sort(paths)
	s := &shardSet{name: filepath.Base(paths[0]), c: o.Channels, h: o.Resolution, w: o.Resolution}
	held := int64(0)
	for _, p := range paths {
		if err := s.index(p, &held); err != nil {
			s.close()
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	if len(s.samples) == 0 {
		s.close()
		return nil, fmt.Errorf("%s: no images in it", paths[0])
	}
	if s.c == 0 {
		s.c = 3
	}
	if s.h == 0 {
		data, err := s.samples[0].read()
		var cfg image.Config
		if err == nil {
			cfg, _, err = image.DecodeConfig(bytes.NewReader(data))
		}
		if err != nil {
			s.close()
			return nil, &CorruptError{s.samples[0].name, fmt.Errorf("%w (its size would be the set's: give a resolution)", err)}
		}
		s.h, s.w = cfg.Height, cfg.Width
		if s.h > 4096 || s.w > 4096 {
			s.close()
			return nil, fmt.Errorf("%s has %d×%d pixels: give a resolution", s.samples[0].name, s.w, s.h)
		}
	}
	top, all := -1, true
	for _, x := range s.samples {
		top, all = max(top, x.label), all && x.labelled
	}
	if all {
		for i := range top + 1 {
			s.classes = append(s.classes, strconv.Itoa(i))
		}
	}
	return s, nil
}

func (s *shardSet) close() {
	for _, f := range s.files {
		f.Close()
	}
}

// index lists a shard's samples.
func (s *shardSet) index(file string, held *int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	plain := strings.HasSuffix(strings.ToLower(file), ".tar")
	if plain {
		s.files = append(s.files, f)
		return s.indexTar(file, f, f, held)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	return s.indexTar(file, z, nil, held)
}

// indexTar reads the members of r. With plain it notes where images lie in that file; else it keeps them in memory.
func (s *shardSet) indexTar(file string, r io.Reader, plain *os.File, held *int64) error {
	byKey := map[string]int{} // key to its place in found
	type pair struct {
		image *sample
		label int
		has   bool
	}
	var found []pair
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("damaged archive after %d samples: %w", len(found), err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		dir, base := path.Split(h.Name)
		stem, ext, _ := strings.Cut(base, ".")
		key := dir + stem
		i, ok := byKey[key]
		if !ok {
			i = len(found)
			byKey[key] = i
			found = append(found, pair{})
		}
		p := &found[i]
		ext = strings.ToLower(ext)
		switch {
		case ext == "cls":
			text, err := readLimited(t, 64)
			if err != nil {
				return fmt.Errorf("%s: %w", h.Name, err)
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil || n < 0 || n > 1<<20 {
				return fmt.Errorf("%s: want a class index, got %q", h.Name, text)
			}
			p.label, p.has = n, true
		case isImage("." + ext):
			if p.image != nil {
				return fmt.Errorf("%s: a second image for the same key", h.Name)
			}
			x := &sample{name: file + ": " + h.Name, size: h.Size, file: plain}
			if h.Size > maxImageBytes {
				return fmt.Errorf("%s: %d bytes; at most %d MiB are read", h.Name, h.Size, maxImageBytes>>20)
			}
			if plain != nil {
				if x.at, err = plain.Seek(0, io.SeekCurrent); err != nil {
					return err
				}
			} else {
				if *held += h.Size; *held > maxShardMemory {
					return fmt.Errorf("gzipped shards are held in memory, and these need over %d GiB: unpack them to plain .tar files, which are read in place", maxShardMemory>>30)
				}
				if x.data, err = readLimited(t, h.Size); err != nil {
					return fmt.Errorf("%s: %w", h.Name, err)
				}
			}
			p.image = x
		}
	}
	for _, p := range found {
		if p.image == nil {
			continue
		}
		p.image.label, p.image.labelled = p.label, p.has
		s.samples = append(s.samples, *p.image)
	}
	return nil
}

func (x *sample) read() ([]byte, error) {
	if x.file == nil {
		return x.data, nil
	}
	data := make([]byte, x.size)
	if _, err := x.file.ReadAt(data, x.at); err != nil {
		return nil, err
	}
	return data, nil
}

func (s *shardSet) Name() string           { return s.name }
func (s *shardSet) Len() int               { return len(s.samples) }
func (s *shardSet) Shape() (int, int, int) { return s.c, s.h, s.w }
func (s *shardSet) Classes() []string      { return s.classes }

func (s *shardSet) Read(i int, dst []byte) (int, error) {
	x := &s.samples[i]
	data, err := x.read()
	if err == nil {
		data, err = decode(data, s.c, s.h, s.w)
	}
	if err != nil {
		return 0, &CorruptError{x.name, err}
	}
	copy(dst, data)
	if s.classes == nil {
		return -1, nil
	}
	return x.label, nil
}
