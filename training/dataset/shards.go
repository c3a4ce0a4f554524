package dataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// maxText is the limit in bytes for labels, captions and JSON.
const maxText = 1 << 20

func isShard(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
}

// shards is WebDataset shards: members with the same name up to the first dot are a sample.
type shards struct {
	paths   []string
	open    []*os.File // [len(paths)]; nil for gzipped shards
	held    [][]byte   // [len(paths)]; concatenated members of gzipped shards
	samples []sample
	memory  int64          // bytes of held and samples
	leftOut map[string]int // images in formats that are not supported, by extension
}

// sample is an encoded image with its caption and class.
type sample struct {
	shard int
	key   string // the members' name up to the first dot
	ext   string // extension of the image; "" without an image
	field string // field of the image's name, as in key.field.ext
	image extent
	text  extent // .txt
	json  extent
	class int
	from  origin // of the class
	other bool   // whether it has an image in a format that is not supported
}

// origin is the member that a sample's class comes from.
type origin byte

const (
	nowhere origin = iota
	fromJSON
	fromCLS // has precedence, in any order of the members
)

// extent is a range of bytes in a shard's file, or in its held members.
type extent struct{ at, size int64 }

func openShards(name string, paths []string, o Options) (*Set, error) {
	slices.Sort(paths)
	s := &shards{paths: paths, open: make([]*os.File, len(paths)), held: make([][]byte, len(paths)), leftOut: map[string]int{}}
	for i, p := range paths {
		if err := s.index(i); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", quote.Path(p), err), s.Close())
		}
	}
	// A sample whose only image is in a format that is not supported is skipped.
	s.samples = slices.DeleteFunc(s.samples, func(x sample) bool { return x.other && x.ext == "" })
	if len(s.samples) == 0 && len(s.leftOut) > 0 {
		return nil, errors.Join(imagefile.OnlyOthers(name, s.leftOut), s.Close())
	}
	classes, err := s.classes()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	set, err := newSet(name, s, classes, o)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return set, nil
}

// index lists the samples of shard i.
func (s *shards) index(i int) error {
	z, err := openMaybeGzip(s.paths[i])
	if err != nil {
		return err
	}
	if z.size >= 0 {
		s.open[i] = z.f
		if _, err := z.f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return s.indexTar(i, z.f, z.f)
	}
	defer z.Close()
	return s.indexTar(i, z, nil)
}

// indexTar lists the samples in the tar archive r. With seek it records where their members are; otherwise it keeps them in memory.
func (s *shards) indexTar(shard int, r io.Reader, seek io.Seeker) error {
	byKey := map[string]int{}
	for m, err := range members(r, seek) {
		if err != nil {
			return err
		}
		key, field, ext, ok := memberName(m.name)
		if !ok || field != "" && (ext == "cls" || ext == "json") {
			continue
		}
		other := imagefile.IsOther("." + ext)
		if other {
			s.leftOut["."+ext]++
		} else if !imagefile.Is("."+ext) && ext != "cls" && ext != "txt" && ext != "json" {
			continue
		}
		i, ok := byKey[key]
		if !ok {
			i = len(s.samples)
			byKey[key] = i
			s.samples = append(s.samples, sample{shard: shard, key: key})
			s.memory += int64(unsafe.Sizeof(sample{})) + int64(len(key))
		}
		x := &s.samples[i]
		if other {
			x.other = true
			continue
		}
		if field != "" && (ext == "txt" && x.text != (extent{}) || ext != "txt" && x.ext != "" && x.field == "") {
			continue // a member without a field has precedence: s0.jpg over s0.mask.png
		}
		if field == "" && x.field != "" && ext != "txt" && ext != "cls" && ext != "json" {
			x.ext, x.field, x.image = "", "", extent{}
		}
		if m.link != "" {
			err = s.link(x, m, ext, byKey)
		} else {
			err = s.add(x, m, ext, seek == nil)
		}
		if err != nil {
			return err
		}
		if ext != "txt" && ext != "cls" && ext != "json" {
			x.field = field
		}
	}
	return nil
}

// link adds the target of a hard link to a sample: a member of another sample, or of the same one.
func (s *shards) link(x *sample, m member, ext string, byKey map[string]int) error {
	key, field, toExt, ok := memberName(m.link)
	i, found := byKey[key]
	if !ok || !found || toExt != ext {
		return m.refused()
	}
	to := s.samples[i]
	var place extent
	switch ext {
	case "cls":
		if to.from != fromCLS {
			return m.refused()
		}
		if x.from == fromCLS {
			return fmt.Errorf("duplicate member %s", quote.Text(m.name))
		}
		x.class, x.from = to.class, fromCLS
		return nil
	case "txt":
		place = to.text
	case "json":
		place = to.json
	default:
		if to.ext == ext && to.field == field {
			place = to.image
		}
	}
	if place == (extent{}) {
		return m.refused()
	}
	data, err := s.read(x.shard, place)
	if err != nil {
		return err
	}
	m.Reader, m.at, m.size = bytes.NewReader(data), place.at, place.size
	return s.add(x, m, ext, false)
}

// add adds a member to its sample.
func (s *shards) add(x *sample, m member, ext string, hold bool) error {
	limit, into := int64(maxText), &x.text
	switch ext {
	case "cls":
		into = &extent{}
	case "txt":
	case "json":
		into = &x.json
	default:
		if x.ext != "" {
			return fmt.Errorf("%s: sample %s has a second image, a .%s: want one per sample", quote.Text(m.name), quote.Quoted(x.key), quote.Text(x.ext))
		}
		x.ext, limit, into = ext, vision.MaxEncoded, &x.image
	}
	if *into != (extent{}) || (ext == "cls" && x.from == fromCLS) {
		return fmt.Errorf("duplicate member %s", quote.Text(m.name))
	}
	if m.size > limit {
		return fmt.Errorf("%s has %d bytes, the limit is %d MiB", quote.Text(m.name), m.size, limit>>20)
	}
	*into = extent{m.at, m.size}
	if !hold && ext != "cls" && ext != "json" {
		return nil
	}
	if hold {
		if s.memory += m.size; s.memory > maxMemory {
			return fmt.Errorf("gzipped shards are kept in memory, and these need over %d GiB: unpack them with gunzip to .tar files, which are read in place", maxMemory>>30)
		}
	}
	data, err := readExactly(m, m.size)
	if err != nil {
		return fmt.Errorf("%s: damaged archive: %w", quote.Text(m.name), err)
	}
	if hold {
		*into = extent{int64(len(s.held[x.shard])), m.size}
		s.held[x.shard] = append(s.held[x.shard], data...)
	}
	switch ext {
	case "cls":
		class, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil || class < 0 || class >= maxClasses {
			return fmt.Errorf("%s: want a class index from 0 to %d, got %s", quote.Text(m.name), maxClasses-1, quote.Quoted(data))
		}
		x.class, x.from = class, fromCLS
	case "json":
		var fields struct{ Label *int }
		if json.Unmarshal(data, &fields) == nil && fields.Label != nil && *fields.Label >= 0 && *fields.Label < maxClasses && x.from == nowhere {
			x.class, x.from = *fields.Label, fromJSON
		}
	}
	return nil
}

const maxClasses = 1 << 16

// classes returns the class names, which are numbers. Either all samples have a class or none has.
func (s *shards) classes() ([]string, error) {
	top := -1
	for i := range s.samples {
		has, lacks := &s.samples[0], &s.samples[i]
		if has.from == nowhere {
			has, lacks = lacks, has
		}
		if has.from != nowhere && lacks.from == nowhere {
			return nil, fmt.Errorf("sample %s of %s has a class and sample %s of %s has none: want a class for all samples or for none", quote.Text(has.key), quote.Path(s.paths[has.shard]), quote.Text(lacks.key), quote.Path(s.paths[lacks.shard]))
		}
		if has.from != nowhere {
			top = max(top, s.samples[i].class)
		}
	}
	return numbered(top + 1), nil
}

func (s *shards) Len() int { return len(s.samples) }

func (s *shards) Close() error {
	var errs []error
	for _, f := range s.open {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func (s *shards) label(i int) int {
	if s.samples[i].from == nowhere {
		return -1
	}
	return s.samples[i].class
}

func (s *shards) name(i int) string {
	x := &s.samples[i]
	if x.ext == "" {
		return fmt.Sprintf("%s: %s", s.paths[x.shard], quote.Text(x.key))
	}
	if x.field != "" {
		return fmt.Sprintf("%s: %s", s.paths[x.shard], quote.Text(x.key+"."+x.field+"."+x.ext))
	}
	return fmt.Sprintf("%s: %s", s.paths[x.shard], quote.Text(x.key+"."+x.ext))
}

func (s *shards) identify(w io.Writer) error {
	for i := range s.samples {
		x := &s.samples[i]
		if _, err := fmt.Fprintf(w, "%q %q %d %d\n", x.key, x.ext, x.image.size, s.label(i)); err != nil { //quote: only hashed
			return err
		}
	}
	return nil
}

func (s *shards) encoded(i int) ([]byte, error) {
	x := &s.samples[i]
	if x.ext == "" {
		return nil, fmt.Errorf("%w in the sample: want a member with one of %s", imagefile.ErrNone, strings.Join(imagefile.Extensions, ", "))
	}
	return s.read(x.shard, x.image)
}

func (s *shards) read(shard int, e extent) ([]byte, error) {
	f := s.open[shard]
	if f == nil {
		return s.held[shard][e.at : e.at+e.size], nil
	}
	// The extents were within the file when it was indexed. If it has been truncated since, add has limited the size of data.
	data := make([]byte, e.size)
	if _, err := f.ReadAt(data, e.at); err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(s.paths[shard]), noEOF(err))
	}
	return data, nil
}

// caption is the content of .txt, or the field caption of .json.
func (s *shards) caption(i int) (string, error) {
	x := &s.samples[i]
	if x.text != (extent{}) {
		text, err := s.read(x.shard, x.text)
		return string(text), err
	}
	if x.json == (extent{}) {
		return "", nil
	}
	data, err := s.read(x.shard, x.json)
	if err != nil {
		return "", err
	}
	var fields struct{ Caption string }
	if err := json.Unmarshal(data, &fields); err != nil {
		return "", fmt.Errorf("%s: %s.json: %w", quote.Path(s.paths[x.shard]), quote.Text(x.key), quote.Error(err))
	}
	return fields.Caption, nil
}
