package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
)

// imageInfo is what an image file is, and what a PNG's text chunks or the EXIF of a JPEG or WebP say, as JSON. Values that are JSON
// themselves are taken over.
type imageInfo struct {
	Kind   string         `json:"kind"` // "image"
	Path   string         `json:"path"`
	Format string         `json:"format"`          // "png", "jpeg", …
	Width  int            `json:"width,omitempty"` // as it is meant to be seen; 0: the header is damaged
	Height int            `json:"height,omitempty"`
	Damage string         `json:"damage,omitempty"` // what is wrong with it
	Text   map[string]any `json:"text"`
}

// infoImage describes an image file of a format that is read. What of it is damaged is said, and the rest told.
func (a *app) infoImage(path string, is filetype.Type) error {
	data, err := plainfile.Read(path, vision.MaxEncoded)
	if err != nil {
		return err
	}
	out := imageInfo{Kind: "image", Path: path, Format: is.ID, Text: map[string]any{}}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", quote.Long(path, longest), is.Name)
	h, err := vision.ReadHeader(data)
	if err == nil {
		out.Width, out.Height = h.Size()
		fmt.Fprintf(&b, ", %d×%d pixels", out.Width, out.Height)
		_, err = vision.Decode(data)
	}
	b.WriteByte('\n')
	var texts []vision.Text
	if is.ID == "png" || is.ID == "jpeg" || is.ID == "webp" {
		var unread error
		texts, unread = vision.ReadTexts(bytes.NewReader(data))
		if err == nil {
			err = unread
		}
	}
	if err != nil {
		out.Damage = quote.Error(err).Error()
		fmt.Fprintf(&b, "corrupt: %s\n", out.Damage)
	}
	for _, t := range texts {
		out.Text[t.Keyword] = t.Value
		if json.Valid([]byte(t.Value)) && utf8.ValidString(t.Value) {
			out.Text[t.Keyword] = json.RawMessage(t.Value)
		}
		imageText(&b, t)
	}
	if len(texts) == 0 && err == nil {
		b.WriteString("no settings in it (prompt, sampler, seed)\n")
	}
	return a.print(out, b.String())
}

// imageText writes a text of an image: settings of ours one to a line, what has several lines below each other.
func imageText(b *strings.Builder, t vision.Text) {
	var own map[string]json.RawMessage
	if t.Keyword == "onestep" && json.Unmarshal([]byte(t.Value), &own) == nil {
		b.WriteString("onestep:\n")
		for k, v := range sorted(own) {
			fmt.Fprintf(b, "  %-18s %s\n", quote.Text(k), quote.Long(shortJSON(v), longest))
		}
		return
	}
	lines := strings.Split(strings.ReplaceAll(strings.TrimRight(t.Value, "\r\n"), "\r\n", "\n"), "\n")
	if len(lines) == 1 {
		fmt.Fprintf(b, "%s: %s\n", quote.Text(t.Keyword), quote.Long(t.Value, longest))
		return
	}
	fmt.Fprintf(b, "%s:\n", quote.Text(t.Keyword))
	left := longest // characters of the whole text
	for i, line := range lines {
		if left <= 0 {
			fmt.Fprintf(b, "  ... (%s more)\n", plural(len(lines)-i, "line"))
			return
		}
		if line == "" {
			b.WriteByte('\n')
		} else {
			fmt.Fprintf(b, "  %s\n", quote.Long(line, left))
		}
		left -= len(line) + 1
	}
}
