package finetune

import (
	"cmp"
	"context"
	"fmt"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
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
	MinSNR      float64 `option:"min-snr" range:"[0,1000]" help:"min-SNR weighting: gamma, such as 5 (default 0: none)"`
	NoiseOffset float64 `option:"noise-offset" range:"[0,1]" help:"offset noise, such as 0.05, for darker and brighter images (default 0)"`
	FewStep     string  `option:"few-step" value:"FILE" help:"few-step adapter, such as an LCM-LoRA, with which the style is trained so that both together keep their few steps (default: none)"`
	Match       float64 `option:"match" default:"30" range:"(0,1000000]" help:"with a few-step adapter: weight of the match to the few-step model without the style"`

	_ struct{} `overrides:"precision" omit:"true"` // no network is trained, but adapters of a frozen one

	few sd.AdapterInfo // of FewStep
}

// Plan reads what the model and the data are, and decides everything, without reading weights. The caller closes what it returns.
func (r LoRA) Plan(ctx context.Context) (*Plan, error) { return plan(ctx, &r) }

// Train trains. Cancelling ctx saves, and returns the context's error with the result.
func (r LoRA) Train(ctx context.Context) (Result, error) { return train(ctx, &r) }

func (r *LoRA) kind() string      { return "train-lora" }
func (r *LoRA) common() *Run      { return &r.Run }
func (r *LoRA) fewStep() bool     { return r.FewStep != "" }
func (r *LoRA) adapter() *Adapter { return &r.Adapter }
func (r *LoRA) text() bool        { return r.TextEncoder || r.from.Text }

func (r *LoRA) fill() error {
	if err := r.checkInit(r.TextEncoder); err != nil {
		return err
	}
	if err := r.defaults(r); err != nil {
		return err
	}
	if r.LR == 0 {
		r.LR = 1e-4
	}
	if r.TextLR != 0 && !r.TextEncoder && r.Init == "" {
		return r.without("text-lr", "text-encoder")
	}
	if r.FewStep == "" && r.changed(r, "match") {
		return r.without("match", "few-step")
	}
	if r.FewStep != "" && (r.MinSNR > 0 || r.NoiseOffset > 0) {
		return options.Refuse("few-step", "%s has a loss of its own: leave out %s and %s", options.NameOf("few-step"), options.NameOf("min-snr"), options.NameOf("noise-offset"))
	}
	return r.Adapter.complete(&r.Run)
}

// continues checks the file to start from.
func (r *LoRA) continues() error {
	if r.TextLR != 0 && !r.text() {
		return options.Refuse("text-lr", "%s has no effect: the adapter that training starts from (%s) has no modules for text encoders", options.NameOf("text-lr"), options.NameOf("init"))
	}
	return nil
}

// inspectFewStep reads what the few-step adapter is.
func (r *LoRA) inspectFewStep(p *Plan) (err error) {
	file := quote.Path(r.FewStep)
	r.few, err = r.Adapters.Inspect(p.files, r.FewStep)
	switch {
	case err != nil:
		return options.Failed("few-step", err)
	case r.few.Idle:
		return options.Failed("few-step", fmt.Errorf("%s: it has no effect on the U-Net, where its factors or its scale are zero or missing: want a few-step adapter", file))
	case r.Init != "" && r.few.Sum == r.from.Sum:
		return options.Refuse("few-step", "%s: it is the same adapter as that of %s, whose effect would double: leave one of them out", options.NameOf("few-step"), options.NameOf("init"))
	case r.few.Text:
		p.note("%s has modules for text encoders, which are not used in training", file)
	}
	switch {
	case r.few.Run.Command == r.kind():
		p.note("%s was trained as a style or a subject (train-lora): images in few steps need a few-step adapter, such as one of train-lcm", file)
	case r.few.Run.Phases > 0:
		p.note("%s is a few-step adapter of %s: the style is trained for as many sampling steps, with the sampler tcd and eta 0", file, plural.N(r.few.Run.Phases, "phase"))
	}
	return nil
}

// learn makes the adapter and the objective.
func (r *LoRA) learn(s *session) error {
	model, err := s.model.Denoiser()
	if err != nil {
		return err
	}
	if err := s.adapt(&r.Adapter, r.text()); err != nil {
		return err
	}
	trained := *model
	trained.Net = s.adapted(model.Net, s.adapter)
	s.objective = &training.DDPM{Model: &trained, MinSNR: r.MinSNR, NoiseOffset: r.NoiseOffset}
	if r.FewStep != "" {
		if s.objective, err = r.keepFewSteps(s, *model); err != nil {
			return err
		}
	}
	if !r.text() {
		return nil
	}
	s.prepare = latents.Encode(s.model, s.adapter.At(1), r.ClipSkip)
	if r.TextLR != 0 {
		texts, network := split(s.adapter)
		s.groups = []optim.Group{{Params: network}, {Params: texts, LR: r.TextLR}}
	}
	return nil
}

// keepFewSteps is the objective of a style that is trained with a few-step adapter beside it.
func (r *LoRA) keepFewSteps(s *session, model models.DDPM) (training.Objective, error) {
	few, err := r.Adapters.Open(s.model, r.FewStep, nil)
	if err != nil {
		return nil, options.Failed("few-step", err)
	}
	s.own(func() { _ = few.Close() })
	with, without := model, model
	with.Net = &models.Adapted{Net: model.Net, Adapters: s.adapter.At(1).And(few.At(1)), Learned: s.adapter}
	without.Net = &models.Adapted{Net: model.Net, Adapters: few.At(1)}
	steps := visited(s.timesteps, r.few.OriginalSteps, cmp.Or(r.few.Run.Phases, fewSteps))
	return &training.FewStep{Steps: steps, Model: &models.Latent{Model: &with}, Frozen: &models.Latent{Model: &without}, Match: r.Match}, nil
}

// visited are the timesteps of that many sampling steps with a few-step adapter that was distilled on a grid of that size, of a chain of that
// many timesteps; 0: the usual one of 50.
func visited(timesteps, grid, steps int) []int {
	grid = min(cmp.Or(grid, sd.UsualGrid), timesteps)
	return noise.OfGrid(timesteps/grid, grid, min(steps, grid))
}
