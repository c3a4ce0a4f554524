package finetune

import (
	"context"

	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/latents"
)

// LoRA trains an adapter (Hu et al. 2021) for a style or a subject, with the denoising loss that the model was trained with: see
// [training.DDPM].
type LoRA struct {
	Run
	Adapter

	TextEncoder bool    `option:"text-encoder" help:"train adapters of the text encoders, too"`
	TextLR      float64 `option:"text-lr" range:"(0,10)" help:"learning rate of the text encoders' adapters (default: that of the network's)"`
}

// Plan reads what the model and the data are, and decides everything, without reading weights. The caller closes what it returns.
func (r LoRA) Plan(ctx context.Context) (*Plan, error) { return plan(ctx, &r) }

// Train trains. Cancelling ctx saves, and returns the context's error with the result.
func (r LoRA) Train(ctx context.Context) (Result, error) { return train(ctx, &r) }

func (r *LoRA) kind() string      { return "train-lora" }
func (r *LoRA) common() *Run      { return &r.Run }
func (r *LoRA) fewStep() bool     { return false }
func (r *LoRA) adapter() *Adapter { return &r.Adapter }
func (r *LoRA) text() bool        { return r.TextEncoder }

func (r *LoRA) fill() error {
	if err := r.defaults(r, false); err != nil {
		return err
	}
	if r.LR == 0 {
		r.LR = 1e-4
	}
	if r.TextLR != 0 && !r.TextEncoder {
		return r.without("text-lr", "text-encoder")
	}
	return r.Adapter.complete(&r.Run)
}

// learn makes the adapter and the objective.
func (r *LoRA) learn(s *session) error {
	model, err := s.model.Denoiser()
	if err != nil {
		return err
	}
	if err := s.adapt(&r.Adapter, r.TextEncoder); err != nil {
		return err
	}
	trained := *model
	trained.Net = s.adapted(model.Net, s.adapter)
	s.objective = &training.DDPM{Model: &trained}
	if !r.TextEncoder {
		return nil
	}
	s.prepare = latents.Encode(s.model, s.adapter.At(1), r.ClipSkip)
	if r.TextLR != 0 {
		texts, network := split(s.adapter)
		s.groups = []optim.Group{{Params: network}, {Params: texts, LR: r.TextLR}}
	}
	return nil
}
