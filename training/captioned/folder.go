package captioned

import (
	"fmt"
	"path/filepath"
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

// findDirectory lists the images below a directory.
func (s *Set) findDirectory(dir string, o Options) ([]part, error) {
	p := part{subset: o.whole()}
	p.name = s.name
	err := s.findImages(&p, dir, true, captionExtensions)
	return []part{p}, err
}

// findImages lists a directory's images with the captions that lie beside them.
func (s *Set) findImages(p *part, dir string, deep bool, extensions []string) error {
	list, err := imagefile.List(dir, deep)
	switch {
	case err != nil:
		return err
	case len(list.Images) > 0:
	case len(list.LeftOut) > 0:
		return imagefile.OnlyOthers(dir, list.LeftOut)
	case list.Packed != "":
		return imagefile.Repack(list.Packed)
	default:
		return fmt.Errorf("%s: no images (%s)", quote.Path(dir), strings.Join(imagefile.Extensions, ", "))
	}
	for ext, n := range list.LeftOut {
		s.summary.LeftOut[ext] += n
	}
	texts := map[string][]string{} // by the path without extension
	for _, path := range list.Rest {
		for _, ext := range extensions {
			if strings.EqualFold(filepath.Ext(path), ext) {
				stem := strings.TrimSuffix(path, filepath.Ext(path))
				texts[stem] = append(texts[stem], path)
			}
		}
	}
	used := map[string]bool{}
	several := 0
	for _, path := range list.Images {
		f := found{key: filepath.ToSlash(path), content: file(filepath.Join(dir, path))}
		stem := strings.TrimSuffix(path, filepath.Ext(path))
		if text := texts[stem]; len(text) > 0 {
			used[stem] = true
			if len(text) > 1 {
				several++
			}
			f.captions, f.err = p.captionFile(filepath.Join(dir, first(text, extensions)))
		}
		p.images = append(p.images, f)
	}
	if several > 0 {
		s.note("%s with several caption files: %s is used", plural.N(several, "image"), quote.Text(extensions[0]))
	}
	if alone := len(texts) - len(used); alone > 0 {
		s.note("%s: %s no image of the same name and not used", quote.Path(dir), plural.N(alone, "caption file with"))
	}
	return nil
}

// first returns the file whose extension comes first.
func first(paths, extensions []string) string {
	for _, ext := range extensions {
		for _, p := range paths {
			if strings.EqualFold(filepath.Ext(p), ext) {
				return p
			}
		}
	}
	return paths[0]
}

// captionFile reads a caption file.
func (x *Settings) captionFile(path string) ([]string, error) {
	data, err := plainfile.Read(path, maxCaption+4)
	if err != nil {
		return nil, fmt.Errorf("caption: %w", err) //quote: plainfile quotes the path
	}
	captions, err := x.captions(data)
	if err != nil {
		return nil, fmt.Errorf("caption %s: %w", quote.Path(path), err)
	}
	return captions, nil
}
