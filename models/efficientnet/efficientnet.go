package efficientnet

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

const (
	// Side is the height and width of the network's inputs, in pixels.
	Side = 224
	// Width is the number of features.
	Width = 1280
	// Classes is the number of ImageNet's classes.
	Classes = 1000

	normEps = 1e-3
)

// What figures that are measured with these features have to say: Name is that of the features, and Resizing what Input does.
const (
	Name     = "EffNetLite0"
	Resizing = "bicubic, antialiased, 224"
)

// Net is the network. It owns its weights, which are frozen. Several goroutines may use it at once.
type Net struct {
	store  *nn.Store
	stem   conv
	blocks []block
	head   conv
	fc     nn.Linear
}

// conv is a convolution with the batch norm after it folded into its weights, padded as TensorFlow's SAME.
type conv struct {
	nn.Conv2D
	kernel, stride int
}

// block is an inverted residual block (Sandler et al. 2018).
type block struct {
	expand            *conv // 1×1; nil: none
	depthwise, shrink conv
	residual          bool // the input is added to the output
}

// stage is a number of equal blocks, of which the first has the stride.
type stage struct{ repeat, kernel, stride, expand, out int }

var stages = []stage{
	{1, 3, 1, 1, 16}, {2, 3, 2, 6, 24}, {2, 5, 2, 6, 40}, {3, 3, 2, 6, 80}, {3, 5, 1, 6, 112}, {4, 5, 2, 6, 192}, {1, 3, 1, 6, 320},
}

const stemWidth = 32

func (n *Net) build(p nn.Path) {
	n.stem = newConv(p.Sub("_conv_stem"), 3, stemWidth, 3, 2, 1)
	in := stemWidth
	for _, st := range stages {
		for i := range st.repeat {
			bp, stride, wide := p.Sub("_blocks", len(n.blocks)), 1, in*st.expand
			if i == 0 {
				stride = st.stride
			}
			b := block{residual: stride == 1 && in == st.out}
			if st.expand > 1 {
				e := newConv(bp.Sub("_expand_conv"), in, wide, 1, 1, 1)
				b.expand = &e
			}
			b.depthwise = newConv(bp.Sub("_depthwise_conv"), wide, wide, st.kernel, stride, wide)
			b.shrink = newConv(bp.Sub("_project_conv"), wide, st.out, 1, 1, 1)
			n.blocks = append(n.blocks, b)
			in = st.out
		}
	}
	n.head = newConv(p.Sub("_conv_head"), in, Width, 1, 1, 1)
	n.fc = nn.NewLinear(p.Sub("_fc"), Width, Classes)
}

func newConv(p nn.Path, in, out, kernel, stride, groups int) conv {
	return conv{nn.NewConv2D(p, in, out, kernel, torch.Conv2DOptions{Stride: stride, Groups: groups}), kernel, stride}
}

// forward pads so that the output has ⌈size/stride⌉ pixels, the odd one at the end: with stride 2 this is not PyTorch's padding.
func (c conv) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if c.kernel == 1 {
		return c.Forward(s, x)
	}
	around := func(size int) (before, after int) {
		all := max(0, ((size+c.stride-1)/c.stride-1)*c.stride+c.kernel-size)
		return all / 2, all - all/2
	}
	top, bottom := around(x.Dim(2))
	left, right := around(x.Dim(3))
	return c.Forward(s, x.Pad(s, []int{left, right, top, bottom}, torch.PadConstant, 0))
}

func (c conv) relu6(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return c.forward(s, x).Clamp(s, 0, 6)
}

func (b block) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := x
		if b.expand != nil {
			h = b.expand.relu6(s, h)
		}
		h = b.shrink.forward(s, b.depthwise.relu6(s, h))
		if b.residual {
			h = h.Add(s, x)
		}
		return h
	})
}

// Input resizes RGB images [B, 3, H, W] in [-1, 1] to Side×Side pixels, with Pillow's antialiased bicubic filter, without rounding to bytes.
// Images of that size are returned as they are.
func Input(s *torch.Scope, images *torch.Tensor) *torch.Tensor {
	if images.NDim() != 4 || images.Dim(1) != 3 {
		panic(&torch.Error{Op: "efficientnet", Msg: fmt.Sprintf("want RGB images [B, 3, H, W], got %v", images.Shape())})
	}
	if images.Dim(2) == Side && images.Dim(3) == Side {
		return images
	}
	return images.Interpolate(s, Side, Side, torch.BicubicAntialias)
}

// Features returns the pooled features [B, Width] of RGB images [B, 3, H, W] in [-1, 1], resized by Input.
func (n *Net) Features(s *torch.Scope, images *torch.Tensor) *torch.Tensor {
	n.store.CheckOpen("efficientnet")
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		// The network was trained on (v - 127)/128 of bytes v = 127.5·(x + 1).
		x := Input(s, images).MulScalar(s, 127.5/128).AddScalar(s, 0.5/128)
		x = n.stem.relu6(s, x)
		for _, b := range n.blocks {
			x = b.forward(s, x)
		}
		return n.head.relu6(s, x).MeanDim(s, false, 2, 3)
	})
}

// Logits returns the class scores [B, Classes], before softmax, of features [B, Width]. Classes are in ImageNet's usual order.
func (n *Net) Logits(s *torch.Scope, features *torch.Tensor) *torch.Tensor {
	n.store.CheckOpen("efficientnet")
	return n.fc.Forward(s, features)
}

// Device returns where the weights are.
func (n *Net) Device() torch.Device { return n.store.Device() }

// Close frees the weights.
func (n *Net) Close() { n.store.Close() }
