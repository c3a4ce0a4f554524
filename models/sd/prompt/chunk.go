package prompt

import (
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Chunk is what an encoder takes at once: tokens in their frame, Max of them, and their weights.
type Chunk struct {
	IDs     []int
	Weights []float32
}

// frame adds begin, end and padding to at most Max-2 tokens.
func (t *Tokenizer) frame(ids []int, weights []float32) Chunk {
	c := Chunk{make([]int, t.max), make([]float32, t.max)}
	for i := range c.IDs {
		c.IDs[i], c.Weights[i] = t.pad, 1
	}
	c.IDs[0] = t.bos
	copy(c.IDs[1:], ids)
	copy(c.Weights[1:], weights)
	c.IDs[1+len(ids)] = t.eos
	return c
}

// Plain returns a text as one chunk of weight 1. What does not fit is cut off, and returned.
func (t *Tokenizer) Plain(text string) (chunks []Chunk, cut string) {
	ids := t.Encode(text)
	if n := t.max - 2; len(ids) > n {
		ids, cut = ids[:n], t.Decode(ids[n:])
	}
	return []Chunk{t.frame(ids, slices.Repeat([]float32{1}, len(ids)))}, cut
}

// backtrack is how many tokens at most are moved to the next chunk, so that what stands between commas stays together; A1111's default.
const backtrack = 20

// Weighted returns spans as chunks of Max-2 tokens each, by A1111's rule: a chunk that is full ends at its last comma, if that is
// near.
func (t *Tokenizer) Weighted(spans []Span) []Chunk {
	var chunks []Chunk
	var ids []int
	var weights []float32
	lastComma := -1
	comma, ok := t.ids[","+wordEnd]
	if !ok {
		comma = -1
	}
	next := func() {
		chunks = append(chunks, t.frame(ids, weights))
		ids, weights, lastComma = nil, nil, -1
	}
	full := t.max - 2
	for _, span := range spans {
		if span.Break {
			next()
			continue
		}
		for _, id := range t.Encode(span.Text) {
			switch {
			case id == comma:
				lastComma = len(ids)
			case len(ids) == full && lastComma >= 0 && full-lastComma <= backtrack:
				restIDs, restWeights := slices.Clone(ids[lastComma+1:]), slices.Clone(weights[lastComma+1:])
				ids, weights = ids[:lastComma+1], weights[:lastComma+1]
				next()
				ids, weights = restIDs, restWeights
			}
			if len(ids) == full {
				next()
			}
			ids, weights = append(ids, id), append(weights, float32(span.Weight))
		}
	}
	if len(ids) > 0 || chunks == nil {
		next()
	}
	return chunks
}

// Match fills the shorter of two texts up with empty chunks.
func (t *Tokenizer) Match(a, b []Chunk) ([]Chunk, []Chunk) {
	empty := t.frame(nil, nil)
	for len(a) < len(b) {
		a = append(a, empty)
	}
	for len(b) < len(a) {
		b = append(b, empty)
	}
	return a, b
}

// Weigh multiplies what an encoder made of chunks, hidden [chunks, Max, features], by their weights, and each chunk by what brings its
// mean back (A1111's emphasis). Where all weights are 1 it returns hidden itself.
func Weigh(s *torch.Scope, hidden *torch.Tensor, chunks []Chunk) *torch.Tensor {
	var all []float32
	for _, c := range chunks {
		all = append(all, c.Weights...)
	}
	if !slices.ContainsFunc(all, func(w float32) bool { return w != 1 }) {
		return hidden
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		w := torch.FromSlice(s, all, len(chunks), len(all)/len(chunks), 1)
		wide := hidden
		if hidden.DType() != torch.Float64 {
			wide = hidden.To(s, torch.Float32)
		}
		z := wide.Mul(s, w)
		z = z.Mul(s, wide.MeanDim(s, true, 1, 2).Div(s, z.MeanDim(s, true, 1, 2)))
		return z.To(s, hidden.DType())
	})
}
