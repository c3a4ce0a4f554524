package texttoimage

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
)

// Embeds has the embeddings of a prompt, from [Pipeline.Encode] or elsewhere. Its tensors have the model's data type and device, and have
// to stay valid while they are used.
type Embeds struct {
	Prompt *torch.Tensor // diffusers' prompt_embeds: [1, tokens, features]
	Pooled *torch.Tensor // pooled_prompt_embeds: [1, features], for SDXL; else nil

	// Negative and NegativePooled are negative_prompt_embeds and negative_pooled_prompt_embeds, with the same number of tokens as Prompt.
	// nil: the Pipeline's negative prompt is encoded.
	Negative, NegativePooled *torch.Tensor
}

// Encode encodes a prompt, and with guidance the negative prompt, in s, for [Pipeline.PromptEmbeds]: they give the same images as the
// prompt, to the last bit, and can be used with other seeds and samplers without running the text encoders. Adapter tags are an error,
// since adapters also affect the network: pass them in Adapters.
func (p Pipeline) Encode(ctx context.Context, s *torch.Scope, prompt string) (Embeds, error) {
	p.PromptEmbeds = nil
	plan, err := p.Plan(prompt)
	if err != nil {
		return Embeds{}, err
	}
	one := plan.prompts[0]
	if tags := plan.text(prompt, nil).Adapters(); tags != nil {
		return Embeds{}, fmt.Errorf("the prompt has a tag for the adapter %s, which also affects the network: remove the tag and pass the adapter in Adapters", quote.Quoted(tags[0].Name))
	}
	if err := ctx.Err(); err != nil {
		return Embeds{}, err
	}
	var e Embeds
	err = s.NoGrad(func(c *torch.Scope) error {
		none, some := plan.encodeBoth(c, one)
		keep := func(t *torch.Tensor) *torch.Tensor {
			if t == nil {
				return nil
			}
			return t.Clone(s)
		}
		e = Embeds{keep(some.Text), keep(some.Pooled), keep(none.Text), keep(none.Pooled)}
		return nil
	})
	return e, err
}

// embeds checks PromptEmbeds.
func (p *Plan) embeds() error {
	if p.o.PromptEmbeds == nil {
		return nil
	}
	net := p.o.Model.UNet.Config()
	width, pooled := net.CrossAttentionDim[0], 0
	if net.AdditionEmbedType != "" {
		pooled = net.ProjectionInputDim - 6*net.AdditionTimeEmbedDim
	}
	for i, e := range p.o.PromptEmbeds {
		name := fmt.Sprintf("prompt embeddings %d", i+1)
		if e.Prompt == nil {
			return fmt.Errorf("%s: Prompt is nil", name)
		}
		if err := p.fitting(name+": Prompt", e.Prompt, 1, -1, width); err != nil {
			return err
		}
		if err := p.pooled(name+": Pooled", e.Pooled, pooled); err != nil {
			return err
		}
		switch {
		case e.Negative == nil && e.NegativePooled != nil:
			return fmt.Errorf("%s: got NegativePooled without Negative: want both", name)
		case e.Negative == nil:
			continue
		}
		if err := p.fitting(name+": Negative", e.Negative, 1, e.Prompt.Dim(1), width); err != nil {
			return err
		}
		if err := p.pooled(name+": NegativePooled", e.NegativePooled, pooled); err != nil {
			return err
		}
		if p.o.Negative != "" {
			p.note("the negative prompt has no effect on %s, which have their own", name)
		}
		if !p.cfg {
			p.note("%s: Negative has no effect at guidance %.4g", name, p.Guidance)
		}
	}
	if p.o.ClipSkip > 0 {
		p.note("clip skip has no effect on prompt embeddings")
	}
	return nil
}

func (p *Plan) pooled(name string, t *torch.Tensor, width int) error {
	switch {
	case width == 0 && t == nil:
		return nil
	case width == 0:
		return fmt.Errorf("%s: the model does not take it: want nil, got a tensor", name)
	case t == nil:
		return fmt.Errorf("%s: the model requires it: want shape [1, %d], got nil", name, width)
	}
	return p.fitting(name, t, 1, width)
}

// fitting checks shape, data type and device of a tensor for the network; -1 is any size.
func (p *Plan) fitting(name string, t *torch.Tensor, shape ...int) error {
	if err := there(name, t, shape...); err != nil {
		return err
	}
	switch {
	case t.DType() != p.o.Model.DType():
		return fmt.Errorf("%s: want the model's data type %s, got %s: convert it with To", name, p.o.Model.DType(), t.DType())
	case t.Device() != p.o.Model.Device():
		return fmt.Errorf("%s: want a tensor on the model's device, %s, got one on %s: move it with ToDevice", name, p.o.Model.Device(), t.Device())
	}
	return nil
}

// there checks that a tensor is valid, finite and of that shape.
func there(name string, t *torch.Tensor, shape ...int) error {
	if t.Freed() {
		return fmt.Errorf("%s: %w: keep its scope open", name, torch.ErrFreed)
	}
	got := t.Shape()
	if !slices.EqualFunc(shape, got, func(want, got int) bool { return want == got || want < 0 && got > 0 }) {
		return fmt.Errorf("%s: want shape %s, got %v", name, strings.ReplaceAll(fmt.Sprint(shape), "-1", "any"), got)
	}
	if !t.DType().IsFloat() {
		return fmt.Errorf("%s: want floating-point numbers, got %s", name, t.DType())
	}
	s := torch.NewScope(t.Device())
	defer s.Close()
	if n := torch.CountNonFinite(s, []*torch.Tensor{t}); n > 0 {
		return fmt.Errorf("%s: %d of %d values are not finite", name, n, t.NumEl())
	}
	return nil
}

// embedding returns the embeddings of prompt i, [2 or 1, …], the negative prompt first.
func (p *Plan) embedding(s *torch.Scope, i int) (sd.Embedding, error) {
	var none, some sd.Embedding
	if p.o.PromptEmbeds == nil {
		none, some = p.encodeBoth(s, p.prompts[i])
	} else {
		e := p.o.PromptEmbeds[i]
		none, some = sd.Embedding{Text: e.Negative, Pooled: e.NegativePooled}, sd.Embedding{Text: e.Prompt, Pooled: e.Pooled}
		if p.cfg && none.Text == nil {
			if none = p.encodeNegative(s, p.prompts[i], some); none.Text.Dim(1) != some.Text.Dim(1) {
				return none, fmt.Errorf("the negative prompt has %d tokens and the prompt embeddings have %d: pass Negative in PromptEmbeds, with the same number of tokens", none.Text.Dim(1), some.Text.Dim(1))
			}
		}
	}
	if !p.cfg {
		return some, nil
	}
	out := sd.Embedding{Text: torch.Cat(s, []*torch.Tensor{none.Text, some.Text}, 0)}
	if some.Pooled != nil {
		out.Pooled = torch.Cat(s, []*torch.Tensor{none.Pooled, some.Pooled}, 0)
	}
	return out, nil
}
