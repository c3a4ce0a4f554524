package prompt

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"

	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// crc is how the generator writes ids down.
func crc(ids []int) string {
	text := strings.Trim(fmt.Sprint(ids), "[]")
	return fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(text)))
}

// Tokens are transformers' for 500 prompts, of the embedded vocabulary and of folders in both forms, bare and in their frame.
func TestTokens(t *testing.T) {
	f, err := os.Open("testdata/prompts.jsonl.gz")
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	small, err := Open("testdata/small")
	require.NoError(t, err)
	five, err := Open("testdata/small5")
	require.NoError(t, err)
	require.Equal(t, 1000, small.Vocab())
	require.Equal(t, 0, small.Pad(), "of tokenizer_config.json")
	require.Equal(t, 0, five.Pad())
	dir := t.TempDir()
	require.NoError(t, Default().WithPad(0).Save(dir))
	saved, err := Open(dir)
	require.NoError(t, err)

	lines := json.NewDecoder(z)
	var versions map[string]string
	require.NoError(t, lines.Decode(&versions))
	n := 0
	for lines.More() {
		var want struct {
			Text, Padded, Ends, Small, Cut string
			IDs, Plain                     []int
		}
		require.NoError(t, lines.Decode(&want))
		n++
		if want.Plain == nil {
			want.Plain = want.IDs
		}
		for _, d := range []*Tokenizer{Default().WithPad(0), saved} {
			require.Equal(t, want.IDs, append([]int{}, d.Encode(want.Text)...), "%q", want.Text)
			chunks, _ := d.Plain(want.Text)
			require.Equal(t, want.Padded, crc(chunks[0].IDs), "%q", want.Text)
		}
		require.Equal(t, want.Plain, append([]int{}, Default().Encode(want.Text)...), "%q", want.Text)
		chunks, cut := Default().Plain(want.Text)
		require.Len(t, chunks, 1)
		require.Equal(t, want.Ends, crc(chunks[0].IDs), "%q", want.Text)
		require.Equal(t, want.Cut, cut, "%q", want.Text)
		require.Equal(t, want.Small, crc(small.Encode(want.Text)), "%q", want.Text)
		require.Equal(t, want.Small, crc(five.Encode(want.Text)), "%q", want.Text)
	}
	require.Equal(t, 500, n)
}

// The small files of a folder mean what they mean to transformers: what pads, how long texts are, what added tokens are and where they
// are looked for.
func TestFolders(t *testing.T) {
	data, err := os.ReadFile("testdata/folders.json")
	require.NoError(t, err)
	var golden struct {
		Folders []struct {
			Name           string
			Files          map[string]json.RawMessage
			Pad, Max, Size int
			IDs, Padded    map[string][]int
		}
	}
	require.NoError(t, json.Unmarshal(data, &golden))
	require.NotEmpty(t, golden.Folders)
	for _, c := range golden.Folders {
		t.Run(c.Name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"vocab.json", "merges.txt"} {
				data, err := os.ReadFile(filepath.Join("testdata/small", name))
				require.NoError(t, err)
				c.Files[name] = data
			}
			for name, data := range c.Files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
			}
			open, err := Open(dir)
			require.NoError(t, err)
			again := t.TempDir() // what Save writes says the same
			require.NoError(t, open.Save(again))
			saved, err := Open(again)
			require.NoError(t, err)
			for _, d := range []*Tokenizer{open, saved} {
				require.Equal(t, []int{c.Pad, c.Max, c.Size}, []int{d.Pad(), d.Max(), d.Vocab()})
				for text, want := range c.IDs {
					require.Equal(t, want, d.Encode(text), "%q", text)
				}
				for text, want := range c.Padded {
					chunks, _ := d.Plain(text)
					require.Equal(t, want, chunks[0].IDs)
				}
			}
		})
	}
}

// Every character is the letter, number or space that it is for the reference, and is normalized as there.
func TestUnicode(t *testing.T) {
	if unicode.Version != "15.0.0" || norm.Version != unicode.Version {
		t.Skipf("Unicode is %s here, and %s for norm: the tables of what is missing in 15.0.0 are not meant for it", unicode.Version, norm.Version)
	}
	data, err := os.ReadFile("testdata/unicode.json")
	require.NoError(t, err)
	var golden struct{ Runs, Normalized string }
	require.NoError(t, json.Unmarshal(data, &golden))
	var runs []string
	last := -1
	h := sha256.New()
	for r := range rune(0x110000) {
		if !utf8.ValidRune(r) {
			continue
		}
		if k := []int{2, 0, 1, 3}[kind(r)]; k != last {
			runs = append(runs, fmt.Sprintf("%x%d", r, k))
			last = k
		}
		io.WriteString(h, clean("a\u0345"+string(r)+"\u0334"+string(r)+"\u0301a")) // in order and composed, too
	}
	require.Equal(t, golden.Runs, strings.Join(runs, " "))
	require.Equal(t, golden.Normalized, hex.EncodeToString(h.Sum(nil)))
}

// A text without spaces takes no more than a little longer than one with them, and goroutines do not meet.
func TestLong(t *testing.T) {
	for _, text := range []string{strings.Repeat("a", 1<<20), strings.Repeat("!<", 1<<19) + eosToken, strings.Repeat("e\u0301\u0316", 1<<17), strings.Repeat("\u0301", 1<<18)} {
		ids := Default().Encode(text)
		require.LessOrEqual(t, len(ids), len(text))
		require.Equal(t, norm.NFC.String(text[:30]), strings.ReplaceAll(Default().Decode(ids), " ", "")[:len(norm.NFC.String(text[:30]))])
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if !slices.Equal(Default().WithPad(0).Encode("a photo of a cat!"), []int{320, 1125, 539, 320, 2368, 0}) {
					t.Error("not the same in another goroutine")
				}
			}
		})
	}
	all.Wait()
}

func TestDefault(t *testing.T) {
	d := Default()
	require.Equal(t, 49408, d.Vocab())
	require.Equal(t, [3]int{49406, 49407, 49407}, [3]int{d.BOS(), d.EOS(), d.Pad()})
	require.Equal(t, []int{320, 1125, 539, 320, 2368}, d.Encode("a photo of a cat"))
	require.Equal(t, "a photo of a cat", d.Decode(d.Encode("A  photo of a\ncat")))
}

func TestOpenRefuses(t *testing.T) {
	const tiny = `{"a": 0, "b": 1, "ab": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}`
	fast := func(kind, vocab, merges string) string {
		return fmt.Sprintf(`{"model": {"type": %q, "end_of_word_suffix": "</w>", "vocab": %s, "merges": %s}}`, kind, vocab, merges)
	}
	type files map[string]string
	write := func(t *testing.T, f files) string {
		dir := t.TempDir()
		for name, text := range f {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
		return dir
	}
	good, err := Open(write(t, files{"vocab.json": tiny, "merges.txt": "#version: 0.2\r\na b\r\n"}))
	require.NoError(t, err)
	require.Equal(t, []int{0, 4}, good.Encode("ab"), "there is no b that ends a word")
	for _, c := range []struct {
		want  string
		files files
	}{
		{"tokenizer.json; the directory has neither", files{}},
		{"merges.txt", files{"vocab.json": tiny}},
		{"vocab.json: want an object, got a JSON array", files{"vocab.json": `[]`, "merges.txt": ""}},
		{"vocab.json: ", files{"vocab.json": `{"a": 1.5}`, "merges.txt": ""}},
		{"1 to 262144 tokens, got 0", files{"vocab.json": `{}`, "merges.txt": ""}},
		{"each id from 0 to 2 exactly once", files{"vocab.json": `{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 1}`, "merges.txt": ""}},
		{"each id from 0 to 2 exactly once", files{"vocab.json": `{"a": 7, "<|startoftext|>": 1, "<|endoftext|>": 2}`, "merges.txt": ""}},
		{"each id from 0 to 2 exactly once", files{"vocab.json": `{"a": -1, "<|startoftext|>": 1, "<|endoftext|>": 2}`, "merges.txt": ""}},
		{`the special token "<|endoftext|>" is not in the vocabulary`, files{"vocab.json": `{"a": 0, "<|startoftext|>": 1}`, "merges.txt": ""}},
		{`there is no token "c"`, files{"vocab.json": tiny, "merges.txt": "a b\na c\n"}},
		{`there is no token "ba"`, files{"vocab.json": tiny, "merges.txt": "b a\n"}},
		{`duplicate merge of "a" and "b"`, files{"vocab.json": tiny, "merges.txt": "a b\na b\n"}},
		{`merges.txt line 2: want two tokens separated by a space, got "ab"`, files{"vocab.json": tiny, "merges.txt": "a b\nab\n"}},
		{`got " b"`, files{"vocab.json": tiny, "merges.txt": " b"}},
		{`there is no token "b c"`, files{"vocab.json": tiny, "merges.txt": "a b c"}},
		{"want CLIP's tokenizer", files{"tokenizer.json": fast("WordPiece", tiny, "[]")}},
		{`merge 1: want two tokens, got "[\"a\"]"`, files{"tokenizer.json": fast("BPE", tiny, `["a b", ["a"]]`)}},
		{`the special token "x" is not in the vocabulary`, files{"vocab.json": tiny, "merges.txt": "", "tokenizer_config.json": `{"pad_token": "x"}`}},
		{"want a token, got 7", files{"vocab.json": tiny, "merges.txt": "", "tokenizer_config.json": `{"pad_token": 7}`}},
		{"none of these is supported", files{"vocab.json": tiny, "merges.txt": "",
			"special_tokens_map.json": `{"pad_token": {"content": "a", "single_word": true}}`}},
		{"none of these is supported", files{"vocab.json": tiny, "merges.txt": "",
			"special_tokens_map.json": `{"pad_token": {"content": "a", "lstrip": true}}`}},
		{`bos_token is "a": want <|startoftext|>`, files{"vocab.json": tiny, "merges.txt": "", "special_tokens_map.json": `{"bos_token": "a"}`}},
		{`the added token "a" has id 9, but in the vocabulary its id is 0`, files{"vocab.json": tiny, "merges.txt": "", "added_tokens.json": `{"a": 9}`}},
		{`has the key "x"`, files{"vocab.json": tiny, "merges.txt": "", "tokenizer_config.json": `{"added_tokens_decoder": {"x": {"content": "a"}}}`}},
		{"each id from 0 to 5 exactly once", files{"vocab.json": tiny, "merges.txt": "", "added_tokens.json": `{"c": 9}`}},
		{"model_max_length is 1:", files{"vocab.json": tiny, "merges.txt": "", "tokenizer_config.json": `{"model_max_length": 1}`}},
		{"model_max_length is 9.5:", files{"vocab.json": tiny, "merges.txt": "", "tokenizer_config.json": `{"model_max_length": 9.5}`}},
	} {
		_, err := Open(write(t, c.files))
		require.ErrorContains(t, err, c.want)
	}
	dir := write(t, files{"merges.txt": ""})
	f, err := os.Create(filepath.Join(dir, "vocab.json"))
	require.NoError(t, err)
	require.NoError(t, f.Truncate(MaxFile+1))
	require.NoError(t, f.Close())
	_, err = Open(dir)
	require.ErrorContains(t, err, "vocab.json")
	require.ErrorContains(t, err, "at most 8388608")
}

// A file with more merges than any vocabulary has is an error before anything is made of them.
func TestOpenManyMerges(t *testing.T) {
	for name, text := range map[string]string{
		"tokenizer.json": `{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "merges": [` + strings.Repeat(`"",`, maxMerges) + `""]}}`,
		"merges.txt":     strings.Repeat("a b\n", maxMerges+1),
	} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		if name == "merges.txt" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "vocab.json"), []byte("{}"), 0o644))
		}
		_, err := Open(dir)
		require.ErrorContains(t, err, "want at most 262144 merges")
	}
}

// Tokens spell what was encoded, and composing with many marks is composing.
func FuzzEncode(f *testing.F) {
	for _, s := range []string{"a photo of a cat", "İ ẞ é e\u0301", "a<|endoftext|>b", "<|ENDOFTEXT|>", "\xff", "😀 'll", "가\u1100\u1161\u11a8 \u0344\u0f73", "o\u0310\u0301", "a\u1acf\u0316 \U00011935\U00011930"} {
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
		if strings.ContainsFunc(valid, isLaterMark) {
			return // norm knows more of them
		}
		if got, want := composeMarks(valid), norm.NFC.String(valid); got != want && !strings.Contains(want, "\u034f") {
			t.Fatalf("%+q composed is %+q, want %+q", valid, got, want)
		}
	})
}

// Hostile folders are errors or tokenizers that work.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"a": 0, "a</w>": 1, "aa</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}`), []byte("#version\na a</w>\n"), []byte(`{"pad_token": {"content": "a"}}`), []byte(`{"pad_token": "a", "unk_token": "a"}`), false)
	f.Add([]byte(`{"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1}, "merges": [["a", "b"], "c d"]}}`), []byte(""), []byte("{}"), []byte("{}"), true)
	f.Add([]byte(`{"added_tokens": [{"id": 2, "content": " ", "normalized": true}], "model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1}, "merges": []}}`), []byte(""), []byte("{}"), []byte("{}"), true)
	f.Add([]byte(`{"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}`), []byte(""), []byte(`{"added_tokens_decoder": {"3": {"content": "", "special": true}, "0": {"content": "a", "normalized": true}}, "model_max_length": 5}`), []byte("{}"), false)
	f.Fuzz(func(t *testing.T, vocab, merges, config, special []byte, five bool) {
		dir := t.TempDir()
		files := map[string][]byte{"vocab.json": vocab, "merges.txt": merges, "tokenizer_config.json": config, "special_tokens_map.json": special}
		if five {
			delete(files, "merges.txt")
			delete(files, "vocab.json")
			files["tokenizer.json"] = vocab
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
		for _, id := range append(tok.Encode("a cat <|ENDOFTEXT|> aaaa"), tok.BOS(), tok.EOS(), tok.Pad()) {
			if id < 0 || id >= tok.Vocab() {
				t.Fatalf("token %d of %d", id, tok.Vocab())
			}
		}
		chunks, _ := tok.Plain("a cat")
		if len(chunks) != 1 || len(chunks[0].IDs) != tok.Max() {
			t.Fatalf("chunks %v", chunks)
		}
	})
}
