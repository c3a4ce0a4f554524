package lpips

import (
	"fmt"
	"math"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Net is one of the networks whose features are compared, by the name it has in the Python package lpips.
type Net string

// The networks.
const (
	Alex Net = "alex" // AlexNet (Krizhevsky 2014), for images of at least 31 pixels a side: the fast one
	VGG  Net = "vgg"  // VGG16 (Simonyan & Zisserman 2015), of at least 16: the one that consistency models are trained with
)

// Resize says which images are resized before they are compared, bilinearly and to 224×224 pixels: what both networks were
// trained on.
type Resize string

// The rules of resizing.
const (
	ResizeNone  Resize = ""
	ResizeSmall Resize = "small" // those with a side below 256
	ResizeAll   Resize = "all"   // all; larger ones are smoothed as they shrink
)

// Config says how images are compared. The zero value is LPIPS itself, with the network that a file holds. Training of
// consistency models used two others (Song et al. 2023):
//
//	{Net: VGG, Resize: ResizeSmall, AveragePool: true}   on ImageNet and LSUN, with the Python package piq
//	{Net: VGG, Resize: ResizeAll}                        on CIFAR-10
type Config struct {
	Net         Net    `json:"net,omitempty"`          // "": what the file holds, and Alex in a new network
	Resize      Resize `json:"resize,omitempty"`       // "": images are taken as they are
	AveragePool bool   `json:"average_pool,omitempty"` // VGG16's pooling averages squares of pixels, where it else takes the largest
}

// Validate reports what cannot work.
func (c Config) Validate() error {
	switch c.Net {
	case "", Alex, VGG:
	default:
		return fmt.Errorf("lpips: net: want %q or %q, got %s", Alex, VGG, quote.Quoted(c.Net))
	}
	switch c.Resize {
	case ResizeNone, ResizeSmall, ResizeAll:
	default:
		return fmt.Errorf("lpips: resize: want nothing, %q or %q, got %s", ResizeSmall, ResizeAll, quote.Quoted(c.Resize))
	}
	if c.AveragePool && c.Net == Alex {
		return fmt.Errorf("lpips: average_pool: want it with %q only, got it with %q, whose squares overlap", VGG, Alex)
	}
	return nil
}

// architecture is a network up to the last features that are compared: those behind each slice.
type architecture struct {
	title  string
	least  int // pixels of a side
	window int // side of the squares that pooling takes one value of; it steps by 2 pixels
	slices []slice
}

type slice struct {
	pools bool // before its convolutions
	convs []conv
}

// conv is a convolution that a ReLU follows. The index is its name: its place in torchvision's list of layers.
type conv struct {
	index, out, kernel int
	opt                torch.Conv2DOptions
}

// architecture returns the network; "" is Alex.
func (n Net) architecture() architecture {
	same := func(index, out, kernel int) conv {
		return conv{index, out, kernel, torch.Conv2DOptions{Padding: kernel / 2}}
	}
	if n == VGG {
		return architecture{"VGG16", 16, 2, []slice{
			{false, []conv{same(0, 64, 3), same(2, 64, 3)}},
			{true, []conv{same(5, 128, 3), same(7, 128, 3)}},
			{true, []conv{same(10, 256, 3), same(12, 256, 3), same(14, 256, 3)}},
			{true, []conv{same(17, 512, 3), same(19, 512, 3), same(21, 512, 3)}},
			{true, []conv{same(24, 512, 3), same(26, 512, 3), same(28, 512, 3)}},
		}}
	}
	return architecture{"AlexNet", 31, 3, []slice{
		{false, []conv{{0, 64, 11, torch.Conv2DOptions{Stride: 4, Padding: 2}}}},
		{true, []conv{same(3, 192, 5)}},
		{true, []conv{same(6, 384, 3)}},
		{false, []conv{same(8, 256, 3)}},
		{false, []conv{same(10, 256, 3)}},
	}}
}

// kaiming lets signals keep their size through layers with that many inputs and a ReLU behind (He et al. 2015).
func kaiming(fanIn int) nn.Init { return nn.Normal(math.Sqrt(2 / float64(fanIn))) }

// zero is for weights that a file brings.
func zero(int) nn.Init { return nn.Zeros }

// constants fills a buffer with these values.
func constants(v []float32) nn.Init {
	return func(s *torch.Scope, t *torch.Tensor, _ *torch.Generator) {
		t.CopyFrom(s, torch.FromSlice(s, v, t.Shape()...))
	}
}

// recognise returns the network that most tensors of a file are of, by name and shape; "" where none is of any.
func recognise(shapes map[string][]int) Net {
	best, most := Net(""), 0
	for _, net := range []Net{Alex, VGG} {
		n := 0
		for _, want := range nn.Shapes(func(p nn.Path) { (&LPIPS{config: Config{Net: net}}).build(p, zero) }) {
			// The scaling tells nothing: it is the same in all.
			if got, ok := shapes[want.Name]; ok && !strings.HasPrefix(want.Name, scaling) && fmt.Sprint(got) == fmt.Sprint(want.Dims) {
				n++
			}
		}
		if n > most {
			best, most = net, n
		}
	}
	return best
}
