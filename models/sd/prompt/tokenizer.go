package prompt

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Tokenizer is CLIP's tokenizer: byte pair encoding (Sennrich et al. 2016) on the bytes of lower-case words. It is immutable and may be
// used by several goroutines.
type Tokenizer struct {
	ids    map[string]int // token ids by spelling; bytes are written as letters, and </w> ends a word
	words  []string       // spellings by token id
	merges map[[2]int32]merge
	bytes  [2][256]int32 // token ids of bytes, and of bytes at the end of a word

	bos, eos, pad int
	max           int
	added         []special // tokens that prompts may contain, besides the padding token
	raw, cleaned  names     // those that are matched in raw text and in normalized text

	given names        // words of WithWords
	runs  map[int]Word // by their first token ids
	first int          // the first id of them
}

// merges are the merges of OpenAI's CLIP (github.com/openai/CLIP, MIT: see merges.LICENSE), the first of bpe_simple_vocab_16e6.txt.
//
//go:embed merges.txt.gz
var merges []byte

const (
	bosToken = "<|startoftext|>"
	eosToken = "<|endoftext|>"
	wordEnd  = "</w>"

	maxTokens = 77 // default of model_max_length
)

// standard is the shared, immutable default tokenizer.
var standard = sync.OnceValue(func() *Tokenizer {
	z, err := gzip.NewReader(bytes.NewReader(merges))
	if err != nil {
		panic(err) // the file is embedded
	}
	text, err := io.ReadAll(z)
	if err != nil {
		panic(err)
	}
	const n = 48894 // merges
	t := &Tokenizer{ids: make(map[string]int, n+514), words: make([]string, 0, n+514), merges: make(map[[2]int32]merge, n), max: maxTokens}
	for _, end := range []string{"", wordEnd} {
		for _, b := range byteOrder {
			t.add(string(byteLetters[b]) + end)
		}
	}
	for line := range strings.Lines(string(text)) {
		a, b, _ := strings.Cut(strings.TrimSpace(line), " ")
		pair := [2]int32{int32(t.ids[a]), int32(t.ids[b])}
		t.merges[pair] = merge{rank: int32(len(t.merges)), id: int32(t.add(a + b))}
	}
	t.add(bosToken)
	t.add(eosToken)
	if err := t.finish(eosToken, nil); err != nil {
		panic(err)
	}
	return t
})

func (t *Tokenizer) add(word string) int {
	id := len(t.words)
	t.ids[word] = id
	t.words = append(t.words, word)
	return id
}

// finish sets the fields that follow from the vocabulary, the unknown token and the added tokens.
func (t *Tokenizer) finish(unk string, added []special) error {
	for name, to := range map[string]*int{bosToken: &t.bos, eosToken: &t.eos} {
		id, ok := t.ids[name]
		if !ok {
			return fmt.Errorf("there is no token %s: want a CLIP vocabulary", name)
		}
		*to = id
		if !slices.ContainsFunc(added, func(s special) bool { return s.id == id }) {
			added = append(added, special{name, id, false})
		}
	}
	slices.SortFunc(added, func(a, b special) int { return a.id - b.id })
	for b, letter := range byteLetters {
		for i, end := range []string{"", wordEnd} {
			id, ok := t.ids[string(letter)+end]
			if !ok {
				id = t.ids[unk]
			}
			t.bytes[i][b] = int32(id)
		}
	}
	t.added = added
	t.setPad(t.eos)
	return nil
}

func (t *Tokenizer) setPad(id int) {
	t.pad = id
	t.raw, t.cleaned = names{}, names{}
	all := slices.Clone(t.added)
	if !slices.ContainsFunc(all, func(s special) bool { return s.id == id }) {
		all = append(all, special{t.words[id], id, false})
	}
	slices.SortStableFunc(all, func(a, b special) int { return len(b.text) - len(a.text) })
	for _, s := range all {
		if s.clean {
			t.cleaned.add(special{clean(s.text), s.id, true})
		} else {
			t.raw.add(s)
		}
	}
}

// Default returns the tokenizer of the published models: CLIP's vocabulary of 49,408 tokens, maximum length 77, padded with the end token.
func Default() *Tokenizer { return standard() }

// WithPad returns the tokenizer with another padding token, an id below Vocab: SDXL's second tokenizer pads with 0, which is "!". As in
// transformers, this makes it a special token: every "!" in a prompt becomes id 0, and not the "!" at the end of a word that other
// tokenizers return.
func (t *Tokenizer) WithPad(id int) *Tokenizer {
	c := *t
	c.setPad(id)
	return &c
}

// BOS returns the id of the start token.
func (t *Tokenizer) BOS() int { return t.bos }

// EOS returns the id of the end token.
func (t *Tokenizer) EOS() int { return t.eos }

// Pad returns the id of the padding token.
func (t *Tokenizer) Pad() int { return t.pad }

// Max returns the length of a chunk in tokens, including start and end token.
func (t *Tokenizer) Max() int { return t.max }

// Vocab returns the size of the vocabulary.
func (t *Tokenizer) Vocab() int { return len(t.words) }

// byteLetters are the characters that represent bytes, as in GPT-2: printable ones represent themselves, the others are U+0100 and up.
// byteOrder is the order of bytes in the vocabulary.
var byteLetters, byteOrder = func() (letters [256]rune, order []byte) {
	for b := range 256 {
		if (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff) {
			letters[b] = rune(b)
			order = append(order, byte(b))
		}
	}
	next := rune(256)
	for b := range 256 {
		if letters[b] == 0 {
			letters[b] = next
			order = append(order, byte(b))
			next++
		}
	}
	return letters, order
}()

// special is a token that is matched literally in prompts: in normalized text if clean is set, else in raw text.
type special struct {
	text  string
	id    int
	clean bool
}

// names has special tokens by first byte, longer ones first.
type names map[byte][]special

func (n names) add(s special) {
	if s.text != "" {
		n[s.text[0]] = append(n[s.text[0]], s)
	}
}

// next splits a text at the first special token, the longest one there; id is -1 if there is none.
func (n names) next(text string) (before string, id int, rest string) {
	for i := range len(text) {
		for _, s := range n[text[i]] {
			if strings.HasPrefix(text[i:], s.text) {
				return text[:i], s.id, text[i+len(s.text):]
			}
		}
	}
	return text, -1, ""
}

// Encode returns the token ids of a prompt, without start and end token. The text is normalized as in transformers' tokenizer: NFC, spaces,
// lower case; broken encodings and HTML entities are not repaired, unlike in OpenAI's tokenizer. Special tokens in the text are encoded as
// such. Invalid UTF-8 is read as U+FFFD, and bytes missing from the vocabulary become EOS.
func (t *Tokenizer) Encode(text string) []int {
	var out []int
	put := func(id int) {
		if id >= 0 {
			out = append(out, id)
		}
	}
	for text = strings.ToValidUTF8(text, "\uFFFD"); text != ""; {
		plain, id, rest := t.raw.next(text)
		for plain = clean(plain); plain != ""; {
			common, id, rest := t.given.word(plain)
			for common != "" {
				words, id, rest := t.cleaned.next(common)
				for _, word := range split(words) {
					out = t.encodeWord(out, word)
				}
				put(id)
				common = rest
			}
			for i := range t.runs[id].Vectors {
				put(id + i)
			}
			plain = rest
		}
		put(id)
		text = rest
	}
	return out
}

// Decode returns the text of token ids as transformers does, with spaces after words. Words of [Tokenizer.WithWords] keep their spelling.
// Invalid ids are skipped.
func (t *Tokenizer) Decode(ids []int) string {
	var b []byte
	for _, id := range ids {
		if w, ok := t.runs[id]; ok {
			b = append(b, w.Text+" "...)
			continue
		}
		if id < 0 || id >= len(t.words) {
			continue
		}
		word, ends := strings.CutSuffix(t.words[id], wordEnd)
		from := len(b)
		for _, r := range word {
			v, ok := letterBytes[r]
			if !ok { // an added token, which is spelled literally
				b = append(b[:from], word...)
				break
			}
			b = append(b, v)
		}
		if ends {
			b = append(b, ' ')
		}
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(b)), "\uFFFD")
}

var letterBytes = func() map[rune]byte {
	m := map[rune]byte{}
	for b, r := range byteLetters {
		m[r] = byte(b)
	}
	return m
}()
