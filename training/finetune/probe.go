package finetune

import (
	"math"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// probe is an input by which two networks are compared: noise at a timestep in the middle of the chain, with the empty prompt.
type probe struct {
	x, t *torch.Tensor
	cond models.Cond
}

func (s *session) probe(in *torch.Scope) probe {
	const side, timestep = 16, 499
	p := probe{x: torch.Randn(in, torch.NewGenerator(in, 1), torch.Float32, 1, s.network.InChannels, side, side), cond: s.source.Null(in)}
	p.t = torch.FromSlice(in, []float64{timestep}).To(in, torch.Float32)
	if p.cond.Pooled != nil {
		p.cond.Sizes = torch.FromSlice(in, []float32{8 * side, 8 * side, 0, 0, 8 * side, 8 * side}, 1, 6)
	}
	return p
}

// through returns a network's output for the input, with the adapters, the guidance and, if it has one, the prompt of c.
func (p probe) through(s *torch.Scope, net models.Network, c models.Cond) []float64 {
	cond := p.cond
	cond.Adapters, cond.Guidance = c.Adapters, c.Guidance
	if c.Text != nil {
		cond.Text, cond.Pooled = c.Text, c.Pooled
	}
	return torch.ToSlice[float64](models.Forward(s, net, p.x, p.t, cond).To(s, torch.Float64))
}

// probed are an adapter and, where text encoders are trained, a prompt that they encode with it.
func (s *session) probed(in *torch.Scope, a nn.Adapters) models.Cond {
	c := models.Cond{Adapters: a}
	if s.trainsText() {
		e := s.model.Embed(in, a, sd.Text{Prompt: "a", Plain: true, ClipSkip: s.Run.ClipSkip})[0]
		c.Text, c.Pooled = e.Text, e.Pooled
	}
	return c
}

// guided is a guidance scale, for networks that take one.
func (p probe) guided(s *torch.Scope) models.Cond {
	return models.Cond{Guidance: torch.FromSlice(s, []float64{8}).To(s, torch.Float32)}
}

// distance is the Euclidean distance of two outputs.
func distance(a, b []float64) float64 {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return norm(d)
}

func norm(a []float64) float64 {
	sum := 0.0
	for _, v := range a {
		sum += v * v
	}
	return math.Sqrt(sum)
}
