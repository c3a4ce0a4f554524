package latents

import (
	"encoding/json"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/training"
)

// textEncoder makes the features of captions: one chunk of tokens each, without prompt weighting, as diffusers' training scripts do.
type textEncoder struct {
	model    *sd.Model
	clipSkip int
	sum      string
	dtype    torch.DType
	null     entry // of the empty prompt
}

// newTextEncoder checks a model's text encoders. Those that are trained have no sum: it would be another one when the run resumes.
func newTextEncoder(m *sd.Model, clipSkip int, trained bool) (*textEncoder, error) {
	if len(m.Texts) == 0 {
		return nil, fmt.Errorf("the model %s has no text encoder: open it with its text encoders, or train without captions (Unconditional)", quote.Quoted(m.Name()))
	}
	e := &textEncoder{model: m, clipSkip: clipSkip, dtype: m.Texts[0].Store().DType()}
	if e.closed() {
		return nil, fmt.Errorf("the text encoder was closed (%w)", torch.ErrFreed)
	}
	for i, t := range m.Texts {
		if c := t.Config(); clipSkip < 0 || clipSkip >= c.Depth {
			return nil, fmt.Errorf("clip skip: want 0 to %d for a text encoder of %d layers, got %d", c.Depth-1, c.Depth, clipSkip)
		}
		if t.Store().DType() != e.dtype {
			return nil, fmt.Errorf("text encoder %d is of %s and the first of %s: want one type", i+1, t.Store().DType(), e.dtype)
		}
	}
	parts := make([]part, len(m.Texts))
	for i, t := range m.Texts {
		parts[i] = part{t.Config(), t}
	}
	if !trained {
		var err error
		if e.sum, err = sumOf(parts...); err != nil {
			return nil, fmt.Errorf("text encoder: %w", err)
		}
	}
	err := torch.Run(e.device(), func(s *torch.Scope) error {
		of, err := e.encode(s, []string{""})
		if err != nil {
			return err
		}
		e.null = entry{{name: textName}, {name: pooledName}}[:len(of)]
		for i := range e.null {
			e.null[i].dtype, e.null[i].shape = e.dtype, of[i].Shape()[1:]
		}
		e.null, err = arrays(s, e.null, of, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("text encoder: %w", err)
	}
	return e, nil
}

// device is where the text encoders are.
func (e *textEncoder) device() torch.Device { return e.model.Texts[0].Store().Device() }

// want is what an entry has.
func (e *textEncoder) want() entry { return e.null }

// closed reports whether the text encoders were closed.
func (e *textEncoder) closed() bool { return e.model.Texts[0].Store().Closed() }

// key identifies the entry of a caption, by its tokens: what else the tokenizer could do does not matter.
func (e *textEncoder) key(caption string) key {
	tokens := make([][]int, len(e.model.Texts))
	for i, t := range e.model.Texts {
		chunks, _ := t.Tokenizer.Plain(caption)
		tokens[i] = chunks[0].IDs
	}
	list, _ := json.Marshal(tokens) // numbers
	return newKey(`{"tokens":%s,"encoders":"%s","dtype":"%s","clip_skip":%d}`, list, e.sum, e.dtype, e.clipSkip)
}

// encode returns the features of captions, [B, T, W] and pooled [B, P], which is left out if the network takes none, on the encoders' device.
func (e *textEncoder) encode(s *torch.Scope, captions []string) (all []*torch.Tensor, err error) {
	err = s.NoGrad(func(s *torch.Scope) error {
		text, pooled := embed(s, e.model, nil, e.clipSkip, captions, false)
		all = []*torch.Tensor{s.Keep(text)}
		if pooled != nil {
			all = append(all, s.Keep(pooled))
		}
		return nil
	})
	return all, err
}

// embed returns the features of captions, [B, T, W], and pooled [B, P] or nil. Captions that occur several times are encoded once, and
// gradients flow to the encoders and the adapters where they are recorded. The empty caption is the empty prompt, or zeros if the model says
// so. Together they take one pass, which is faster, and whose roundings depend on the other captions.
func embed(s *torch.Scope, m *sd.Model, a nn.Adapters, clipSkip int, captions []string, together bool) (text, pooled *torch.Tensor) {
	place := map[string]int{}
	var texts []sd.Text
	rows := make([]int64, len(captions))
	for i, c := range captions {
		n, ok := place[c]
		if !ok {
			n = len(texts)
			place[c] = n
			texts = append(texts, sd.Text{Prompt: c, Plain: true, ClipSkip: clipSkip})
		}
		rows[i] = int64(n)
	}
	var all, pools []*torch.Tensor
	var each []sd.Embedding
	if together {
		e := m.EmbedTogether(s, a, texts...)
		for i := range texts {
			one := sd.Embedding{Text: e.Text.Narrow(s, 0, i, 1)}
			if e.Pooled != nil {
				one.Pooled = e.Pooled.Narrow(s, 0, i, 1)
			}
			each = append(each, one)
		}
	} else {
		each = m.Embed(s, a, texts...)
	}
	for _, e := range each {
		all = append(all, e.Text)
		if e.Pooled != nil {
			pools = append(pools, e.Pooled)
		}
	}
	n, empty := place[""]
	join := func(each []*torch.Tensor) *torch.Tensor {
		if len(each) == 0 {
			return nil
		}
		if empty && m.ZeroNegative {
			each[n] = torch.Zeros(s, each[n].DType(), each[n].Shape()...)
		}
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			t := torch.Cat(s, each, 0)
			if len(texts) == len(captions) {
				return t
			}
			return t.IndexSelect(s, 0, torch.FromSlice(s, rows))
		})
	}
	return join(all), join(pools)
}

// Encode returns a Prepare function that encodes a batch's captions at each step, for sources with [Config.Captions]: gradients flow to the
// adapters a of the model's text encoders, and to the encoders' own weights if they require gradients. clipSkip is that of the source.
//
//	trainer.Prepare = latents.Encode(model, adapter.Adapters(), 0)
//
// The captions of a batch are encoded in one pass, so that their features are those of [Source] up to rounding. A batch without captions is
// returned as it is.
func Encode(m *sd.Model, a nn.Adapters, clipSkip int) func(s *torch.Scope, b training.Batch, d training.Draws) training.Batch {
	return func(s *torch.Scope, b training.Batch, _ training.Draws) training.Batch {
		if len(b.Captions) == 0 {
			return b
		}
		var text, pooled *torch.Tensor
		if here := s.Device(); here == m.Device() {
			text, pooled = embed(s, m, a, clipSkip, b.Captions, true)
		} else if err := s.On(m.Device(), func(c *torch.Scope) error {
			text, pooled = embed(c, m, a, clipSkip, b.Captions, true)
			c.Keep(text)
			if pooled != nil {
				c.Keep(pooled)
			}
			return nil
		}); err != nil {
			panic(err)
		} else {
			text = text.ToDevice(s, here)
			if pooled != nil {
				pooled = pooled.ToDevice(s, here)
			}
		}
		b.Cond.Text, b.Cond.Pooled, b.Captions = text, pooled, nil
		return b
	}
}

// condition returns the text features of an entry's tensors.
func condition(of []*torch.Tensor) models.Cond {
	c := models.Cond{Text: of[0]}
	if len(of) > 1 {
		c.Pooled = of[1]
	}
	return c
}
