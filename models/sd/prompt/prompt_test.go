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

func TestParse(t *testing.T) {
	for text, want := range map[string][]Span{
		"normal text":                {{Text: "normal text", Weight: 1}},
		"an (important) word":        {{Text: "an ", Weight: 1}, {Text: "important", Weight: 1.1}, {Text: " word", Weight: 1}},
		"(unbalanced":                {{Text: "unbalanced", Weight: 1.1}},
		`\(literal\]`:                {{Text: "(literal]", Weight: 1}},
		"(unnecessary)(parens)":      {{Text: "unnecessaryparens", Weight: 1.1}},
		"a (((house:1.3)) [on] hill": {{Text: "a ", Weight: 1}, {Text: "house", Weight: 1.3 * 1.1 * 1.1}, {Text: " ", Weight: 1.1}, {Text: "on", Weight: 1.1 * (1 / 1.1)}, {Text: " hill", Weight: 1.1}},
		"a) b] c:d":                  {{Text: "a) b] c:d", Weight: 1}},
		"x BREAK y":                  {{Text: "x", Weight: 1}, {Break: true, Weight: 1}, {Text: "y", Weight: 1}},
		"BREAKER":                    {{Text: "BREAKER", Weight: 1}},
		"(a:-0.5)":                   {{Text: "a", Weight: -0.5}},
		"(a:1.2.3) z":                {{Text: "a:1.2.3) z", Weight: 1.1}},
		"":                           {{Weight: 1}},
		`end\`:                       {{Text: `end\`, Weight: 1}},
	} {
		got, loras := Parse(text)
		require.Empty(t, loras)
		require.Len(t, got, len(want), "%q: %+v", text, got)
		for i := range want {
			require.Equal(t, want[i].Text, got[i].Text, text)
			require.Equal(t, want[i].Break, got[i].Break, text)
			require.InDelta(t, want[i].Weight, got[i].Weight, 1e-12, text)
		}
	}
	spans, loras := Parse("a <lora:style:0.8> cat <lora:x> <lora:y:1:0.5> <lora:bad:x>")
	require.Equal(t, []LoRA{{"style", 0.8, 0.8}, {"x", 1, 1}, {"y", 1, 0.5}}, loras)
	require.Equal(t, "a  cat   <lora:bad:x>", spans[0].Text)
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
		{"pad_token is 7", `{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}`, "", `{"pad_token": 7}`},
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

// No text is lost by the syntax, whatever it is.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a (b:1.2) [c] \\( BREAK", "<lora:a:1>", "((((", ":1)", "]]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spans, loras := Parse(text)
		letters := func(s string) string {
			return strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'z' {
					return r
				}
				return -1
			}, s)
		}
		all := ""
		for _, s := range spans {
			all += s.Text
		}
		if len(loras) == 0 && letters(all) != letters(text) {
			t.Fatalf("%q became %q", text, all)
		}
		for _, c := range Default().Weighted(spans) {
			if len(c.IDs) != 77 || len(c.Weights) != 77 || c.IDs[0] != 49406 || !slices.Contains(c.IDs, 49407) {
				t.Fatalf("%q: a chunk %v", text, c.IDs)
			}
		}
	})
}

// Tokens spell what was encoded.
func FuzzEncode(f *testing.F) {
	for _, s := range []string{"a photo of a cat", "İ ẞ é e\u0301", "<|endoftext|>", "\xff", "😀 'll"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d := Default()
		ids := d.Encode(text)
		squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
		text = strings.ToValidUTF8(text, "\uFFFD")
		want := ""
		for _, special := range []string{bosToken, eosToken} {
			text = strings.ReplaceAll(text, special, " ")
		}
		for _, w := range split(clean(text)) {
			want += w
		}
		if got := squeeze(d.Decode(ids)); got != squeeze(want) && !strings.Contains(want, "<|") {
			t.Fatalf("%q became %q", want, got)
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
