package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
)

// imageInfo describes an image file and its metadata (a PNG's text chunks, the EXIF of a JPEG or WebP), as JSON. Values that are JSON are
// embedded as JSON.
type imageInfo struct {
	Kind   string         `json:"kind"` // "image"
	Path   string         `json:"path"`
	Format string         `json:"format"`          // "png", "jpeg", …
	Width  int            `json:"width,omitempty"` // after EXIF orientation; 0: the header is damaged
	Height int            `json:"height,omitempty"`
	Damage string         `json:"damage,omitempty"` // what is wrong with it
	Text   map[string]any `json:"text"`
}

// infoImage describes an image file of a supported format. A damaged one is described as far as it can be read, and is an error.
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
	if perr := a.print(out, b.String()); perr != nil || err == nil {
		return perr
	}
	what := "damaged"
	if cutShort(is.ID, data) {
		what = "truncated"
	}
	return fmt.Errorf("%s: the image file is %s: %w", quote.Path(path), what, quote.Error(err))
}

// cutShort reports whether an image file is truncated, by its format's end marker or by the length in its header.
func cutShort(format string, data []byte) bool {
	short := func(at, more int) bool { // the length without more, at an offset
		return len(data) < at+4 || uint64(len(data)) < uint64(binary.LittleEndian.Uint32(data[at:]))+uint64(more)
	}
	switch format {
	case "png":
		return !bytes.Contains(data, []byte("IEND"))
	case "jpeg":
		return !bytes.HasSuffix(bytes.TrimRight(data, "\x00"), []byte{0xFF, 0xD9})
	case "gif":
		return !bytes.HasSuffix(data, []byte{0x3B})
	case "webp":
		return short(4, 8)
	case "bmp":
		return short(2, 0)
	}
	return false
}

// imageText writes one text of an image's metadata: our settings one per line, other texts with their lines indented.
func imageText(b *strings.Builder, t vision.Text) {
	var own map[string]json.RawMessage
	if t.Keyword == "onestep" && json.Unmarshal([]byte(t.Value), &own) == nil {
		b.WriteString("onestep:\n")
		for k, v := range sorted(own) {
			if k == "label" && string(v) == strconv.Itoa(job.Unset) {
				continue // no class was chosen
			}
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
	left := longest // characters left of the whole text
	for i, line := range lines {
		if left <= 0 {
			fmt.Fprintf(b, "  ... (%s more)\n", plural.N(len(lines)-i, "line"))
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
