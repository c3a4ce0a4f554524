package captioned

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// findListed lists the images of a metadata file of kohya's scripts for fine-tuning: a JSON object whose keys are images' paths, in dir or
// absolute, with or without extension, and whose values have a caption, tags, or both.
func (r *configReader) findListed(p *part, path, dir string) error {
	if imagefile.Ext(path) != ".json" {
		return fmt.Errorf("%s: want a .json file as kohya's scripts make; give the directory of metadata.jsonl and metadata.csv as image_dir", quote.Path(path))
	}
	data, err := plainfile.Read(path, maxMetadata)
	if err != nil {
		return err
	}
	var images map[string]struct{ Caption, Tags string }
	if err := json.Unmarshal(data, &images); err != nil {
		return fmt.Errorf("%s: want a JSON object of images with caption and tags: %w", quote.Path(path), quote.Error(err))
	}
	if len(images) == 0 {
		return fmt.Errorf("%s: no images", quote.Path(path))
	}
	byStem := map[string]string{}
	if dir != "" {
		list, err := imagefile.List(dir, false)
		if err != nil {
			return err
		}
		for _, name := range list.Images {
			byStem[strings.TrimSuffix(name, filepath.Ext(name))] = name
		}
	}
	for _, key := range slices.Sorted(maps.Keys(images)) {
		f := found{key: key}
		at := filepath.FromSlash(key)
		if name, ok := byStem[at]; ok && !imagefile.Is(at) {
			at = name
		}
		if !filepath.IsAbs(at) {
			at = filepath.Join(dir, at)
		}
		f.content = file(at)
		f.captions, f.dropped, f.err = p.withTags(images[key].Caption, images[key].Tags)
		p.images = append(p.images, f)
	}
	return nil
}

// withTags are the captions of an image that has a caption and tags, which follow each line of it.
func (x *Settings) withTags(caption, tags string) (captions []string, dropped bool, err error) {
	captions, dropped, err = x.captions([]byte(caption))
	if tags = strings.TrimSpace(tags); tags == "" || err != nil {
		return captions, dropped, err
	}
	if err := checkText(tags); err != nil {
		return nil, false, err
	}
	for i := range captions {
		captions[i] += x.Separator + " " + tags
	}
	if captions == nil {
		captions = []string{tags}
	}
	return captions, dropped, nil
}
