package prompt

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// comfyPrefix is ComfyUI's syntax for embeddings: embedding:name, where name is the file's, optionally with directory and extension.
const comfyPrefix = "embedding:"

var fileEnds = []string{".safetensors", ".pt", ".bin"}

// named finds the embedding that ComfyUI's syntax names at position i of a normalized text; id is -1 if there is none.
func (n names) named(text string, i int) (id, end int) {
	from, to := comfyName(text, i)
	if from == to {
		return -1, 0
	}
	from += strings.LastIndexAny(text[from:to], `/\`) + 1
	if from == to {
		return -1, 0
	}
	id, end = n.at(text, from)
	for _, ext := range fileEnds {
		if id >= 0 && strings.HasPrefix(text[end:], ext) && nameEnds(text[end+len(ext):]) {
			return id, end + len(ext)
		}
	}
	if id < 0 || !nameEnds(text[end:]) {
		return -1, 0
	}
	return id, end
}

// comfyName returns the range of the name after comfyPrefix at position i, up to a space, comma, colon or bracket; it is empty if the
// prefix is not there.
func comfyName(text string, i int) (from, to int) {
	if text[i] != comfyPrefix[0] || !strings.HasPrefix(text[i:], comfyPrefix) {
		return 0, 0
	}
	if ahead, _ := utf8.DecodeLastRuneInString(text[:i]); i > 0 && inWord(ahead) {
		return 0, 0
	}
	from = i + len(comfyPrefix)
	n := strings.IndexFunc(text[from:], func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(",:;()[]{}|", r) })
	if n < 0 {
		n = len(text) - from
	}
	return from, from + n
}

// nameEnds reports whether the file name ends before rest.
func nameEnds(rest string) bool {
	r, n := utf8.DecodeRuneInString(rest)
	switch {
	case n == 0:
		return true
	case r == '.':
		next, _ := utf8.DecodeRuneInString(rest[n:])
		return !inWord(next)
	}
	return !inWord(r) && !strings.ContainsRune(`-_/\+`, r)
}

// Misnamed is a part of a prompt in ComfyUI's syntax for embeddings, embedding:name, that does not have the intended effect.
type Misnamed struct {
	Text   string
	Name   string
	Weight bool // the embedding exists, but a weight without brackets follows, embedding:name:1.2, which is read as text
}

var bareWeight = regexp.MustCompile(`^:[-+]?[0-9]*\.?[0-9]+`)

// Misnames returns the parts of a prompt that name none of the given embeddings in ComfyUI's syntax, each once. With plain, the prompt is
// read without [Parse].
func Misnames(text string, plain bool, words ...string) (out []Misnamed) {
	if len(text) < len(comfyPrefix) || !strings.Contains(strings.ToLower(text), comfyPrefix) {
		return nil
	}
	spans := []Span{{Text: text}}
	if !plain {
		spans, _ = Parse(text)
	}
	n := names{}
	for _, w := range slices.SortedFunc(slices.Values(words), func(a, b string) int { return len(cleanWord(b)) - len(cleanWord(a)) }) {
		n.add(special{text: cleanWord(w)})
	}
	seen := map[Misnamed]bool{}
	for _, span := range spans {
		text := clean(strings.ToValidUTF8(span.Text, "\uFFFD"))
		for i := range len(text) {
			from, to := comfyName(text, i)
			if from == to {
				continue
			}
			m := Misnamed{Text: text[i:to], Name: text[from:to]}
			if id, end := n.named(text, i); id >= 0 {
				weight := bareWeight.FindString(text[end:])
				if m.Text, m.Weight = text[i:end]+weight, weight != ""; !m.Weight {
					continue
				}
			}
			if !seen[m] {
				seen[m] = true
				out = append(out, m)
			}
		}
	}
	return out
}
