package vision

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func packed(text string) []byte {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return b.Bytes()
}

// file is a PNG of chunks alone: kind and body, in turn.
func file(chunks ...string) []byte {
	b := bytes.NewBufferString(pngSignature)
	for i := 0; i < len(chunks); i += 2 {
		chunk(b, chunks[i], []byte(chunks[i+1]))
	}
	chunk(b, "IEND")
	return b.Bytes()
}

func TestTextsOfAllChunks(t *testing.T) {
	for _, c := range []struct{ kind, body, want string }{
		{"tEXt", "parameters\x00テスト, café", "テスト, café"}, // UTF-8, as stable-diffusion.cpp writes it
		{"tEXt", "parameters\x00caf\xe9 \xe0 Z\xfcrich", "café à Zürich"},
		{"zTXt", "parameters\x00\x00" + string(packed("a castle")), "a castle"},
		{"zTXt", "parameters\x00\x00" + string(packed("caf\xe9")), "café"},
		{"iTXt", "parameters\x00\x00\x00\x00\x00テスト 😀", "テスト 😀"},
		{"iTXt", "parameters\x00\x01\x00ja\x00x\x00" + string(packed("テスト 😀")), "テスト 😀"},
	} {
		got, err := ReadTexts(bytes.NewReader(file(c.kind, c.body)))
		require.NoError(t, err)
		require.Equal(t, []Text{{"parameters", c.want}}, got)
	}
}

func TestLookup(t *testing.T) {
	texts := []Text{{"a", "first"}, {"a", "second"}, {"b", ""}}
	for keyword, want := range map[string][]any{"a": {"first", true}, "b": {"", true}, "c": {"", false}} {
		value, ok := Lookup(texts, keyword)
		require.Equal(t, want, []any{value, ok}, keyword)
	}
}

// Latin-1 that happens to be valid UTF-8 comes back as it was written.
func TestLatinThatReadsAsUTF8(t *testing.T) {
	texts := []Text{{"parameters", "Ã©"}, {"b", "café"}, {"c", "日本"}}
	var b bytes.Buffer
	require.NoError(t, EncodePNG(&b, filled(2, 2, 1), texts))
	got, err := ReadTexts(&b)
	require.NoError(t, err)
	require.Equal(t, texts, got)
}

func TestTextsAreLimited(t *testing.T) {
	big := strings.Repeat("a", maxText+1)
	many := make([]string, 0, 2*(mostTexts+1))
	for i := range mostTexts + 1 {
		many = append(many, "tEXt", fmt.Sprintf("k%d\x00v", i))
	}
	var tiny bytes.Buffer
	tiny.WriteString(pngSignature)
	for range maxChunks + 1 {
		_ = binary.Write(&tiny, binary.BigEndian, [3]uint32{0, 0x61614161, 0})
	}
	for want, data := range map[string][]byte{
		"unpacks to more than":    file("zTXt", "a\x00\x00"+string(packed(strings.Repeat("a", 100<<20)))),
		"text chunk has":          file("tEXt", "a\x00"+big),
		"text chunks":             file(many...),
		"MiB of text":             file(strings.Split(strings.Repeat("tEXt\n"+"a\x00"+big[:maxText-2]+"\n", 5)+"tEXt\na\x00b", "\n")...),
		"more than 1048576 chunk": tiny.Bytes(),
	} {
		start := time.Now()
		_, err := ReadTexts(bytes.NewReader(data))
		require.ErrorContains(t, err, want)
		require.Less(t, time.Since(start), 5*time.Second)
	}
}

// What is written into the EXIF of a JPEG is read again; a text that a JPEG has no room for is an error.
func TestTextsOfJPEG(t *testing.T) {
	texts := []Text{{Parameters, "テスト 😀, café\nSteps: 4"}, {"Software", "onestep"}, {"onestep", `{"prompt": "テスト"}`}}
	var b bytes.Buffer
	require.NoError(t, EncodeJPEG(&b, filled(16, 8, 200), texts))
	got, err := ReadTexts(bytes.NewReader(b.Bytes()))
	require.NoError(t, err)
	require.Equal(t, texts, got)
	m, err := Decode(b.Bytes())
	require.NoError(t, err)
	require.Equal(t, 16, m.Bounds().Dx())
	require.NoError(t, EncodeJPEG(&b, filled(2, 2, 1), nil))
	require.ErrorContains(t, EncodeJPEG(&b, filled(2, 2, 1), []Text{{Parameters, strings.Repeat("a", 40000)}}), "PNG")
}
