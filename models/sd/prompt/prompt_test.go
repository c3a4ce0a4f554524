package prompt

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"

	"github.com/onestep-go/onestep/torch"
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

func TestChunks(t *testing.T) {
	d := Default()
	cats := func(n int) string { return strings.Repeat("cat ", n) }
	chunks := func(text string) []Chunk { spans, _ := Parse(text); return d.Weighted(spans) }
	require.Len(t, chunks(""), 1)
	require.Len(t, chunks(cats(75)), 1)
	two := chunks(cats(76))
	require.Len(t, two, 2)
	require.Equal(t, []int{d.BOS(), d.Encode("cat")[0], d.EOS(), d.EOS()}, two[1].IDs[:4])
	require.Len(t, chunks("a BREAK b"), 2)
	// What follows the last comma moves on together, if it is near.
	moved := chunks(cats(70) + ", " + cats(10))
	require.Equal(t, 14, slices.Index(moved[1].IDs[1:], d.EOS())+4) // ten, and the comma stays behind
	require.Equal(t, 71, slices.Index(moved[0].IDs[1:], d.EOS()))
	far := chunks(cats(50) + ", " + cats(40))
	require.Equal(t, 75, slices.Index(far[0].IDs[1:], d.EOS()))
	weighed := chunks("a (cat:2) b")
	require.Equal(t, []float32{1, 1, 2, 1, 1}, weighed[0].Weights[:5])
	a, b := d.Match(chunks("a"), chunks("a BREAK b BREAK c"))
	require.Len(t, a, 3)
	require.Len(t, b, 3)
	require.Equal(t, []int{d.BOS(), d.EOS()}, a[2].IDs[:2])
}

func TestWeigh(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		d := Default()
		spans, _ := Parse("a (cat:2) b")
		chunks := d.Weighted(spans)
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, 77, 4)
		plain, _ := d.Plain("a cat b")
		require.Same(t, x, Weigh(s, x, plain))
		y := Weigh(s, x, chunks)
		require.InDelta(t, x.Mean(s).Item(), y.Mean(s).Item(), 1e-6)
		ratio := y.Div(s, x)
		at := func(i int) float64 { return ratio.Select(s, 1, i).Select(s, 1, 0).Item() }
		require.InDelta(t, 2, at(2)/at(1), 1e-5)
		require.InDelta(t, 1, at(3)/at(1), 1e-5)
		return nil
	})
	require.NoError(t, err)
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
