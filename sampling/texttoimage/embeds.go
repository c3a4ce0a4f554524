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

// Embeds is a prompt in the form in which the network takes it, as [Pipeline.Encode] makes it or a program of its own. Its tensors are
// of the model's type and on its device, and have to live as long as they are generated from.
type Embeds struct {
	Prompt *torch.Tensor // diffusers' prompt_embeds: [1, tokens, features]
	Pooled *torch.Tensor // pooled_prompt_embeds: [1, features], for SDXL; nil for others

	// Negative and NegativePooled are negative_prompt_embeds and negative_pooled_prompt_embeds, of as many tokens as Prompt. nil: the negative
	// prompt of the Pipeline is encoded.
	Negative, NegativePooled *torch.Tensor
}

// Encode encodes a prompt, and the negative prompt where guidance needs it, in s, for [Pipeline.PromptEmbeds]: images from what it
// returns are the same to the last bit as those from the prompt, and other seeds and samplers need no text encoder. Tags of adapters are an
// error, as adapters change the network, too: they belong into Adapters.
func (p Pipeline) Encode(ctx context.Context, s *torch.Scope, prompt string) (Embeds, error) {
	p.PromptEmbeds = nil
	plan, err := p.Plan(prompt)
	if err != nil {
		return Embeds{}, err
	}
	one := plan.prompts[0]
	if tags := plan.text(prompt, nil).Adapters(); tags != nil {
		return Embeds{}, fmt.Errorf("the prompt asks for the adapter %s by a tag, which changes the network, too: remove the tag and pass the adapter in Adapters", quote.Quoted(tags[0].Name))
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
		p.note("clip skip has no effect: the prompts are encoded already")
	}
	return nil
}

func (p *Plan) pooled(name string, t *torch.Tensor, width int) error {
	switch {
	case width == 0 && t == nil:
		return nil
	case width == 0:
		return fmt.Errorf("%s: the model takes none, got a tensor: want nil", name)
	case t == nil:
		return fmt.Errorf("%s: the model needs it: want [1, %d], got nil", name, width)
	}
	return p.fitting(name, t, 1, width)
}

// fitting checks a tensor that the network takes as it is; -1 stands for any size.
func (p *Plan) fitting(name string, t *torch.Tensor, shape ...int) error {
	if err := there(name, t, shape...); err != nil {
		return err
	}
	switch {
	case t.DType() != p.o.Model.DType():
		return fmt.Errorf("%s: want the model's type, %s, got %s: convert with To", name, p.o.Model.DType(), t.DType())
	case t.Device() != p.o.Model.Device():
		return fmt.Errorf("%s: want a tensor on the model's device, %s, got one on %s: move it with ToDevice", name, p.o.Model.Device(), t.Device())
	}
	return nil
}

// there checks that a tensor is there, of that shape, and finite.
func there(name string, t *torch.Tensor, shape ...int) error {
	if t.Freed() {
		return fmt.Errorf("%s: %w: its scope has to stay open", name, torch.ErrFreed)
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

// embedding returns what the network is given of prompt i, [2 or 1, …]: the negative prompt first.
func (p *Plan) embedding(s *torch.Scope, i int) (sd.Embedding, error) {
	var none, some sd.Embedding
	if p.o.PromptEmbeds == nil {
		none, some = p.encodeBoth(s, p.prompts[i])
	} else {
		e := p.o.PromptEmbeds[i]
		none, some = sd.Embedding{Text: e.Negative, Pooled: e.NegativePooled}, sd.Embedding{Text: e.Prompt, Pooled: e.Pooled}
		if p.cfg && none.Text == nil {
			if none = p.encodeNegative(s, p.prompts[i], some); none.Text.Dim(1) != some.Text.Dim(1) {
				return none, fmt.Errorf("the negative prompt has %d tokens and the prompt embeddings %d: pass Negative in PromptEmbeds, of as many", none.Text.Dim(1), some.Text.Dim(1))
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
