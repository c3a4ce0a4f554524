package sd

import (
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Text is a prompt and how it is encoded.
type Text struct {
	Prompt   string
	Plain    bool // no prompt weighting, truncated to one chunk of tokens, as in diffusers
	ClipSkip int  // the number of last encoder layers to skip

	Inversions []Inversion // embeddings that the prompt may name
}

// Embedding is the network's conditioning for one prompt.
type Embedding struct {
	Text   *torch.Tensor // [1, tokens, features]
	Pooled *torch.Tensor // [1, features] of the last encoder, for SDXL; else nil
}

// chunks splits a prompt into chunks of tokens and returns the text that was truncated.
func (t Text) chunks(by *prompt.Tokenizer) (chunks []prompt.Chunk, cut string) {
	if t.Plain {
		return by.Plain(t.Prompt)
	}
	spans, _ := prompt.Parse(t.Prompt)
	return by.Weighted(spans), ""
}

// Adapters returns the prompt's <lora:…> tags.
func (t Text) Adapters() []prompt.LoRA {
	if t.Plain {
		return nil
	}
	_, loras := prompt.Parse(t.Prompt)
	return loras
}

// Limits of a prompt, far above those in real use: encoding takes time and memory in proportion to its length. 64 chunks are 4800 tokens.
const (
	maxPrompt = 64 << 10 // bytes
	maxChunks = 64
)

// Check returns an error for a prompt that the model cannot encode: it is too long, or its embeddings do not fit (see
// [Model.CheckInversions]).
func (m *Model) Check(t Text) error {
	if n := len(t.Prompt); n > maxPrompt {
		return fmt.Errorf("the prompt has %d bytes: want at most %d", n, maxPrompt)
	}
	if err := m.CheckInversions(t.Inversions...); err != nil {
		return err
	}
	for _, enc := range m.Texts {
		by, err := enc.tokenizer(t)
		if err != nil {
			return err
		}
		if chunks, _ := t.chunks(by); len(chunks) > maxChunks {
			return fmt.Errorf("the prompt takes %d chunks of %d tokens: want at most %d chunks", len(chunks), enc.Tokenizer.Max()-2, maxChunks)
		}
	}
	return nil
}

// Cut returns the end of a prompt that is truncated, or "".
func (m *Model) Cut(t Text) string {
	if len(m.Texts) == 0 {
		return ""
	}
	by, err := m.Texts[0].tokenizer(t)
	if err != nil {
		return "" // which Check reports
	}
	_, cut := t.chunks(by)
	return cut
}

// hasText returns an error for a model that cannot encode prompts.
func (m *Model) hasText() error {
	if err := m.Loaded(); err != nil {
		return err
	}
	if len(m.Texts) == 0 {
		return fmt.Errorf("the model %s has no text encoder", quote.Quoted(m.Name()))
	}
	return nil
}

// Embed encodes prompts in the model's data type. All results have the length of the longest one, a whole number of chunks of tokens,
// concatenated. It panics with a *torch.Error for adapters of another model (see [Model.CheckAdapters]) and for prompts that [Model.Check]
// refuses.
func (m *Model) Embed(s *torch.Scope, a nn.Adapters, texts ...Text) []Embedding {
	if err := m.hasText(); err != nil {
		panic(&torch.Error{Op: "embed a prompt", Msg: err.Error(), Err: err})
	}
	if err := m.CheckAdapters(a); err != nil {
		panic(&torch.Error{Op: "embed a prompt", Msg: err.Error(), Err: err})
	}
	for _, t := range texts {
		if err := m.Check(t); err != nil {
			panic(&torch.Error{Op: "embed a prompt", Msg: err.Error()})
		}
	}
	out := make([]Embedding, len(texts))
	parts := make([][]*torch.Tensor, len(texts))
	for i, enc := range m.Texts {
		chunks := make([][]prompt.Chunk, len(texts))
		for j, t := range texts {
			by, _ := enc.tokenizer(t) // Check has returned its error
			chunks[j], _ = t.chunks(by)
		}
		for j := range chunks {
			for k := range chunks {
				chunks[j], chunks[k] = enc.Tokenizer.Match(chunks[j], chunks[k])
			}
		}
		defer enc.Store().Release() // it is small compared to the network, and idle while that runs
		for j, t := range texts {
			o := m.textOptions(i, t, a)
			o.Extra = vectors(s, t.Inversions, i, enc.Store().DType())
			hidden, pool := enc.embed(s, chunks[j], o)
			if o.Extra != nil {
				o.Extra.Free()
			}
			parts[j] = append(parts[j], hidden)
			if pool != nil {
				out[j].Pooled = pool
			}
		}
	}
	for j := range out {
		out[j].Text = parts[j][0]
		if len(parts[j]) > 1 {
			out[j].Text = torch.Cat(s, parts[j], 2)
			for _, p := range parts[j] {
				p.Free()
			}
		}
	}
	return out
}

// embed encodes the chunks of one prompt: hidden [1, chunks·L, d]; pooled [1, d] of the first chunk, or nil.
func (t TextEncoder) embed(s *torch.Scope, chunks []prompt.Chunk, o clip.Options) (hidden, pooled *torch.Tensor) {
	hidden = s.Tidy(func(s *torch.Scope) *torch.Tensor {
		var ids []int64
		for _, c := range chunks {
			for _, id := range c.IDs {
				ids = append(ids, int64(id))
			}
		}
		out := t.Forward(s, torch.FromSlice(s, ids, len(chunks), len(ids)/len(chunks)), o)
		if out.Pooled != nil {
			pooled = s.Keep(out.Pooled.Narrow(s, 0, 0, 1).Clone(s))
		}
		return prompt.Weigh(s, out.Hidden, chunks).Reshape(s, 1, len(ids), -1)
	})
	return hidden, pooled
}

// EmbedTogether encodes prompts as [Model.Embed] does, in one pass of each text encoder: faster for many short prompts, such as the captions
// of a training batch, of which it returns one tensor for all, [n, tokens, features] and for SDXL [n, features]. Roundings differ from those
// of prompts encoded alone. All prompts are Plain, with the same ClipSkip and no Inversions.
func (m *Model) EmbedTogether(s *torch.Scope, a nn.Adapters, texts ...Text) Embedding {
	refuse := func(err error) {
		if err != nil {
			panic(&torch.Error{Op: "embed prompts", Msg: err.Error(), Err: err})
		}
	}
	refuse(m.hasText())
	refuse(m.CheckAdapters(a))
	if len(texts) == 0 {
		refuse(errors.New("want at least one prompt"))
	}
	first := texts[0]
	for _, t := range texts {
		refuse(m.Check(t))
		if !t.Plain || t.ClipSkip != first.ClipSkip || len(t.Inversions) > 0 {
			refuse(errors.New("want prompts that are Plain, with the same ClipSkip and no Inversions"))
		}
	}
	var out Embedding
	var parts []*torch.Tensor
	for i, enc := range m.Texts {
		var ids []int64
		for _, t := range texts {
			chunks, _ := t.chunks(enc.Tokenizer)
			for _, id := range chunks[0].IDs {
				ids = append(ids, int64(id))
			}
		}
		part := enc.Forward(s, torch.FromSlice(s, ids, len(texts), len(ids)/len(texts)), m.textOptions(i, first, a))
		parts = append(parts, part.Hidden)
		if part.Pooled != nil {
			out.Pooled = part.Pooled
		}
	}
	if out.Text = parts[0]; len(parts) > 1 {
		out.Text = torch.Cat(s, parts, 2)
	}
	return out
}

// textOptions are the options of text encoder i.
func (m *Model) textOptions(i int, t Text, a nn.Adapters) clip.Options {
	if !m.pools() {
		return clip.Options{Skip: t.ClipSkip, HiddenOnly: true, Adapters: a}
	}
	// SDXL uses the penultimate layer, without the final norm.
	return clip.Options{Skip: t.ClipSkip + 1, Raw: true, HiddenOnly: i < len(m.Texts)-1, Adapters: a}
}
