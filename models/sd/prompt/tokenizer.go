// Package prompt turns texts into what text encoders take: tokens of CLIP's vocabulary, in chunks of the encoder's length, with
// weights where a text has A1111's brackets.
package prompt

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Tokenizer is CLIP's: byte pair encoding (Sennrich et al. 2016) of lower-case words in bytes. It does not change and may be used by
// several goroutines.
type Tokenizer struct {
	ids   map[string]int // tokens by what they spell; bytes are written as letters, and </w> ends a word
	ranks map[[2]string]int
	words []string // what tokens spell, by id

	bos, eos, pad int
	max           int
	special       []string // tokens that texts may name, as they are written: those that begin, end and pad
}

// merges are the pairs of OpenAI's CLIP (github.com/openai/CLIP, MIT), the first of bpe_simple_vocab_16e6.txt.
//
//go:embed merges.txt.gz
var merges []byte

const (
	bosToken = "<|startoftext|>"
	eosToken = "<|endoftext|>"
	wordEnd  = "</w>"
)

// standard is made once; it is never changed.
var standard = sync.OnceValue(func() *Tokenizer {
	z, err := gzip.NewReader(bytes.NewReader(merges))
	if err != nil {
		panic(err) // the file is part of the program
	}
	text, err := io.ReadAll(z)
	if err != nil {
		panic(err)
	}
	t := &Tokenizer{ids: map[string]int{}, ranks: map[[2]string]int{}, max: 77}
	for _, end := range []string{"", wordEnd} {
		for _, b := range byteOrder {
			t.add(string(byteLetters[b]) + end)
		}
	}
	for line := range strings.Lines(string(text)) {
		a, b, _ := strings.Cut(strings.TrimSpace(line), " ")
		t.ranks[[2]string{a, b}] = len(t.ranks)
		t.add(a + b)
	}
	t.bos, t.eos = t.add(bosToken), t.add(eosToken)
	return t.WithPad(t.eos)
})

func (t *Tokenizer) add(word string) int {
	id := len(t.words)
	t.ids[word] = id
	t.words = append(t.words, word)
	return id
}

// Default returns the tokenizer of all published models: CLIP's vocabulary of 49,408 tokens, texts of 77, padded with the token that
// ends them.
func Default() *Tokenizer { return standard() }

// WithPad returns the same tokenizer with another token to pad with: SDXL's second one takes 0, which is "!". As in transformers that makes
// it a special one: every "!" in a text becomes it, where other tokenizers have the "!" that ends a word.
func (t *Tokenizer) WithPad(id int) *Tokenizer {
	c := *t
	c.pad = id
	c.special = []string{bosToken, eosToken}
	if id != t.bos && id != t.eos {
		c.special = append(c.special, t.words[id])
	}
	return &c
}

// BOS, EOS and Pad return the tokens that begin a text, end it and fill it up.
func (t *Tokenizer) BOS() int { return t.bos }

// EOS returns the token that ends a text.
func (t *Tokenizer) EOS() int { return t.eos }

// Pad returns the token that fills a text up.
func (t *Tokenizer) Pad() int { return t.pad }

// Max returns how many tokens a text has, with those around it.
func (t *Tokenizer) Max() int { return t.max }

// Vocab returns the number of tokens.
func (t *Tokenizer) Vocab() int { return len(t.words) }

// byteLetters are the letters that stand for bytes, as in GPT-2: printable ones for themselves, others from U+0100 on. byteOrder is
// the order of bytes in the vocabulary.
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

// Encode returns a text's tokens, without those that begin and end it. The text is cleaned as transformers' fast tokenizer does: NFC,
// spaces, lower case. Bytes that are not UTF-8 are read as U+FFFD.
func (t *Tokenizer) Encode(text string) []int {
	var out []int
	text = strings.ToValidUTF8(text, "\uFFFD")
	for text != "" { // the special tokens stand for themselves, as they are written
		at, token := len(text), ""
		for _, special := range t.special {
			if i := strings.Index(text, special); i >= 0 && i < at {
				at, token = i, special
			}
		}
		for _, word := range split(clean(text[:at])) {
			out = t.encodeWord(out, word)
		}
		if token != "" {
			if id, ok := t.ids[token]; ok {
				out = append(out, id)
			}
		}
		text = text[at+len(token):]
	}
	return out
}

// clean puts a text into composed form and lower case, with single spaces.
func clean(text string) string {
	var b strings.Builder
	space := false
	for _, r := range norm.NFC.String(text) {
		if unicode.IsSpace(r) {
			space = true
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		if r == 'İ' { // the one letter whose lower case is two
			b.WriteString("i\u0307")
			continue
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

var contractions = []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}

// split divides a clean text into words: contractions, runs of letters, single digits, and runs of what is neither.
func split(text string) []string {
	var words []string
	class := func(r rune) int {
		switch {
		case unicode.IsSpace(r):
			return 0
		case unicode.IsLetter(r):
			return 1
		case unicode.IsNumber(r):
			return 2
		}
		return 3
	}
next:
	for text != "" {
		for _, special := range []string{bosToken, eosToken} {
			if strings.HasPrefix(text, special) { // in capitals before, or it would not be here: a word of its own, divided once more
				words, text = append(words, "<|", special[2:len(special)-2], "|>"), text[len(special):]
				continue next
			}
		}
		for _, c := range contractions {
			if strings.HasPrefix(text, c) {
				words, text = append(words, c), text[len(c):]
				continue next
			}
		}
		r, n := utf8.DecodeRuneInString(text)
		k := class(r)
		for k == 1 || k == 3 {
			r, m := utf8.DecodeRuneInString(text[n:])
			if m == 0 || class(r) != k {
				break
			}
			n += m
		}
		if k != 0 {
			words = append(words, text[:n])
		}
		text = text[n:]
	}
	return words
}

// encodeWord appends the tokens of one word: its bytes, of which the pair that was merged first in training is merged first, until
// none is left.
func (t *Tokenizer) encodeWord(out []int, word string) []int {
	parts := make([]string, 0, len(word))
	for i := range len(word) {
		parts = append(parts, string(byteLetters[word[i]]))
	}
	parts[len(parts)-1] += wordEnd
	for len(parts) > 1 {
		best, at := -1, -1
		for i := range len(parts) - 1 {
			if rank, ok := t.ranks[[2]string{parts[i], parts[i+1]}]; ok && (best < 0 || rank < best) {
				best, at = rank, i
			}
		}
		if at < 0 {
			break
		}
		a, b := parts[at], parts[at+1]
		merged := parts[:0]
		for i := 0; i < len(parts); i++ {
			if i+1 < len(parts) && parts[i] == a && parts[i+1] == b {
				merged = append(merged, a+b)
				i++
			} else {
				merged = append(merged, parts[i])
			}
		}
		parts = merged
	}
	for _, p := range parts {
		id, ok := t.ids[p]
		if !ok {
			id = t.eos // the unknown token is the one that ends texts
		}
		out = append(out, id)
	}
	return out
}

// Decode returns what tokens spell, with spaces between words.
func (t *Tokenizer) Decode(ids []int) string {
	var b []byte
	for _, id := range ids {
		if id < 0 || id >= len(t.words) || id == t.bos || id == t.eos {
			continue
		}
		word, ends := strings.CutSuffix(t.words[id], wordEnd)
		for _, r := range word {
			if v, ok := letterBytes[r]; ok {
				b = append(b, v)
			}
		}
		if ends {
			b = append(b, ' ')
		}
	}
	return strings.ToValidUTF8(strings.TrimSuffix(string(b), " "), "\uFFFD")
}

var letterBytes = func() map[rune]byte {
	m := map[rune]byte{}
	for b, r := range byteLetters {
		m[r] = byte(b)
	}
	return m
}()

// Limits keep hostile files from asking for memory.
const (
	maxFile  = 64 << 20
	maxVocab = 1 << 20
)

func read(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, fmt.Errorf("%s: want a file of at most %d MiB", path, maxFile>>20)
	}
	return os.ReadFile(path)
}

// Open reads a model's tokenizer folder: vocab.json and merges.txt, or the tokenizer.json of transformers 5.
func Open(dir string) (*Tokenizer, error) {
	t, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("tokenizer %s: %w", dir, err)
	}
	return t, nil
}

func open(dir string) (*Tokenizer, error) {
	vocab := map[string]int{}
	var pairs [][2]string
	data, err := read(filepath.Join(dir, "vocab.json"))
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &vocab); err != nil {
			return nil, fmt.Errorf("vocab.json: %w", err)
		}
		text, err := read(filepath.Join(dir, "merges.txt"))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\r\n")
			a, b, ok := strings.Cut(line, " ")
			if strings.HasPrefix(line, "#version") || !ok {
				continue
			}
			pairs = append(pairs, [2]string{a, b})
		}
	case errors.Is(err, fs.ErrNotExist):
		if vocab, pairs, err = fromTokenizerJSON(filepath.Join(dir, "tokenizer.json")); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, errors.New("want vocab.json and merges.txt, or tokenizer.json: there is neither")
			}
			return nil, err
		}
	default:
		return nil, err
	}
	t, err := assemble(vocab, pairs)
	if err != nil {
		return nil, err
	}
	if err := t.configure(dir); err != nil {
		return nil, err
	}
	return t.WithPad(t.pad), nil
}

// fromTokenizerJSON reads the file of the tokenizers library.
func fromTokenizerJSON(path string) (vocab map[string]int, pairs [][2]string, err error) {
	data, err := read(path)
	if err != nil {
		return nil, nil, err
	}
	var file struct {
		Added []struct {
			ID      int    `json:"id"`
			Content string `json:"content"`
		} `json:"added_tokens"`
		Model struct {
			Type   string            `json:"type"`
			Suffix string            `json:"end_of_word_suffix"`
			Vocab  map[string]int    `json:"vocab"`
			Merges []json.RawMessage `json:"merges"`
		} `json:"model"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	if file.Model.Type != "BPE" || file.Model.Suffix != wordEnd {
		return nil, nil, fmt.Errorf("tokenizer.json: want CLIP's tokenizer, BPE with words that end in %s, got %q with %q", wordEnd, file.Model.Type, file.Model.Suffix)
	}
	for _, raw := range file.Model.Merges { // "a b", or ["a", "b"]
		var pair []string
		var text string
		if json.Unmarshal(raw, &text) == nil {
			a, b, _ := strings.Cut(text, " ")
			pair = []string{a, b}
		} else if err := json.Unmarshal(raw, &pair); err != nil || len(pair) != 2 {
			return nil, nil, fmt.Errorf("tokenizer.json: merge %d is no pair", len(pairs))
		}
		pairs = append(pairs, [2]string(pair))
	}
	vocab = file.Model.Vocab
	if vocab == nil {
		vocab = map[string]int{}
	}
	for _, a := range file.Added {
		vocab[a.Content] = a.ID
	}
	return vocab, pairs, nil
}

// assemble makes a tokenizer of a vocabulary whose ids are 0 to n-1, and merges whose results are in it.
func assemble(vocab map[string]int, pairs [][2]string) (*Tokenizer, error) {
	if len(vocab) == 0 || len(vocab) > maxVocab {
		return nil, fmt.Errorf("want 1 to %d tokens, got %d", maxVocab, len(vocab))
	}
	t := &Tokenizer{ids: vocab, ranks: make(map[[2]string]int, len(pairs)), words: make([]string, len(vocab)), max: 77}
	given := make([]bool, len(vocab))
	for word, id := range vocab {
		if id < 0 || id >= len(vocab) || given[id] {
			return nil, fmt.Errorf("token %q has the number %d: want every number from 0 to %d once", word, id, len(vocab)-1)
		}
		t.words[id], given[id] = word, true
	}
	for _, p := range pairs {
		for _, word := range []string{p[0], p[1], p[0] + p[1]} {
			if _, ok := vocab[word]; !ok {
				return nil, fmt.Errorf("the merge of %q and %q: there is no token %q", p[0], p[1], word)
			}
		}
		if _, ok := t.ranks[p]; !ok {
			t.ranks[p] = len(t.ranks)
		}
	}
	for name, to := range map[string]*int{bosToken: &t.bos, eosToken: &t.eos} {
		id, ok := vocab[name]
		if !ok {
			return nil, fmt.Errorf("there is no token %s", name)
		}
		*to = id
	}
	t.pad = t.eos
	return t, nil
}

// configure reads what pads texts and how long they are.
func (t *Tokenizer) configure(dir string) error {
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} {
		data, err := read(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var c struct {
			Pad json.RawMessage `json:"pad_token"` // a word, or an object with its content
			Max *float64        `json:"model_max_length"`
		}
		if err := json.Unmarshal(data, &c); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var pad struct {
			Content string `json:"content"`
		}
		if c.Pad != nil && json.Unmarshal(c.Pad, &pad.Content) != nil && json.Unmarshal(c.Pad, &pad) != nil {
			return fmt.Errorf("%s: pad_token is %s: want a token", name, c.Pad)
		}
		if pad.Content != "" {
			id, ok := t.ids[pad.Content]
			if !ok {
				return fmt.Errorf("%s: pad_token is %q: there is no such token", name, pad.Content)
			}
			t.pad = id
		}
		if c.Max != nil && *c.Max < 1e6 { // transformers writes 1e30 where there is no limit
			if *c.Max < 3 || *c.Max > 4096 {
				return fmt.Errorf("%s: model_max_length is %g: want 3 to 4096", name, *c.Max)
			}
			t.max = int(*c.Max)
		}
	}
	return nil
}
