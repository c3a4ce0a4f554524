package prompt

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Chunk is one input sequence of an encoder: Max token ids, with start token, end token and padding, and their weights.
type Chunk struct {
	IDs     []int
	Weights []float32
}

// frame adds start token, end token and padding to at most Max-2 tokens.
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

// Plain returns a prompt as one chunk of weight 1. It returns the text that is truncated in cut.
func (t *Tokenizer) Plain(text string) (chunks []Chunk, cut string) {
	ids := t.Encode(text)
	if n := t.max - 2; len(ids) > n {
		ids, cut = ids[:n], t.Decode(ids[n:])
	}
	return []Chunk{t.frame(ids, slices.Repeat([]float32{1}, len(ids)))}, cut
}

// CommaBacktrack is the maximum number of tokens that A1111 moves to the next chunk to split at a comma.
const CommaBacktrack = 20

// Weighted splits spans into chunks of Max-2 tokens as A1111 does: [Tokenizer.Chunks] with CommaBacktrack.
func (t *Tokenizer) Weighted(spans []Span) []Chunk { return t.Chunks(spans, CommaBacktrack) }

// Chunks splits spans into chunks of Max-2 tokens each; there is at least one. A full chunk ends at its last comma if at most backtrack
// tokens follow it; 0 fills every chunk. Spans are tokenized separately: a bracket inside a word splits the word.
func (t *Tokenizer) Chunks(spans []Span, backtrack int) []Chunk {
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
			if n := t.runs[id].Vectors; n > 0 && len(ids)+n > full { // the vectors of an embedding stay together, as in A1111
				next()
			}
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

// Match pads the shorter of two prompts with empty chunks. It does not modify its arguments.
func (t *Tokenizer) Match(a, b []Chunk) ([]Chunk, []Chunk) {
	n := max(len(a), len(b))
	return t.fill(a, n), t.fill(b, n)
}

func (t *Tokenizer) fill(chunks []Chunk, n int) []Chunk {
	chunks = slices.Clip(chunks)
	for len(chunks) < n {
		chunks = append(chunks, t.frame(nil, nil))
	}
	return chunks
}

// Multiply multiplies an encoder's hidden states of the chunks, [chunks, Max, features], by the tokens' weights. If all weights are 1 it
// returns hidden itself.
func Multiply(s *torch.Scope, hidden *torch.Tensor, chunks []Chunk) *torch.Tensor {
	return emphasize(s, hidden, chunks, func(s *torch.Scope, _, z *torch.Tensor) *torch.Tensor { return z })
}

// Weigh multiplies as [Multiply] does, and then scales each chunk to restore the mean of its elements, as A1111 does for a single prompt
// (for a batch, A1111 takes the mean over all prompts, so that an image depends on the others). A chunk whose weights are all 1 keeps its
// values to the bit; if all weights of the prompt are 1 it returns hidden itself. A chunk whose mean becomes 0 is not scaled.
func Weigh(s *torch.Scope, hidden *torch.Tensor, chunks []Chunk) *torch.Tensor {
	return emphasize(s, hidden, chunks, func(s *torch.Scope, x, z *torch.Tensor) *torch.Tensor {
		mean, now := x.MeanDim(s, true, 1, 2), z.MeanDim(s, true, 1, 2)
		return z.Mul(s, mean.Div(s, now).MaskedFill(s, now.NeScalar(s, 0).LogicalNot(s), 1))
	})
}

// emphasize calls then with hidden and its product with the weights, in float32 at least.
func emphasize(s *torch.Scope, hidden *torch.Tensor, chunks []Chunk, then func(s *torch.Scope, x, z *torch.Tensor) *torch.Tensor) *torch.Tensor {
	var all []float32
	for _, c := range chunks {
		all = append(all, c.Weights...)
	}
	if shape := hidden.Shape(); len(shape) != 3 || shape[0] != len(chunks) || shape[0]*shape[1] != len(all) {
		panic(&torch.Error{Op: "weigh a prompt", Msg: fmt.Sprintf("want hidden states [chunks, tokens, features] of %d chunks with %d tokens in total, got %v",
			len(chunks), len(all), shape)})
	}
	if !slices.ContainsFunc(all, func(w float32) bool { return w != 1 }) {
		return hidden
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := hidden
		if x.DType() != torch.Float64 {
			x = x.To(s, torch.Float32)
		}
		z := x.Mul(s, torch.FromSlice(s, all, len(chunks), len(all)/len(chunks), 1))
		return then(s, x, z).To(s, hidden.DType())
	})
}
