package vision

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
)

// Text is a text in an image's metadata: a text chunk of a PNG, or the corresponding EXIF field of other formats. In a PNG its
// keyword has 1 to 79 Latin-1 characters.
type Text struct{ Keyword, Value string }

// Parameters is the keyword of A1111's generation parameters.
const Parameters = "parameters"

// Lookup returns the first text with a keyword, and whether there is one.
func Lookup(texts []Text, keyword string) (value string, ok bool) {
	i := slices.IndexFunc(texts, func(t Text) bool { return t.Keyword == keyword })
	if i < 0 {
		return "", false
	}
	return texts[i].Value, true
}

// Limits of the text in one file, far above real files: ComfyUI's largest workflows have a few hundred kilobytes.
const (
	maxText   = 2 << 20 // bytes of one text, inflated
	maxTexts  = 8 << 20 // bytes of all texts, inflated
	mostTexts = 1000
	maxChunks = 1 << 20 // chunks of a PNG that are skipped
)

const pngSignature = "\x89PNG\r\n\x1a\n"

// ReadTexts returns the texts of a PNG, JPEG or WebP file: a PNG's text chunks, compressed ones too, or the EXIF fields UserComment (as
// "parameters", which is where A1111 puts it), MakerNote (as "onestep" if it is ours), Software and ImageDescription. A damaged
// file is an error; memory is not allocated for sizes that a file only claims.
func ReadTexts(r io.Reader) ([]Text, error) {
	b := bufio.NewReader(r)
	head, _ := b.Peek(12)
	switch {
	case bytes.HasPrefix(head, []byte(pngSignature)):
		_, _ = b.Discard(len(pngSignature))
		return pngTexts(b)
	case bytes.HasPrefix(head, []byte{0xff, 0xd8}), isWebP(head):
		exif, err := exifOf(b)
		if err != nil {
			return nil, err
		}
		return exif.texts(), nil
	}
	return nil, errors.New("not a PNG, JPEG or WebP file")
}

func pngTexts(r *bufio.Reader) ([]Text, error) {
	var texts []Text
	total := 0
	add := func(key []byte, value string) error {
		if total += len(value) + len(key); total > maxTexts {
			return fmt.Errorf("png: it has more than %d MiB of text", maxTexts>>20)
		}
		if len(texts) == mostTexts {
			return fmt.Errorf("png: it has more than %d text chunks", mostTexts)
		}
		texts = append(texts, Text{fromLatin1(key), value})
		return nil
	}
	for range maxChunks {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, errors.New("png: the end chunk is missing")
		}
		n, kind := int64(binary.BigEndian.Uint32(head[:4])), string(head[4:])
		if n > 1<<31-1 {
			return nil, fmt.Errorf("png: chunk %s declares %d bytes", quote.Quoted(kind), n)
		}
		if kind == "IEND" {
			return texts, nil
		}
		if kind != "tEXt" && kind != "iTXt" && kind != "zTXt" {
			if m, err := discard(r, n+4); err != nil {
				return nil, fmt.Errorf("png: chunk %s declares %d bytes, %d follow", quote.Quoted(kind), n, m)
			}
			continue
		}
		if n > maxText {
			return nil, fmt.Errorf("png: a text chunk has %d bytes: want at most %d MiB", n, maxText>>20)
		}
		body := make([]byte, n+4)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, fmt.Errorf("png: chunk %s declares %d bytes, but the file ends", quote.Quoted(kind), n)
		}
		sum := crc32.Update(crc32.ChecksumIEEE(head[4:]), crc32.IEEETable, body[:n])
		if sum != binary.BigEndian.Uint32(body[n:]) {
			return nil, fmt.Errorf("png: chunk %s is damaged: its checksum does not match", quote.Quoted(kind))
		}
		key, value, ok := bytes.Cut(body[:n], []byte{0})
		if !ok {
			return nil, fmt.Errorf("png: chunk %s has no keyword", quote.Quoted(kind))
		}
		text, err := chunkText(kind, value)
		if err != nil {
			return nil, err
		}
		if err := add(key, text); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("png: it has more than %d chunks", maxChunks)
}

// chunkText is the text of a chunk after its keyword. By the standard tEXt and zTXt are in Latin-1, but several programs
// (stable-diffusion.cpp, StabilityMatrix) put UTF-8 there: bytes that are valid UTF-8 are read as UTF-8, because Latin-1 text with letters
// beyond ASCII hardly ever is.
func chunkText(kind string, value []byte) (string, error) {
	short := fmt.Errorf("png: chunk %s is truncated", quote.Quoted(kind))
	switch kind {
	case "zTXt":
		if len(value) < 1 || value[0] != 0 {
			return "", short
		}
		var err error
		if value, err = inflate(value[1:]); err != nil {
			return "", err
		}
	case "iTXt":
		if len(value) < 2 {
			return "", short
		}
		compressed := value[0] != 0
		parts := bytes.SplitN(value[2:], []byte{0}, 3) // language, keyword in it, text
		if len(parts) != 3 {
			return "", short
		}
		value = parts[2]
		if compressed {
			var err error
			if value, err = inflate(value); err != nil {
				return "", err
			}
		}
		return string(value), nil
	}
	if utf8.Valid(value) {
		return string(value), nil
	}
	return fromLatin1(value), nil
}

func inflate(data []byte) ([]byte, error) {
	z, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("png: compressed text: %w", err)
	}
	defer z.Close()
	text, err := io.ReadAll(io.LimitReader(z, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("png: compressed text: %w", err)
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("png: compressed text unpacks to more than %d MiB", maxText>>20)
	}
	return text, nil
}

// discard skips n bytes, in steps, because [bufio.Reader.Discard] counts in int.
func discard(r *bufio.Reader, n int64) (int64, error) {
	m, err := r.Discard(int(n))
	return int64(m), err
}

func latin1(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == 0 || r > 255 })
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == 0 || r > 127 })
}

func fromLatin1(b []byte) string {
	out := make([]rune, len(b))
	for i, c := range b {
		out[i] = rune(c)
	}
	return string(out)
}

func toLatin1(s string) []byte {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		out = append(out, byte(r))
	}
	return out
}

// encodeTexts returns the chunks that hold texts in a PNG: Latin-1 text as tEXt, other text as iTXt in UTF-8. Latin-1 text that is
// also valid UTF-8 is written as iTXt too.
func encodeTexts(texts []Text) ([]byte, error) {
	var out bytes.Buffer
	for _, t := range texts {
		if t.Keyword == "" || len(t.Keyword) > 79 || !latin1(t.Keyword) {
			return nil, fmt.Errorf("png text: want a keyword of 1 to 79 Latin-1 characters, got %s", quote.Quoted(t.Keyword))
		}
		if v := toLatin1(t.Value); latin1(t.Value) && (ascii(t.Value) || !utf8.Valid(v)) {
			chunk(&out, "tEXt", toLatin1(t.Keyword), []byte{0}, v)
		} else {
			chunk(&out, "iTXt", toLatin1(t.Keyword), make([]byte, 5), []byte(t.Value))
		}
	}
	return out.Bytes(), nil
}

func chunk(out *bytes.Buffer, kind string, parts ...[]byte) {
	body := append([]byte(kind), bytes.Join(parts, nil)...)
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(body)-4))
	out.Write(n[:])
	out.Write(body)
	binary.BigEndian.PutUint32(n[:], crc32.ChecksumIEEE(body))
	out.Write(n[:])
}
