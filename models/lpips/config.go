package lpips

import (
	"fmt"
	"math"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Net is the network whose features are compared, by its name in the Python package lpips.
type Net string

// The networks.
const (
	Alex Net = "alex" // AlexNet (Krizhevsky 2014), for images of at least 31×31 pixels: fast
	VGG  Net = "vgg"  // VGG16 (Simonyan & Zisserman 2015), for images of at least 16×16 pixels: used to train consistency models
)

// Resize selects the images that are resized before the comparison, bilinearly to 224×224 pixels, the training resolution of both
// networks.
type Resize string

// The images to resize.
const (
	ResizeNone  Resize = ""      // none
	ResizeSmall Resize = "small" // images with a side below 256
	ResizeAll   Resize = "all"   // all images; larger ones are downscaled with antialiasing
)

// Config configures the distance. The zero value is LPIPS itself, with the network that a file holds. The published consistency models
// were trained with two variants (Song et al. 2023):
//
//	{Net: VGG, Resize: ResizeSmall, AveragePool: true}   on ImageNet and LSUN, with the Python package piq
//	{Net: VGG, Resize: ResizeAll}                        on CIFAR-10
type Config struct {
	Net         Net    `json:"net,omitempty"`          // "": the network in the file, and Alex for a new network
	Resize      Resize `json:"resize,omitempty"`       // "": no resizing
	AveragePool bool   `json:"average_pool,omitempty"` // VGG16 with average pooling in place of max pooling
}

// Validate reports invalid and incompatible values.
func (c Config) Validate() error {
	switch c.Net {
	case "", Alex, VGG:
	default:
		return fmt.Errorf("lpips: net: want %q or %q, got %s", Alex, VGG, quote.Quoted(c.Net))
	}
	switch c.Resize {
	case ResizeNone, ResizeSmall, ResizeAll:
	default:
		return fmt.Errorf("lpips: resize: want %q, %q or %q, got %s", ResizeNone, ResizeSmall, ResizeAll, quote.Quoted(c.Resize))
	}
	if c.AveragePool && c.Net == Alex {
		return fmt.Errorf("lpips: average_pool: supported with net %q only, got %q, whose pooling windows overlap", VGG, Alex)
	}
	return nil
}

// architecture is a network up to the last features that are compared. Features are compared after each slice.
type architecture struct {
	title  string
	least  int // smallest side of an image, in pixels
	window int // kernel size of pooling, whose stride is 2
	slices []slice
}

type slice struct {
	pools bool // pooling before its convolutions
	convs []conv
}

// conv is a convolution followed by a ReLU. The index, its position in torchvision's list of layers, is its name.
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

// kaiming is the initialisation of He et al. (2015) for layers followed by a ReLU.
func kaiming(fanIn int) nn.Init { return nn.Normal(math.Sqrt(2 / float64(fanIn))) }

// zero is the initialisation of weights that are loaded from a file.
func zero(int) nn.Init { return nn.Zeros }

// constants fills a buffer with v.
func constants(v []float32) nn.Init {
	return func(s *torch.Scope, t *torch.Tensor, _ *torch.Generator) {
		t.CopyFrom(s, torch.FromSlice(s, v, t.Shape()...))
	}
}

// recognise returns the network that most of a file's tensors belong to, by name and shape; "" if none does.
func recognise(shapes map[string][]int) Net {
	best, most := Net(""), 0
	for _, net := range []Net{Alex, VGG} {
		n := 0
		for _, want := range nn.Shapes(func(p nn.Path) { (&LPIPS{config: Config{Net: net}}).build(p, zero) }) {
			// The normalisation constants do not count: they are the same for both networks.
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
