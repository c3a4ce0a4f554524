package texttoimage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// draw generates all images in batches.
func (p *Plan) draw(ctx context.Context, s *torch.Scope, yield func(Progress) bool) error {
	fixed, err := p.prepare(s)
	if err != nil {
		return err
	}
	words := embeddings{p: p, of: map[int]sd.Embedding{}}
	for first := 0; first < len(p.prompts)*p.o.N; {
		at := Progress{First: first, Prompt: first / p.o.N, plan: p}
		err := s.Run(func(inner *torch.Scope) error {
			batch, err := p.collect(ctx, s, &at, &words)
			if err != nil {
				return err
			}
			return p.batch(ctx, inner, fixed, batch, at, yield)
		})
		if errors.Is(err, errStop) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at.name(), err)
		}
		first += len(at.Seeds)
	}
	return nil
}

// collect sets the images of the batch that begins with image at.First, and returns the embeddings of each: those of the prompt, and of
// further prompts if they have the same adapters and as many tokens. Embeddings belong to s.
func (p *Plan) collect(ctx context.Context, s *torch.Scope, at *Progress, words *embeddings) (batch []sd.Embedding, err error) {
	at.Prompts = []int{at.Prompt} // for an error
	for i := at.First; i < len(p.prompts)*p.o.N && len(batch) < p.o.Batch; i++ {
		prompt := i / p.o.N
		if prompt != at.Prompt && (p.o.SharedNoise || p.o.Latents != nil || !same(p.prompts[prompt].adapters, p.prompts[at.Prompt].adapters)) {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		one, err := words.get(s, prompt)
		if err != nil {
			at.Prompts = []int{prompt}
			return nil, err
		}
		if len(batch) > 0 && !slices.Equal(one.Text.Shape(), batch[0].Text.Shape()) {
			break
		}
		batch = append(batch, one)
		at.Prompts, at.Seeds = append(at.Prompts[:len(at.Seeds)], prompt), append(at.Seeds, p.seed(i))
	}
	return batch, nil
}

// seed returns the seed of image i, of those of all prompts.
func (p *Plan) seed(i int) uint64 {
	if p.o.Seeds != nil {
		return p.o.Seeds[i]
	}
	return p.o.Seed + uint64(i%p.o.N)
}

// same reports whether two sets of adapters have the same effect.
func same(a, b nn.Adapters) bool { return maps.EqualFunc(a, b, slices.Equal) }

// name names the prompts of a batch in errors.
func (st Progress) name() string {
	from, to := st.Prompts[0]+1, st.Prompts[len(st.Prompts)-1]+1
	if from == to {
		return fmt.Sprintf("prompt %d", from)
	}
	return fmt.Sprintf("prompts %d to %d", from, to)
}

// embeddings are those of the prompts whose images are generated. Each is encoded once.
type embeddings struct {
	p  *Plan
	of map[int]sd.Embedding
}

// get returns the embeddings of a prompt, [2 or 1, …], the negative prompt first, and frees those of the prompts long before.
func (e *embeddings) get(s *torch.Scope, prompt int) (sd.Embedding, error) {
	if known, ok := e.of[prompt]; ok {
		return known, nil
	}
	for before, words := range e.of {
		if before >= prompt-e.p.o.Batch {
			continue
		}
		words.Text.Free()
		if words.Pooled != nil {
			words.Pooled.Free()
		}
		delete(e.of, before)
	}
	if last, ok := e.of[prompt-1]; ok && e.p.repeats(prompt) {
		last.Text = last.Text.Share(s)
		if last.Pooled != nil {
			last.Pooled = last.Pooled.Share(s)
		}
		e.of[prompt] = last
		return last, nil
	}
	e.p.began(EncodingText)
	var words sd.Embedding
	err := s.Run(func(inner *torch.Scope) error {
		made, err := e.p.embedding(inner, prompt)
		if err != nil {
			return err
		}
		words.Text = made.Text.Share(s)
		if made.Pooled != nil {
			words.Pooled = made.Pooled.Share(s)
		}
		return nil
	})
	if err == nil {
		e.of[prompt] = words
	}
	return words, err
}

// repeats reports whether a prompt is encoded as the one before it.
func (p *Plan) repeats(prompt int) bool {
	this, last := p.prompts[prompt], p.prompts[prompt-1]
	return p.o.PromptEmbeds == nil && this.text == last.text && same(this.adapters, last.adapters) && len(this.inversions) == len(p.o.Inversions) &&
		len(last.inversions) == len(p.o.Inversions)
}

// joined returns the embeddings of a batch, those of the negative prompts first.
func (p *Plan) joined(s *torch.Scope, batch []sd.Embedding) sd.Embedding {
	join := func(of func(sd.Embedding) *torch.Tensor) *torch.Tensor {
		var all []*torch.Tensor
		for side := range of(batch[0]).Dim(0) {
			for _, one := range batch {
				all = append(all, of(one).Narrow(s, 0, side, 1))
			}
		}
		return torch.Cat(s, all, 0)
	}
	out := sd.Embedding{Text: join(func(e sd.Embedding) *torch.Tensor { return e.Text })}
	if batch[0].Pooled != nil {
		out.Pooled = join(func(e sd.Embedding) *torch.Tensor { return e.Pooled })
	}
	return out
}
