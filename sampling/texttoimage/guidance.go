package texttoimage

import (
	"fmt"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// NoGuidance is the guidance scale with which a prompt is followed as the model predicts it: where diffusers' users write 0. A
// [Pipeline]'s Guidance of 0 is the default.
const NoGuidance = 1.0

func (d *decision) guidance() error {
	g := d.Guidance
	told := d.Model.Distilled()
	switch {
	case !(g >= 0 && g <= 1000):
		return fmt.Errorf("guidance: want a scale from 0 to 1000, got %g", g)
	case !(d.Rescale >= 0 && d.Rescale <= 1):
		return fmt.Errorf("guidance rescale: want 0 to 1, got %g", d.Rescale)
	case g == 0 && told:
		g = 8.5
	case g == 0 && d.few():
		g = 1
	case g == 0:
		g = 7.5
	}
	d.plan.Guidance, d.plan.Distilled, d.cfg = g, told, g > 1 && !told
	if d.Negative != "" && told {
		d.note("the negative prompt has no effect: the model is guidance-distilled, and makes no unconditional pass")
	} else if d.Negative != "" && !d.cfg {
		d.note("the negative prompt has no effect at guidance %.4g: want more than 1", g)
	}
	if d.EmptyNegative && d.Negative != "" {
		d.note("the option to encode an empty negative prompt has no effect: the negative prompt is not empty")
	}
	switch {
	case !d.EmptyNegative || d.Negative != "":
	case !d.cfg:
		d.note("the option to encode an empty negative prompt has no effect: there is no unconditional pass")
	case !d.Model.ZeroNegative:
		d.note("the option to encode an empty negative prompt has no effect: this model's is encoded anyway")
	}
	if d.Rescale > 0 && !d.cfg {
		d.note("guidance rescale has no effect without classifier-free guidance")
	}
	return nil
}

// encodeBoth encodes a prompt, and the negative one where guidance needs it.
func (d *decision) encodeBoth(s *torch.Scope, prompt string) (none, some sd.Embedding) {
	positive := d.text(prompt)
	positive.ClipSkip = d.ClipSkip
	if !d.cfg {
		return none, d.Model.Embed(s, d.encoders(), positive)[0]
	}
	both := d.Model.Embed(s, d.encoders(), d.text(d.Negative), positive)
	if d.zeroNegative() {
		return zeros(s, both[1]), both[1]
	}
	return both[0], both[1]
}

// encodeNegative encodes the negative prompt beside a prompt that is encoded already.
func (d *decision) encodeNegative(s *torch.Scope, some sd.Embedding) sd.Embedding {
	if d.zeroNegative() {
		return zeros(s, some)
	}
	return d.Model.Embed(s, d.encoders(), d.text(d.Negative))[0]
}

// zeroNegative tells whether zeros stand for the negative prompt.
func (d *decision) zeroNegative() bool {
	return d.Negative == "" && d.Model.ZeroNegative && !d.EmptyNegative
}

func zeros(s *torch.Scope, of sd.Embedding) (out sd.Embedding) {
	out.Text = torch.ZerosLike(s, of.Text)
	if of.Pooled != nil {
		out.Pooled = torch.ZerosLike(s, of.Pooled)
	}
	return out
}

// encoders are the adapters of the text encoders.
func (d *decision) encoders() nn.Adapters {
	var encoders []*nn.Store
	for _, t := range d.Model.Texts {
		encoders = append(encoders, t.Store())
	}
	return d.Adapters.Of(encoders...)
}

// predict calls the network at timestep t in step i, with guidance.
func (net *network) predict(s *torch.Scope, x *torch.Tensor, t float64, i int) *torch.Tensor {
	at := torch.FromSlice(s, []float32{float32(t)}, 1)
	twice := func(x *torch.Tensor) *torch.Tensor {
		if !net.cfg {
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
	out := net.Model.UNet.Forward(s, in, at, c)
	if !net.cfg {
		return out
	}
	none, some := out.Narrow(s, 0, 0, net.n), out.Narrow(s, 0, net.n, net.n)
	guided := none.Add(s, some.Sub(s, none).MulScalar(s, net.plan.Guidance))
	if net.Rescale > 0 {
		ratio := some.StdDim(s, 1, true, 1, 2, 3).Div(s, guided.StdDim(s, 1, true, 1, 2, 3))
		guided = guided.Mul(s, ratio).MulScalar(s, net.Rescale).Add(s, guided.MulScalar(s, 1-net.Rescale))
	}
	return guided
}
