package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/dataset"
)

// repeatsOf is a directory N_name of kohya's layout.
type repeatsOf struct {
	Name    string `json:"name"`
	Repeats int    `json:"repeats"`
	Images  int    `json:"images"`
}

// captionsIn counts what train-lora reads beside caption files: captions in metadata files, and repeats in the names of directories. A directory
// with neither is not read again.
func captionsIn(ctx context.Context, path string, v *dataset.Survey) (all []repeatsOf, err error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, nil //nolint:nilerr // no directory
	}
	var metadata, repeats bool
	for _, e := range entries {
		n, _, cut := strings.Cut(e.Name(), "_")
		if _, err := strconv.Atoi(n); cut && err == nil && e.IsDir() {
			repeats = true
		}
		if name := strings.ToLower(e.Name()); !e.IsDir() && (name == "metadata.jsonl" || name == "metadata.csv") {
			metadata = true
			ext := name[strings.LastIndexByte(name, '.'):]
			if v.Others[ext]--; v.Others[ext] <= 0 {
				delete(v.Others, ext)
			}
		}
	}
	if !metadata && !repeats {
		return nil, nil
	}
	set, err := captioned.Open(ctx, path, captioned.Options{Uncaptioned: true, SkipCorrupt: true})
	if err != nil {
		return nil, err
	}
	defer set.Close()
	v.Captions = 0
	by := map[int]int{} // places in all, by subset
	for _, x := range set.Images() {
		if x.Captioned {
			v.Captions++
		}
		if metadata {
			continue
		}
		i, ok := by[x.Subset]
		if !ok {
			i = len(all)
			by[x.Subset] = i
			name, _, _ := strings.Cut(x.Key, "/")
			all = append(all, repeatsOf{Name: name, Repeats: x.Repeats})
		}
		all[i].Images++
	}
	return all, nil
}

// repeatsText lists directories with their repeats.
func repeatsText(all []repeatsOf) string {
	const most = 20
	var words []string
	for _, r := range all[:min(len(all), most)] {
		words = append(words, fmt.Sprintf("%s (%d × %s)", quote.Text(r.Name), r.Repeats, plural.N(r.Images, "image")))
	}
	if n := len(all) - most; n > 0 {
		words = append(words, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(slices.Clip(words), ", ")
}
