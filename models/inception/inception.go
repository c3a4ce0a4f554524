package inception

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

const (
	// Side is the height and width of the network's input, in pixels.
	Side = 299
	// Width is the number of features.
	Width = 2048
	// Classes is the number of class scores: ImageNet's 1000, and 8 that the graph of 2015 has besides.
	Classes = 1008

	normEps = 1e-3
)

// Name is that of the features in figures.
const Name = "InceptionV3"

// Net is the network. It owns its weights, which are frozen. Several goroutines may use it at once.
type Net struct {
	Resize Resize // how Features resizes images; set it before the net is used

	store *nn.Store
	stem  [5]conv // Conv2d_1a, 2a and 2b, a max pool, 3b and 4a, a max pool
	mixed []block
	fc    nn.Linear
}

// conv is a convolution with the batch norm after it folded into its weights, and a ReLU.
type conv interface {
	forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor
}

// square is a conv whose kernel is as wide as high.
type square struct{ nn.Conv2D }

func (c square) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return c.Forward(s, x).ReLU(s)
}

// line is a conv whose kernel is a row or a column. The output has the input's size.
type line struct {
	weight, bias *torch.Tensor
	padding      []int // rows, columns
}

func (c line) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	out, err := torch.Call(s, "aten::conv2d", x, c.weight, c.bias, []int{1, 1}, c.padding)
	if err != nil {
		panic(err)
	}
	return out[0].(*torch.Tensor).ReLU(s)
}

// newConv makes a conv. kernel is its height and width.
func newConv(p nn.Path, in, out int, kernel [2]int, stride, padding int) conv {
	if kernel[0] == kernel[1] {
		return square{nn.NewConv2D(p, in, out, kernel[0], torch.Conv2DOptions{Stride: stride, Padding: padding})}
	}
	return line{p.Param("weight", nn.Zeros, out, in, kernel[0], kernel[1]), p.Param("bias", nn.Zeros, out), []int{kernel[0] / 2, kernel[1] / 2}}
}

// block is one of the "Mixed" blocks: branches whose outputs are concatenated.
type block struct{ branches []branch }

// branch is a pool, if it has one, and convolutions, one after the other. Each of the last ones, tails, has the output of the others as its
// input: their outputs are concatenated.
type branch struct {
	pool  func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
	convs []conv
	tails []conv
}

func (b block) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		var all []*torch.Tensor
		for _, br := range b.branches {
			h := x
			if br.pool != nil {
				h = br.pool(s, h)
			}
			for _, c := range br.convs {
				h = c.forward(s, h)
			}
			if br.tails == nil {
				all = append(all, h)
			}
			for _, c := range br.tails {
				all = append(all, c.forward(s, h))
			}
		}
		return torch.Cat(s, all, 1)
	})
}

// average is the pool of most blocks: of 3×3 pixels with stride 1, without those of the padding.
func average(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	const ceil, countPadding = false, false
	out, err := torch.Call(s, "aten::avg_pool2d", x, []int{3, 3}, []int{1, 1}, []int{1, 1}, ceil, countPadding)
	if err != nil {
		panic(err)
	}
	return out[0].(*torch.Tensor)
}

// largest is the pool of the last block.
func largest(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return x.MaxPool2D(s, 3, 1, 1) }

// shrink is the pool of the stem, and of the blocks that halve the size.
func shrink(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return x.MaxPool2D(s, 3, 2, 0) }

// Features returns the pooled features [B, Width] of RGB images [B, 3, H, W] in [-1, 1], resized as Resize says.
func (n *Net) Features(s *torch.Scope, images *torch.Tensor) *torch.Tensor {
	n.store.CheckOpen("inception")
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := s.Tidy(func(s *torch.Scope) *torch.Tensor {
			x := n.Resize.Input(s, images)
			for i, c := range n.stem {
				if x = c.forward(s, x); i == 2 || i == 4 {
					x = shrink(s, x)
				}
			}
			return x
		})
		for _, b := range n.mixed {
			x = b.forward(s, x)
		}
		return x.MeanDim(s, false, 2, 3)
	})
}

// Logits returns the class scores [B, Classes], before softmax, of features [B, Width].
func (n *Net) Logits(s *torch.Scope, features *torch.Tensor) *torch.Tensor {
	n.store.CheckOpen("inception")
	return n.fc.Forward(s, features)
}

// ScoreLogits are the logits without their bias: those that the Inception Score of papers is computed from, by an accident of the first
// implementation (Salimans et al. 2016) that all others follow.
func (n *Net) ScoreLogits(s *torch.Scope, features *torch.Tensor) *torch.Tensor {
	n.store.CheckOpen("inception")
	return features.Linear(s, n.fc.Weight, nil)
}

// Device returns where the weights are.
func (n *Net) Device() torch.Device { return n.store.Device() }

// Close frees the weights.
func (n *Net) Close() { n.store.Close() }
