package prompt

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"

	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// Tokens are transformers' for 500 prompts, of the embedded vocabulary and of folders in both forms.
func TestTokens(t *testing.T) {
	f, err := os.Open("testdata/prompts.jsonl")
	require.NoError(t, err)
	defer f.Close()
	small, err := Open("testdata/small")
	require.NoError(t, err)
	five, err := Open("testdata/small5")
	require.NoError(t, err)
	require.Equal(t, 1000, small.Vocab())
	require.Equal(t, 0, small.Pad(), "of tokenizer_config.json")
	d := Default().WithPad(0) // as the generator's
	lines, n := bufio.NewScanner(f), 0
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var want struct {
			Text               string
			IDs, Padded, Small []int
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &want))
		n++
		require.Equal(t, want.IDs, append([]int{}, d.Encode(want.Text)...), "%q", want.Text)
		require.Equal(t, want.Small, append([]int{}, small.Encode(want.Text)...), "%q", want.Text)
		require.Equal(t, want.Small, append([]int{}, five.Encode(want.Text)...), "%q", want.Text)
		chunks, cut := d.Plain(want.Text)
		require.Equal(t, want.Padded, chunks[0].IDs, "%q", want.Text)
		require.Equal(t, len(want.IDs) > 75, cut != "" || (len(want.IDs) > 75 && d.Decode(want.IDs[75:]) == ""), "%q", want.Text)
	}
	require.NoError(t, lines.Err())
	require.Equal(t, 500, n)
}

func TestDefault(t *testing.T) {
	d := Default()
	require.Equal(t, 49408, d.Vocab())
	require.Equal(t, [3]int{49406, 49407, 49407}, [3]int{d.BOS(), d.EOS(), d.Pad()})
	require.Equal(t, []int{320, 1125, 539, 320, 2368}, d.Encode("a photo of a cat"))
	require.Equal(t, "a photo of a cat", d.Decode(d.Encode("A  photo of a\ncat")))
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct{ want, vocab, merges, config string }{
		{"neither", "", "", ""},
		{"every number from 0 to 2 once", `{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 1}`, "", ""},
		{"every number from 0 to 2 once", `{"a": 7, "<|startoftext|>": 1, "<|endoftext|>": 2}`, "", ""},
		{"there is no token \"ab\"", `{"a": 0, "b": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}`, "a b\n", ""},
		{"there is no token <|endoftext|>", `{"a": 0, "<|startoftext|>": 1}`, "", ""},
		{"want 1 to", `{}`, "", ""},
		{"vocab.json", `[]`, "", ""},
		{"pad_token is \"x\"", `{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}`, "", `{"pad_token": "x"}`},
		{"model_max_length is 1", `{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}`, "", `{"model_max_length": 1}`},
		{"want a token, got 7", `{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}`, "", `{"pad_token": 7}`},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"vocab.json": c.vocab, "merges.txt": "#version: 0.2\n" + c.merges, "tokenizer_config.json": c.config} {
			if text != "" && c.vocab != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
			}
		}
		_, err := Open(dir)
		require.ErrorContains(t, err, c.want)
	}
}

// Tokens spell what was encoded, and composing with many marks is composing.
func FuzzEncode(f *testing.F) {
	for _, s := range []string{"a photo of a cat", "İ ẞ é e\u0301", "a<|endoftext|>b", "<|ENDOFTEXT|>", "\xff", "😀 'll", "가\u1100\u1161\u11a8 \u0344\u0f73"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d := Default()
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
		valid := strings.ToValidUTF8(text, "\uFFFD")
		want := ""
		for rest := valid; rest != ""; {
			plain, id, after := d.raw.next(rest)
			want += squeeze(clean(plain))
			if id >= 0 {
				want += d.words[id]
			}
			rest = after
		}
		if got := squeeze(d.Decode(d.Encode(text))); got != want {
			t.Fatalf("%q became %q", want, got)
		}
		if got, want := composeMarks(valid), norm.NFC.String(valid); got != want && !strings.Contains(want, "\u034f") {
			t.Fatalf("%+q composed is %+q, want %+q", valid, got, want)
		}
	})
}

// Hostile folders are errors or tokenizers that work.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}`), []byte("#version\na a\n"), []byte(`{"pad_token": {"content": "a"}}`), false)
	f.Add([]byte(`{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1}, "merges": [["a", "b"], "c d"]}}`), []byte(""), []byte("{}"), true)
	f.Fuzz(func(t *testing.T, vocab, merges, config []byte, five bool) {
		dir := t.TempDir()
		files := map[string][]byte{"vocab.json": vocab, "merges.txt": merges, "tokenizer_config.json": config}
		if five {
			files = map[string][]byte{"tokenizer.json": vocab, "tokenizer_config.json": config}
		}
		for name, data := range files {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		tok, err := Open(dir)
		if err != nil {
			return
		}
		for _, id := range tok.Encode("a cat") {
			if id < 0 || id >= tok.Vocab() {
				t.Fatalf("token %d of %d", id, tok.Vocab())
			}
		}
		tok.Plain("a cat")
	})
}
