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

// Word is a word that stands for vectors of its own: a textual inversion embedding (Gal et al. 2022).
type Word struct {
	Text    string // found in prompts in any case, where no letter or digit continues it
	Vectors int    // as many tokens it takes
}

// WithWords returns the same tokenizer with words in place of those that it had. Their tokens are first, first+1, …: first is the number of
// tokens that the encoder knows, or more. Of words that begin alike the longest in a prompt counts.
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
			return nil, errors.New("an embedding's word is empty")
		case !utf8.ValidString(w.Text):
			return nil, fmt.Errorf("the embedding's word %s is not UTF-8", quote.Quoted(w.Text))
		case seen[text]:
			return nil, fmt.Errorf("two embeddings have the word %s, in any case: give one of them another", quote.Quoted(text))
		case known && slices.ContainsFunc(t.added, func(s special) bool { return t.words[s.id] == w.Text }):
			return nil, fmt.Errorf("the embedding's word %s is a token that the tokenizer has already: give it another", quote.Quoted(text))
		case w.Vectors < 1 || w.Vectors > t.max-2:
			return nil, fmt.Errorf("the embedding %s has %d vectors: want 1 to %d, which fit into a chunk of tokens", quote.Quoted(w.Text), w.Vectors, t.max-2)
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

// Mentions tells whether a prompt has a word as WithWords finds it.
func Mentions(text, word string) bool {
	n := names{}
	n.add(special{text: cleanWord(word)})
	_, at, _ := n.word(clean(strings.ToValidUTF8(text, "\uFFFD")))
	return at >= 0
}

func cleanWord(s string) string { return strings.TrimSpace(clean(s)) }

// word divides a clean text at the first word that it has, as next does: one that letters or digits do not continue on either side, or one
// that ComfyUI's way names, of which all is the word.
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

// at finds the longest word that begins at a place and that letters or digits do not continue on either side; id is -1 if there is none.
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
