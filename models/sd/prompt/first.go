package prompt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// First returns the tokenizer with only its first merges, those that it needs to encode texts as before, and the tokens that these make,
// besides bytes and special tokens: a CLIP tokenizer with a small vocabulary, for the embedding of a small text encoder. Any text can still
// be encoded, in more tokens if it is not one of texts. Ids and ranks are renumbered in their old order: those of Default().First(n) are 512
// bytes, n results of merges, and the start and end token. Words of [Tokenizer.WithWords] are an error, since their ids are those of a
// certain vocabulary.
func (t *Tokenizer) First(merges int, texts ...string) (*Tokenizer, error) {
	switch {
	case merges < 0 || merges > len(t.merges):
		return nil, fmt.Errorf("want 0 to %d merges of the tokenizer, got %d", len(t.merges), merges)
	case len(t.runs) > 0:
		return nil, errors.New("the tokenizer has words of embeddings: add them after its merges are chosen")
	}
	keep, kept := t.needed(merges, texts)
	small := &Tokenizer{ids: make(map[string]int, len(keep)), merges: make(map[[2]int32]merge, len(kept)), max: t.max}
	now := make(map[int32]int32, len(keep))
	for _, id := range slices.Sorted(maps.Keys(keep)) {
		now[id] = int32(small.add(t.words[id]))
	}
	for rank, pair := range kept {
		small.merges[[2]int32{now[pair[0]], now[pair[1]]}] = merge{int32(rank), now[t.merges[pair].id]}
	}
	for i := range t.bytes {
		for b, id := range t.bytes[i] {
			small.bytes[i][b] = now[id]
		}
	}
	small.bos, small.eos = int(now[int32(t.bos)]), int(now[int32(t.eos)])
	for _, s := range t.added {
		small.added = append(small.added, special{s.text, int(now[int32(s.id)]), s.clean})
	}
	small.setPad(int(now[int32(t.pad)]))
	return small, nil
}

// needed returns the ids of the tokens that First keeps, and the pairs of its merges in the order of their ranks. With all merges that led
// to a text's tokens, the pair with the lowest rank is the same at every step, so that the text gets the same tokens.
func (t *Tokenizer) needed(merges int, texts []string) (keep map[int32]bool, kept [][2]int32) {
	keep = map[int32]bool{int32(t.bos): true, int32(t.eos): true, int32(t.pad): true}
	for _, ends := range t.bytes {
		for _, id := range ends {
			keep[id] = true
		}
	}
	for _, s := range t.added {
		keep[int32(s.id)] = true
	}
	inner := map[int32]bool{} // tokens of texts, whose merges are needed
	for _, text := range texts {
		for _, id := range t.Encode(text) {
			keep[int32(id)], inner[int32(id)] = true, true
		}
	}
	all := slices.SortedFunc(maps.Keys(t.merges), func(a, b [2]int32) int { return int(t.merges[a].rank) - int(t.merges[b].rank) })
	for rank, pair := range slices.Backward(all) { // the parts of a token have lower ranks
		id := t.merges[pair].id
		if rank >= merges && !inner[id] {
			continue
		}
		for _, part := range pair {
			keep[part], inner[part] = true, true
		}
		keep[id] = true
		kept = append(kept, pair)
	}
	slices.Reverse(kept)
	return keep, kept
}

// WithMax returns the tokenizer with another maximum length: the tokens of a chunk, start and end token included. A model's text encoder
// needs as many positions. A model for short prompts takes less time with fewer tokens than CLIP's 77.
func (t *Tokenizer) WithMax(n int) (*Tokenizer, error) {
	if n < leastMax || n > mostMax {
		return nil, fmt.Errorf("want a maximum length of %d to %d tokens, got %d", leastMax, mostMax, n)
	}
	for _, w := range t.runs {
		if w.Vectors > n-2 {
			return nil, fmt.Errorf("an embedding has %d vectors, more than the %d tokens of a prompt with this maximum length", w.Vectors, n-2)
		}
	}
	c := *t
	c.max = n
	return &c, nil
}

// Limits of the maximum length: start and end token and one more, and far more than any encoder has.
const (
	leastMax = 3
	mostMax  = 4096
)
