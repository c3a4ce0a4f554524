package texttoimage

import (
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// NoGuidance is the guidance scale without guidance, which diffusers users often write as 0. In a [Pipeline], a Guidance of 0 is the
// default.
const NoGuidance = 1.0

// DefaultGuidance is the guidance scale with a sampler if none is given. A guidance-distilled model may say with which scales it was distilled.
func DefaultGuidance(m scheduler.Method, distilled bool, in weights.Scales) float64 {
	switch {
	case distilled && in.Known():
		return in.Middle()
	case distilled:
		return 8.5
	case scheduler.FewSteps(m):
		return NoGuidance
	}
	return 7.5
}

func (p *Plan) guidance() error {
	g := p.o.Guidance
	told := p.o.Model.Distilled()
	switch {
	case !(g >= 0 && g <= 1000):
		return refuse("Guidance", "guidance: want a scale from 0 to 1000, got %g", g)
	case !(p.o.Rescale >= 0 && p.o.Rescale <= 1):
		return refuse("Rescale", "guidance rescale: want 0 to 1, got %g", p.o.Rescale)
	case g == 0:
		g = DefaultGuidance(p.o.Method, told, p.o.Model.Guidance)
	}
	p.Guidance, p.Distilled, p.cfg = g, told, g > 1 && !told
	if in := p.o.Model.Guidance; told && !in.Has(g) {
		p.note("the model was distilled with guidance scales from %.4g to %.4g, and not with %.4g", in.Min, in.Max, g)
	}
	if g < 1 && !told {
		p.note("a guidance scale of %.4g is without guidance, as in diffusers: use a scale above 1, or 1 for no guidance", g)
	}
	if p.o.Negative != "" && told {
		p.note("the negative prompt has no effect: the model is guidance-distilled and has no unconditional pass")
	} else if p.o.Negative != "" && !p.cfg {
		p.note("the negative prompt has no effect without guidance: use a guidance scale above 1")
	}
	if p.o.EmptyNegative && p.o.Negative != "" {
		p.note("the option to encode an empty negative prompt has no effect: the negative prompt is not empty")
	}
	switch {
	case !p.o.EmptyNegative || p.o.Negative != "":
	case !p.cfg:
		p.note("the option to encode an empty negative prompt has no effect: there is no unconditional pass")
	case !p.o.Model.ZeroNegative:
		p.note("the option to encode an empty negative prompt has no effect: this model always encodes it")
	}
	if p.o.Rescale > 0 && !p.cfg {
		p.note("guidance rescale has no effect without classifier-free guidance")
	}
	return nil
}

// encodeBoth encodes a prompt and, with guidance, the negative prompt.
func (p *Plan) encodeBoth(s *torch.Scope, prompt aPrompt) (none, some sd.Embedding) {
	positive := p.text(prompt.text, prompt.inversions)
	positive.ClipSkip = p.o.ClipSkip
	if !p.cfg {
		return none, p.o.Model.Embed(s, p.encoders(prompt), positive)[0]
	}
	both := p.o.Model.Embed(s, p.encoders(prompt), p.text(p.o.Negative, prompt.inversions), positive)
	if p.zeroNegative() {
		return zeros(s, both[1]), both[1]
	}
	return both[0], both[1]
}

// encodeNegative encodes the negative prompt for an encoded prompt.
func (p *Plan) encodeNegative(s *torch.Scope, prompt aPrompt, some sd.Embedding) sd.Embedding {
	if p.zeroNegative() {
		return zeros(s, some)
	}
	return p.o.Model.Embed(s, p.encoders(prompt), p.text(p.o.Negative, prompt.inversions))[0]
}

// zeroNegative reports whether the negative prompt's embedding is zeros.
func (p *Plan) zeroNegative() bool {
	return p.o.Negative == "" && p.o.Model.ZeroNegative && !p.o.EmptyNegative
}

func zeros(s *torch.Scope, of sd.Embedding) (out sd.Embedding) {
	out.Text = torch.ZerosLike(s, of.Text)
	if of.Pooled != nil {
		out.Pooled = torch.ZerosLike(s, of.Pooled)
	}
	return out
}

// encoders returns a prompt's adapters of the text encoders.
func (p *Plan) encoders(prompt aPrompt) nn.Adapters {
	var encoders []*nn.Store
	for _, t := range p.o.Model.Texts {
		encoders = append(encoders, t.Store())
	}
	return prompt.adapters.Of(encoders...)
}

// predict calls the network at timestep t in step i, with guidance.
func (net *network) predict(s *torch.Scope, x *torch.Tensor, t float64, i int) *torch.Tensor {
	at := torch.FromSlice(s, []float32{float32(t)}, 1)
	twice := func(x *torch.Tensor) *torch.Tensor {
		if !net.p.cfg {
			return x
		}
		return torch.Cat(s, []*torch.Tensor{x, x}, 0)
	}
	in := twice(x)
	c := net.cond
	net.control(s, &c, in, at, i)
	if net.around != nil {
		in = torch.Cat(s, []*torch.Tensor{in, twice(net.around)}, 1)
	}
	out := net.p.o.Model.Network().Forward(s, in, at, c)
	if !net.p.cfg {
		return out
	}
	none, some := out.Narrow(s, 0, 0, net.n), out.Narrow(s, 0, net.n, net.n)
	guided := none.Add(s, some.Sub(s, none).MulScalar(s, net.p.Guidance))
	if net.p.o.Rescale > 0 {
		ratio := some.StdDim(s, 1, true, 1, 2, 3).Div(s, guided.StdDim(s, 1, true, 1, 2, 3))
		guided = guided.Mul(s, ratio).MulScalar(s, net.p.o.Rescale).Add(s, guided.MulScalar(s, 1-net.p.o.Rescale))
	}
	return guided
}
