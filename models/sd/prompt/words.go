package prompt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
)

// Word is the placeholder of a textual inversion embedding (Gal et al. 2022) in prompts.
type Word struct {
	Text    string // matched case-insensitively, as a whole word
	Vectors int    // the number of tokens that it takes
}

// WithWords returns the tokenizer with these words instead of any previous ones. Their token ids are first, first+1, …, where first is at
// least the size of the encoder's vocabulary. The longest match counts. It is an error if a word is empty, not UTF-8, a duplicate or an
// existing token, or has too many vectors.
func (t *Tokenizer) WithWords(first int, words []Word) (*Tokenizer, error) {
	c := *t
	c.given, c.runs, c.first = names{}, map[int]Word{}, first
	var all []special
	seen := map[string]bool{}
	for _, w := range words {
		text := cleanWord(w.Text)
		_, known := t.ids[w.Text]
		switch {
		case text == "":
			return nil, errors.New("the word of an embedding is empty")
		case !utf8.ValidString(w.Text):
			return nil, fmt.Errorf("the embedding's word %s is not UTF-8", quote.Quoted(w.Text))
		case seen[text]:
			return nil, fmt.Errorf("two embeddings have the same word %s (case-insensitive): rename one of them", quote.Quoted(text))
		case known && slices.ContainsFunc(t.added, func(s special) bool { return t.words[s.id] == w.Text }):
			return nil, fmt.Errorf("the embedding's word %s is already a token of the tokenizer: rename the embedding", quote.Quoted(text))
		case w.Vectors < 1 || w.Vectors > t.max-2:
			return nil, fmt.Errorf("the embedding %s has %d vectors: want 1 to %d, the size of a chunk", quote.Quoted(w.Text), w.Vectors, t.max-2)
		}
		seen[text] = true
		all = append(all, special{text, first, true})
		c.runs[first] = w
		first += w.Vectors
	}
	slices.SortStableFunc(all, func(a, b special) int { return len(b.text) - len(a.text) })
	for _, s := range all {
		c.given.add(s)
	}
	return &c, nil
}

// Mentions reports whether a prompt contains a word, matched as by WithWords.
func Mentions(text, word string) bool {
	n := names{}
	n.add(special{text: cleanWord(word)})
	_, at, _ := n.word(clean(strings.ToValidUTF8(text, "\uFFFD")))
	return at >= 0
}

func cleanWord(s string) string { return strings.TrimSpace(clean(s)) }

// word splits a normalized text at the first word in it, as next does. A word has no letters or digits on either side, or is named in
// ComfyUI's syntax, all of which is then part of the word.
func (n names) word(text string) (before string, id int, rest string) {
	if len(n) == 0 {
		return text, -1, ""
	}
	for i := range len(text) {
		id, end := n.named(text, i)
		if id < 0 {
			id, end = n.at(text, i)
		}
		if id >= 0 {
			return text[:i], id, text[end:]
		}
	}
	return text, -1, ""
}

// at finds the longest word at position i without letters or digits on either side; id is -1 if there is none.
func (n names) at(text string, i int) (id, end int) {
	for _, s := range n[text[i]] {
		if !strings.HasPrefix(text[i:], s.text) {
			continue
		}
		end := i + len(s.text)
		ahead, _ := utf8.DecodeLastRuneInString(text[:i])
		from, _ := utf8.DecodeRuneInString(s.text)
		to, _ := utf8.DecodeLastRuneInString(s.text)
		behind, _ := utf8.DecodeRuneInString(text[end:])
		if i > 0 && inWord(ahead) && inWord(from) || end < len(text) && inWord(to) && inWord(behind) {
			continue
		}
		return s.id, end
	}
	return -1, 0
}

func inWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }
