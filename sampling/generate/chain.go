package generate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/edit"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
)

// overTimesteps are samplers over the timesteps of a denoiser's chain, with diffusers' numbers: its DDPMPipeline and DDIMPipeline, with the
// timesteps spaced in each way that their schedulers know.
var overTimesteps = []string{"ddpm_leading", "ddpm_trailing", "ddpm_linspace", "ddim_leading", "ddim_trailing", "ddim_linspace"}

// defaultTimesteps is the number of steps of ddim over timesteps, as in diffusers; ddpm has those of the chain.
const defaultTimesteps = 50

// discrete plans a sampler over timesteps.
func (m pixels) discrete(r *Request) (course, error) {
	config, ok := m.description.Chain()
	model, is := m.denoiser.(*models.DDPM)
	switch {
	case !ok || !is:
		return course{}, refuse("Sampler", "%s needs the scheduler configuration of a model of diffusers", quote.Text(r.Sampler))
	case r.Edit != nil:
		return course{}, refuse("Sampler", "%s takes timesteps, and edits need noise levels: choose heun", quote.Text(r.Sampler))
	case r.Times != nil:
		return course{}, refuse("Times", "the sampler %s takes timesteps, not noise levels", quote.Text(r.Sampler))
	case r.Guidance != 0 && r.Guidance != 1:
		return course{}, refuse("Guidance", "the sampler %s does not support guidance: choose heun", quote.Text(r.Sampler))
	case r.Steps == 0 && r.Timesteps != nil:
		r.Steps = len(r.Timesteps)
	case r.Steps == 0 && strings.HasPrefix(r.Sampler, "ddpm"):
		r.Steps = config.Steps()
	case r.Steps == 0:
		r.Steps = min(defaultTimesteps, config.Steps())
	}
	method, err := scheduler.Named(r.Sampler)
	if err != nil {
		return course{}, refuse("Sampler", "%v", err)
	}
	return over(model, config, method, scheduler.Options{Steps: r.Steps, Timesteps: r.Timesteps})
}

// over returns the sampling of a model over the timesteps of a method.
func over(model *models.DDPM, config noise.Config, method scheduler.Method, o scheduler.Options) (course, error) {
	run, err := method.Start(config, o)
	if err != nil {
		return course{}, refuse("Steps", "%s", strings.TrimPrefix(err.Error(), "request: "))
	}
	at := run.Timesteps()
	return course{
		start: run.InitSigma(), each: len(at), timesteps: at,
		sample: func(ctx context.Context, s *torch.Scope, _ *edit.Edit, x *torch.Tensor, o sampling.Options) (*torch.Tensor, error) {
			run := run.Again()
			draw := func(s *torch.Scope) *torch.Tensor { return o.Streams.Randn(s, x.DType(), x.Shape()[1:]...) }
			for i, t := range at {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				before := x
				err := s.Run(func(inner *torch.Scope) error {
					out := model.Forward(inner, run.Input(inner, before, i), slices.Repeat([]int{int(t)}, before.Dim(0)), o.Cond)
					next, origin := run.Step(inner, i, before, out, draw)
					x = next.Share(s)
					if o.OnStep == nil {
						return nil
					}
					return o.OnStep(inner, sampling.Step{Index: i, Count: len(at), X: next, Origin: origin})
				})
				if err != nil {
					return nil, err
				}
				if i > 0 {
					before.Free()
				}
			}
			return x, nil
		},
	}, nil
}

// publishedNotice says which sampler a model's scheduler is, which is not the default one; "" if there is nothing to say.
func (m pixels) publishedNotice(sampler string) string {
	c, ok := m.description.Chain()
	if !ok || c.Class == "" {
		return ""
	}
	name := map[string]string{"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}[c.Class]
	if name == "" {
		return fmt.Sprintf("the model's scheduler is diffusers' %s; the sampler is %s", quote.Text(c.Class), sampler)
	}
	spacing := c.Spacing
	if spacing == "" {
		spacing = "leading"
	}
	return fmt.Sprintf("the model's scheduler, diffusers' %s, is the sampler %s_%s; the default %s needs fewer network evaluations", quote.Text(c.Class), name, spacing, sampler)
}
