// Package webdataset reads WebDataset shards: tar archives, gzipped or not, in which members with the same name up to the first dot are a
// sample of an image with a caption and a class.
package webdataset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/internal/archive"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// maxText is the limit in bytes for labels, captions and JSON.
const maxText = 1 << 20

// Shards is WebDataset shards: members with the same name up to the first dot are a sample.
type Shards struct {
	files   []File
	open    []*os.File // [len(files)]; nil for gzipped shards
	held    [][]byte   // [len(files)]; concatenated members of gzipped shards
	samples []sample
	memory  int64          // bytes of held and samples
	LeftOut map[string]int // images in formats that are not supported, by extension
}

// sample is an encoded image with its caption and class.
type sample struct {
	shard int
	key   string // the members' name up to the first dot
	ext   string // extension of the image; "" without an image
	field string // field of the image's name, as in key.field.ext
	image extent
	text  extent
	words string // extension of the text, one of texts; "" without a text
	json  extent
	class int
	from  origin // of the class
	other bool   // whether it has an image in a format that is not supported
}

// texts are the extensions of captions, as WebDataset's users name them; the first that a sample has counts.
var texts = []string{"txt", "text", "caption"}

// kindOf is what a member is by its extension: cls, json, txt for any caption, image, or "" for others.
func kindOf(ext string) string {
	switch {
	case ext == "cls" || ext == "json":
		return ext
	case slices.Contains(texts, ext):
		return "txt"
	case imagefile.Is("." + ext):
		return "image"
	}
	return ""
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

// File is a shard.
type File struct {
	Path string
	Name string // in errors and keys
}

// Files are shards that are named by their paths, in the order of these.
func Files(paths []string) []File {
	var files []File
	for _, p := range slices.Sorted(slices.Values(paths)) {
		files = append(files, File{p, p})
	}
	return files
}

// Open lists the samples of shards. name is for errors.
func Open(name string, files []File) (*Shards, error) {
	s := &Shards{files: files, open: make([]*os.File, len(files)), held: make([][]byte, len(files)), LeftOut: map[string]int{}}
	for i, f := range files {
		if err := s.index(i); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", quote.Path(f.Name), err), s.Close())
		}
	}
	// A sample whose only image is in a format that is not supported is skipped.
	s.samples = slices.DeleteFunc(s.samples, func(x sample) bool { return x.other && x.ext == "" })
	if len(s.samples) == 0 && len(s.LeftOut) > 0 {
		return nil, errors.Join(imagefile.OnlyOthers(name, s.LeftOut), s.Close())
	}
	return s, nil
}

// index lists the samples of shard i.
func (s *Shards) index(i int) error {
	z, err := archive.OpenGzip(s.files[i].Path)
	if err != nil {
		return err
	}
	if z.Size >= 0 {
		s.open[i] = z.File
		if _, err := z.File.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return s.indexTar(i, z.File, z.File)
	}
	defer z.Close()
	return s.indexTar(i, z, nil)
}

// indexTar lists the samples in the tar archive r. With seek it records where their members are; otherwise it keeps them in memory.
func (s *Shards) indexTar(shard int, r io.Reader, seek io.Seeker) error {
	byKey := map[string]int{}
	for m, err := range archive.Members(r, seek) {
		if err != nil {
			return err
		}
		key, field, ext, ok := archive.MemberName(m.Name)
		kind := kindOf(ext)
		if !ok || field != "" && (ext == "cls" || ext == "json") {
			continue
		}
		other := imagefile.IsOther("." + ext)
		if other {
			s.LeftOut["."+ext]++
		} else if kind == "" {
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
		if field != "" && (kind == "txt" && x.words != "" || kind == "image" && x.ext != "" && x.field == "") {
			continue // a member without a field has precedence: s0.jpg over s0.mask.png
		}
		if kind == "txt" && x.words != "" && ext != x.words {
			if slices.Index(texts, ext) > slices.Index(texts, x.words) {
				continue
			}
			x.words, x.text = "", extent{}
		}
		if field == "" && x.field != "" && kind == "image" {
			x.ext, x.field, x.image = "", "", extent{}
		}
		if m.Link != "" {
			err = s.link(x, m, ext, byKey)
		} else {
			err = s.add(x, m, ext, seek == nil)
		}
		if err != nil {
			return err
		}
		if kind == "image" {
			x.field = field
		}
	}
	return nil
}

// link adds the target of a hard link to a sample: a member of another sample, or of the same one.
func (s *Shards) link(x *sample, m archive.Member, ext string, byKey map[string]int) error {
	key, field, toExt, ok := archive.MemberName(m.Link)
	i, found := byKey[key]
	if !ok || !found || toExt != ext {
		return m.Refused()
	}
	to := s.samples[i]
	var place extent
	switch kindOf(ext) {
	case "cls":
		if to.from != fromCLS {
			return m.Refused()
		}
		if x.from == fromCLS {
			return fmt.Errorf("duplicate member %s", quote.Text(m.Name))
		}
		x.class, x.from = to.class, fromCLS
		return nil
	case "txt":
		if to.words == ext {
			place = to.text
		}
	case "json":
		place = to.json
	default:
		if to.ext == ext && to.field == field {
			place = to.image
		}
	}
	if place == (extent{}) {
		return m.Refused()
	}
	data, err := s.read(x.shard, place)
	if err != nil {
		return err
	}
	m.Reader, m.At, m.Size = bytes.NewReader(data), place.at, place.size
	return s.add(x, m, ext, false)
}

// add adds a member to its sample.
func (s *Shards) add(x *sample, m archive.Member, ext string, hold bool) error {
	limit, into := int64(maxText), &x.text
	switch kindOf(ext) {
	case "cls":
		into = &extent{}
	case "txt":
		x.words = ext
	case "json":
		into = &x.json
	default:
		if x.ext != "" {
			return fmt.Errorf("%s: sample %s has a second image, a .%s: want one per sample", quote.Text(m.Name), quote.Quoted(x.key), quote.Text(x.ext))
		}
		x.ext, limit, into = ext, vision.MaxEncoded, &x.image
	}
	if *into != (extent{}) || (ext == "cls" && x.from == fromCLS) {
		return fmt.Errorf("duplicate member %s", quote.Text(m.Name))
	}
	if m.Size > limit {
		return fmt.Errorf("%s has %d bytes, the limit is %d MiB", quote.Text(m.Name), m.Size, limit>>20)
	}
	*into = extent{m.At, m.Size}
	if !hold && ext != "cls" && ext != "json" {
		return nil
	}
	if hold {
		if s.memory += m.Size; s.memory > archive.MaxMemory {
			return fmt.Errorf("gzipped shards are kept in memory, and these need over %d GiB: unpack them with gunzip to .tar files, which are read in place", archive.MaxMemory>>30)
		}
	}
	data, err := archive.ReadExactly(m, m.Size)
	if err != nil {
		return fmt.Errorf("%s: damaged archive: %w", quote.Text(m.Name), err)
	}
	if hold {
		*into = extent{int64(len(s.held[x.shard])), m.Size}
		s.held[x.shard] = append(s.held[x.shard], data...)
	}
	switch ext {
	case "cls":
		class, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil || class < 0 || class >= maxClasses {
			return fmt.Errorf("%s: want a class index from 0 to %d, got %s", quote.Text(m.Name), maxClasses-1, quote.Quoted(data))
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

// Classes returns the class names, which are numbers. Either all samples have a class or none has.
func (s *Shards) Classes() ([]string, error) {
	top := -1
	for i := range s.samples {
		has, lacks := &s.samples[0], &s.samples[i]
		if has.from == nowhere {
			has, lacks = lacks, has
		}
		if has.from != nowhere && lacks.from == nowhere {
			return nil, fmt.Errorf("sample %s of %s has a class and sample %s of %s has none: want a class for all samples or for none", quote.Text(has.key), quote.Path(s.files[has.shard].Name), quote.Text(lacks.key), quote.Path(s.files[lacks.shard].Name))
		}
		if has.from != nowhere {
			top = max(top, s.samples[i].class)
		}
	}
	return Numbered(top + 1), nil
}

// Len is the number of samples.
func (s *Shards) Len() int { return len(s.samples) }

// Close closes the shards.
func (s *Shards) Close() error {
	var errs []error
	for _, f := range s.open {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Label is a sample's class; -1: none.
func (s *Shards) Label(i int) int {
	if s.samples[i].from == nowhere {
		return -1
	}
	return s.samples[i].class
}

// Name is where a sample's image is, for errors: the shard and the member.
func (s *Shards) Name(i int) string {
	x := &s.samples[i]
	if x.ext == "" {
		return fmt.Sprintf("%s: %s", s.files[x.shard].Name, quote.Text(x.key))
	}
	if x.field != "" {
		return fmt.Sprintf("%s: %s", s.files[x.shard].Name, quote.Text(x.key+"."+x.field+"."+x.ext))
	}
	return fmt.Sprintf("%s: %s", s.files[x.shard].Name, quote.Text(x.key+"."+x.ext))
}

// Identify writes what tells the samples from others: their names, sizes and classes.
func (s *Shards) Identify(w io.Writer) error {
	for i := range s.samples {
		x := &s.samples[i]
		if _, err := fmt.Fprintf(w, "%q %q %d %d\n", x.key, x.ext, x.image.size, s.Label(i)); err != nil { //quote: only hashed
			return err
		}
	}
	return nil
}

// Encoded returns the bytes of a sample's image. A sample without one is an error that wraps imagefile.ErrNone.
func (s *Shards) Encoded(i int) ([]byte, error) {
	x := &s.samples[i]
	if x.ext == "" {
		return nil, fmt.Errorf("%w in the sample: want a member with one of %s", imagefile.ErrNone, strings.Join(imagefile.Extensions, ", "))
	}
	return s.read(x.shard, x.image)
}

func (s *Shards) read(shard int, e extent) ([]byte, error) {
	f := s.open[shard]
	if f == nil {
		return s.held[shard][e.at : e.at+e.size], nil
	}
	// The extents were within the file when it was indexed. If it has been truncated since, add has limited the size of data.
	data := make([]byte, e.size)
	if _, err := f.ReadAt(data, e.at); err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(s.files[shard].Name), archive.NoEOF(err))
	}
	return data, nil
}

// Texts returns the content of a sample's caption file and of its .json; nil for what it lacks.
func (s *Shards) Texts(i int) (text, fields []byte, err error) {
	x := &s.samples[i]
	if x.words != "" {
		text, err = s.read(x.shard, x.text)
	}
	if x.json != (extent{}) && err == nil {
		fields, err = s.read(x.shard, x.json)
	}
	return text, fields, err
}

// Key is a sample's name, with that of its shard if there are several.
func (s *Shards) Key(i int) string {
	x := &s.samples[i]
	if len(s.files) == 1 {
		return x.key
	}
	return filepath.Base(s.files[x.shard].Name) + "/" + x.key
}

// Caption is the content of .txt, or the field caption of .json.
func (s *Shards) Caption(i int) (string, error) {
	x := &s.samples[i]
	if x.words != "" {
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
		return "", fmt.Errorf("%s: %s.json: %w", quote.Path(s.files[x.shard].Name), quote.Text(x.key), quote.Error(err))
	}
	return fields.Caption, nil
}

// Numbered names n classes by their labels.
func Numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	return names
}
