package captioned

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// captionExtensions are of caption files, the first of which counts where an image has several.
var captionExtensions = []string{".txt", ".caption"}

// file is an image file.
type file string

func (f file) encoded() ([]byte, error) { return imagefile.Read(string(f)) }
func (f file) name() string             { return string(f) }

// repeated is the name of a directory of images in the layout of kohya's scripts: the number of repeats and the class tokens.
var repeated = regexp.MustCompile(`^([0-9]+)_(.*)$`)

// findDirectory lists the images below a directory.
func (s *Set) findDirectory(dir string, o Options) ([]part, error) {
	top, err := imagefile.List(dir, false)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(top.Dirs, repeated.MatchString) {
		if !slices.ContainsFunc(top.Rest, isMetadata) {
			if n := len(top.Images); n > 0 {
				s.note("%s: ignored %s beside the directories N_name, such as %s", quote.Path(dir), plural.N(n, "image"), quote.Text(top.Images[0]))
			}
			return s.findRepeated(dir, top.Dirs, o)
		}
		s.note("%s: repeats in the names of directories are ignored, as there is a metadata file", quote.Path(dir))
	}
	if m := repeated.FindStringSubmatch(s.name); m != nil && len(top.Dirs) == 0 {
		s.note("%s: repeats in the name of the given directory itself are ignored; for %s repeats, pass its parent", quote.Path(dir), quote.Text(m[1]))
	}
	p := part{subset: o.whole()}
	p.name = s.name
	err = s.findImages(&p, dir, place{deep: true, column: o.Column, extensions: captionExtensions})
	return []part{p}, err
}

// findRepeated lists the images in the directories N_name of one: each is used N times an epoch, with name as its class tokens.
func (s *Set) findRepeated(dir string, names []string, o Options) ([]part, error) {
	var parts []part
	var others, used []string
	for _, name := range names {
		m := repeated.FindStringSubmatch(name)
		if m == nil {
			others = append(others, quote.Text(name))
			continue
		}
		p := part{subset: o.whole()}
		p.name = name
		n, err := strconv.Atoi(m[1])
		if p.Repeats = n; err != nil || n < 1 || n > maxRepeats {
			return nil, fmt.Errorf("%s: want 1 to %d repeats before the underscore", quote.Path(filepath.Join(dir, name)), maxRepeats)
		}
		if tokens := strings.TrimSpace(m[2]); tokens != "" {
			p.ClassTokens = tokens
		}
		if err := checkText(p.ClassTokens); err != nil {
			return nil, fmt.Errorf("%s: class tokens: %w", quote.Path(filepath.Join(dir, name)), err)
		}
		if err := s.findImages(&p, filepath.Join(dir, name), place{deep: true, column: o.Column, extensions: captionExtensions}); err != nil {
			return nil, err
		}
		for i := range p.images {
			p.images[i].key = name + "/" + p.images[i].key
		}
		parts = append(parts, p)
		used = append(used, fmt.Sprintf("%s: %s", quote.Text(name), plural.N(len(p.images), "image")))
	}
	s.note("repeats and class tokens from the names of directories: %s", listed(used))
	if len(others) > 0 {
		s.note("%s: skipped directories whose names are not N_name: %s", quote.Path(dir), listed(others))
	}
	return parts, nil
}

// listed joins the first of several names.
func listed(names []string) string {
	const most = 8
	if n := len(names) - most; n > 1 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n)
	}
	return strings.Join(names, ", ")
}

// place says which of a directory's files are its images and captions.
type place struct {
	deep       bool     // with those in directories below
	extensions []string // of caption files, the first of which counts where an image has several
	column     string   // of captions in metadata files; "": found by its name
}

// findImages lists a directory's images with the captions in its metadata files or beside them.
func (s *Set) findImages(p *part, dir string, how place) error {
	list, err := imagefile.List(dir, how.deep)
	if err != nil {
		return err
	}
	meta := metadata{column: how.column, captions: map[string][]string{}, errs: map[string]error{}, unused: map[string]bool{}}
	files := slices.DeleteFunc(slices.Clone(list.Rest), func(path string) bool { return !isMetadata(path) })
	for i, path := range files {
		if i > 0 && filepath.Dir(path) == filepath.Dir(files[i-1]) {
			return fmt.Errorf("%s: both %s and %s: keep one of them", quote.Path(dir), quote.Path(files[i-1]), quote.Path(path))
		}
		if err := meta.read(filepath.Join(dir, path), filepath.Dir(path)); err != nil {
			return err
		}
	}
	switch {
	case len(list.Images)+len(meta.order) > 0:
	case len(list.LeftOut) > 0:
		return imagefile.OnlyOthers(dir, list.LeftOut)
	case list.Packed != "":
		return imagefile.Repack(list.Packed)
	case len(list.Dirs) > 0:
		return fmt.Errorf("%s: no images (%s); its subdirectories are not read: %s", quote.Path(dir), strings.Join(imagefile.Extensions, ", "), listed(quote.Texts(list.Dirs)))
	default:
		return fmt.Errorf("%s: no images (%s)", quote.Path(dir), strings.Join(imagefile.Extensions, ", "))
	}
	for ext, n := range list.LeftOut {
		s.summary.LeftOut[ext] += n
	}
	if len(list.Dirs) > 0 {
		s.note("%s: skipped subdirectories: %s", quote.Path(dir), listed(quote.Texts(list.Dirs)))
	}
	if unused := slices.Sorted(maps.Keys(meta.unused)); len(unused) > 0 {
		s.note("%s: ignored columns of metadata: %s", quote.Path(dir), listed(quote.Texts(unused)))
	}
	texts := textFiles(list.Rest, how.extensions)
	var passed map[string]*textFile // with other extensions than the one that was asked for
	if len(how.extensions) == 1 {
		passed = textFiles(list.Rest, slices.DeleteFunc(slices.Clone(captionExtensions), func(ext string) bool { return ext == how.extensions[0] }))
	}
	passedBy := 0
	alone := len(texts)
	several, both := 0, 0
	for _, path := range withListed(list.Images, meta.order) {
		key := filepath.ToSlash(path)
		f := found{key: key, content: file(filepath.Join(dir, path)), captions: meta.captions[key], err: meta.errs[key]}
		if text := texts[strings.TrimSuffix(path, filepath.Ext(path))]; text != nil {
			if text.used = append(text.used, path); len(text.used) == 1 {
				alone--
			}
			if len(text.paths) > 1 {
				several++
			}
			if f.captions != nil {
				both++
			} else if f.err == nil {
				f.captions, f.dropped, f.err = p.captionFile(filepath.Join(dir, first(text.paths, how.extensions)))
			}
		}
		if f.captions == nil && f.err == nil && passed[strings.TrimSuffix(path, filepath.Ext(path))] != nil {
			passedBy++
		}
		p.images = append(p.images, f)
	}
	if passedBy > 0 {
		s.note("%s: %s without a %s file, but with a caption file of another extension, which is ignored", quote.Path(dir), plural.N(passedBy, "image"), quote.Text(how.extensions[0]))
	}
	if several > 0 {
		s.note("%s: %s with several caption files: using %s", quote.Path(dir), plural.N(several, "image"), quote.Text(how.extensions[0]))
	}
	if both > 0 {
		s.note("%s: %s with a caption in the metadata and in a file: using the metadata", quote.Path(dir), plural.N(both, "image"))
	}
	if alone > 0 {
		s.note("%s: ignored %s without an image of the same name", quote.Path(dir), plural.N(alone, "caption file"))
	}
	return nil
}

// textFile is the caption files of one name, but for their extensions.
type textFile struct{ paths, used []string }

// textFiles lists caption files by their paths without extension.
func textFiles(paths, extensions []string) map[string]*textFile {
	texts := map[string]*textFile{}
	for _, path := range paths {
		if !slices.ContainsFunc(extensions, func(ext string) bool { return hasExtension(path, ext) }) {
			continue
		}
		stem := strings.TrimSuffix(path, filepath.Ext(path))
		if texts[stem] == nil {
			texts[stem] = &textFile{}
		}
		texts[stem].paths = append(texts[stem].paths, path)
	}
	return texts
}

func hasExtension(path, ext string) bool { return strings.EqualFold(filepath.Ext(path), ext) }

// withListed are images' paths with those that only metadata lists, and that will be found missing.
func withListed(images, meta []string) []string {
	there := map[string]bool{}
	for _, path := range images {
		there[filepath.ToSlash(path)] = true
	}
	all := slices.Clone(images)
	for _, key := range meta {
		if !there[key] && !imagefile.IsOther(key) {
			all = append(all, filepath.FromSlash(key))
		}
	}
	return all
}

// first returns the file whose extension comes first.
func first(paths, extensions []string) string {
	for _, ext := range extensions {
		for _, p := range paths {
			if hasExtension(p, ext) {
				return p
			}
		}
	}
	return paths[0]
}

// captionFile reads a caption file.
func (x *Settings) captionFile(path string) (captions []string, dropped bool, err error) {
	data, err := plainfile.Read(path, maxCaption+4)
	if err != nil {
		return nil, false, fmt.Errorf("caption: %w", err) //quote: plainfile quotes the path
	}
	captions, dropped, err = x.captions(data)
	if err != nil {
		return nil, false, fmt.Errorf("caption %s: %w", quote.Path(path), err)
	}
	return captions, dropped, nil
}
