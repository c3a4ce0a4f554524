package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/dataset"
)

// decodedAll is the largest number of images that info decodes by default.
const decodedAll = 10_000

// dataInfo describes training data, as JSON.
type dataInfo struct {
	Kind     string               `json:"kind"` // "data"
	Path     string               `json:"path"`
	Format   string               `json:"format"` // "image files", "tar shards", "IDX", …
	Images   int                  `json:"images"`
	Folders  int                  `json:"folders,omitempty"`
	Encoded  map[string]int       `json:"encoded,omitempty"`  // images by file format
	Channels int                  `json:"channels,omitempty"` // channels of data without image files
	Sizes    []dataset.SizeCount  `json:"sizes"`              // the most frequent first
	Classes  []dataset.ClassCount `json:"classes"`
	Captions int                  `json:"captions"`
	Repeats  []repeatsOf          `json:"repeats,omitempty"` // of directories N_name, as train-lora reads them
	Decoded  bool                 `json:"decoded"`           // false: only headers were read
	Corrupt  int                  `json:"corrupt"`
	Damage   []string             `json:"damage"`             // the first hundred corrupt images, with reasons
	LeftOut  map[string]int       `json:"left_out,omitempty"` // image files in formats that are not read
	Others   map[string]int       `json:"other_files,omitempty"`
}

// infoData describes training data as train --data reads it. All images are decoded if there are at most decodedAll, or with check.
func (a *app) infoData(ctx context.Context, path string, check bool) error {
	how := dataset.SurveyOptions{Decode: decodedAll}
	if check {
		how.Decode = math.MaxInt
	}
	sc := a.screen()
	how.Progress = func(done, all int) {
		if done == 1 && all > 100 {
			sc.start()
		}
		sc.show(float64(done)/float64(all), fmt.Sprintf("image %d/%d", done, all), "")
	}
	v, err := dataset.Examine(ctx, path, dataset.Options{}, how)
	sc.stop()
	if err != nil {
		return err
	}
	repeats, unread := captionsIn(ctx, path, &v)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	out := dataInfo{
		Kind: "data", Path: path, Format: v.Format, Images: v.Images, Folders: v.Folders, Encoded: v.Encoded, Channels: v.Channels,
		Sizes: append([]dataset.SizeCount{}, v.Sizes...), Classes: append([]dataset.ClassCount{}, v.Classes...), Captions: v.Captions, Decoded: v.Decoded,
		Repeats: repeats, Corrupt: v.Corrupt, Damage: []string{}, LeftOut: v.LeftOut, Others: v.Others,
	}
	for _, d := range v.Damage {
		out.Damage = append(out.Damage, d.Error())
	}
	text := dataText(path, v)
	if repeats != nil {
		text += fmt.Sprintf("  %-9s in training with captions: %s\n", "repeats", repeatsText(repeats))
	}
	if unread != nil {
		text += fmt.Sprintf("  %-9s cannot be used: %v\n", "captions", unread)
	}
	return a.print(out, text)
}

// dataText describes training data in lines.
func dataText(path string, v dataset.Survey) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	where := ""
	if v.Folders > 0 {
		where = " in " + plural.N(v.Folders, "directory")
	}
	fmt.Fprintf(&b, "%s: training data (%s%s)\n", quote.Long(path, longest), v.Format, where)
	formats := ""
	if len(v.Encoded) > 0 {
		formats = " (" + tallied(v.Encoded, 10, "unknown") + ")"
	}
	line("images", "%d%s", v.Images, formats)
	if text := sizesText(v); text != "" {
		line("size", "%s", text)
	}
	if n := len(v.Classes); n > 0 {
		const most = 20
		var names []string
		for _, c := range v.Classes[:min(n, most)] {
			names = append(names, fmt.Sprintf("%s (%d)", quote.Text(c.Name), c.Images))
		}
		more := ""
		if n > most {
			more = fmt.Sprintf(", and %d more", n-most)
		}
		line("classes", "%d: %s%s", n, strings.Join(names, ", "), more)
	} else {
		line("classes", "none")
	}
	if v.Captions > 0 {
		line("captions", "%d", v.Captions)
	}
	switch {
	case v.Corrupt > 0:
		line("corrupt", "%d, which end training, or are skipped by train --corrupt skip", v.Corrupt)
		const most = 10
		for _, d := range v.Damage[:min(len(v.Damage), most)] {
			line("", "%v", d)
		}
		if v.Corrupt > most {
			line("", "and %d more (--json lists a hundred)", v.Corrupt-most)
		}
	case v.Decoded:
		line("corrupt", "none")
	}
	if !v.Decoded {
		line("checked", "headers only, as there are over %d images: pass --check to decode all", decodedAll)
	}
	if len(v.LeftOut) > 0 {
		line("not read", "%s: convert these images to use them", tallied(v.LeftOut, 20, ""))
	}
	if len(v.Others) > 0 {
		line("ignored", "other files: %s", tallied(v.Others, 20, "without an extension"))
	}
	return b.String()
}

// sizesText writes the sizes of images: the most frequent ones and the range.
func sizesText(v dataset.Survey) string {
	const most = 3
	channels := map[int]string{1: ", grey", 3: ", colour"}[v.Channels]
	switch n := len(v.Sizes); {
	case n == 0:
		return ""
	case n == 1:
		return fmt.Sprintf("%d×%d pixels%s", v.Sizes[0].Width, v.Sizes[0].Height, channels)
	default:
		var words []string
		for _, s := range v.Sizes[:min(n, most)] {
			words = append(words, fmt.Sprintf("%d×%d (%d)", s.Width, s.Height, s.Images))
		}
		text := strings.Join(words, ", ")
		if n > most {
			text += fmt.Sprintf(" and %s", plural.N(n-most, "other size"))
		}
		low, high := v.Range()
		return fmt.Sprintf("%s; widths %d to %d, heights %d to %d pixels", text, low.Width, high.Width, low.Height, high.Height)
	}
}

// tallied lists at most most names with their counts, the most frequent first; none stands for the empty name.
func tallied(of map[string]int, most int, none string) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int { return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b)) })
	var words []string
	for _, name := range names[:min(len(names), most)] {
		if name == "" {
			words = append(words, fmt.Sprintf("%d %s", of[name], none))
		} else {
			words = append(words, fmt.Sprintf("%d %s", of[name], quote.Text(name)))
		}
	}
	if n := len(names) - most; n > 0 {
		words = append(words, "and "+plural.N(n, "more kind"))
	}
	return strings.Join(words, ", ")
}
