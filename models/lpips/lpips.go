// Package lpips implements LPIPS, a perceptual distance between images (Zhang et al. 2018, version 0.1). It compares the features of an
// image classification network, and agrees better with human judgement than pixel differences.
//
// # Weights
//
// The weights are not included. On a machine where Python can download them,
//
//	pip install lpips torchvision safetensors
//	python scripts/lpips_weights.py vgg lpips-vgg.safetensors
//
// writes the file that [Open] reads: the state dict of the Python package.
package lpips

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// scaling is the prefix of the constants that normalise images.
const scaling = "scaling_layer."

// ImageNet's mean and standard deviation of each channel, for images in [-1, 1].
var (
	shift = [...]float32{-0.030, -0.088, -0.188}
	scale = [...]float32{0.458, 0.448, 0.450}
)

const (
	resized   = 224   // side of resized images in pixels
	small     = 256   // ResizeSmall resizes images with a side below this
	lengthEps = 1e-10 // added to the norm that features are divided by
)

// LPIPS is the distance with its network. It owns the weights, which do not require gradients.
type LPIPS struct {
	config Config
	store  *nn.Store

	shift, scale *torch.Tensor   // [1, 3, 1, 1]
	slices       [][]nn.Conv2D   // of the network
	lins         []*torch.Tensor // [1, C, 1, 1] for each slice: the weights of the channels
}

// New makes a distance over a network with random weights of type dtype drawn from seed, for tests. All channels have the same weight.
// It is not LPIPS.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (*LPIPS, error) {
	if c.Net == "" {
		c.Net = Alex
	}
	return newWith(c, dev, dtype, seed, kaiming)
}

func newWith(c Config, dev torch.Device, dtype torch.DType, seed uint64, weight func(fanIn int) nn.Init) (*LPIPS, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &LPIPS{config: c}
	var err error
	if l.store, err = nn.Build(dev, dtype, seed, func(p nn.Path) { l.build(p, weight) }); err != nil {
		return nil, err
	}
	l.store.SetRequiresGrad(false)
	return l, nil
}

func (l *LPIPS) build(p nn.Path, weight func(fanIn int) nn.Init) {
	l.shift = p.Buffer(scaling+"shift", constants(shift[:]), 1, 3, 1, 1)
	l.scale = p.Buffer(scaling+"scale", constants(scale[:]), 1, 3, 1, 1)
	in := 3
	for i, part := range l.config.Net.architecture().slices {
		var convs []nn.Conv2D
		for _, c := range part.convs {
			at := p.Sub("net", fmt.Sprintf("slice%d", i+1), c.index)
			convs = append(convs, nn.NewConv2DInit(at, in, c.out, c.kernel, c.opt, weight(in*c.kernel*c.kernel), nn.Zeros))
			in = c.out
		}
		l.slices = append(l.slices, convs)
		l.lins = append(l.lins, p.Sub(fmt.Sprintf("lin%d", i), "model", 1).Param("weight", nn.Ones, 1, in, 1, 1))
	}
}

// Open reads the weights of c.Net, or of either network if it is "", from a safetensors file onto dev. The file has the
// tensors of the Python package's state dict (lins.*, which repeat lin0 to lin4, may be missing). Missing weights, shape mismatches,
// NaN and infinite values are errors. If there is no file, the error wraps fs.ErrNotExist.
func Open(path string, c Config, dev torch.Device) (*LPIPS, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	fail := func(err error) (*LPIPS, error) {
		return nil, fmt.Errorf("lpips: weights %s: %w", quote.Path(path), err)
	}
	w, err := torch.OpenWeights(path)
	if errors.Is(err, fs.ErrNotExist) {
		net := c.Net
		if net == "" {
			net = VGG
		}
		return fail(fmt.Errorf("%w: to create it where Python can download the weights, run: pip install lpips torchvision safetensors; "+
			"python scripts/lpips_weights.py %s %s", fs.ErrNotExist, quote.Text(net), quote.Path(quoted(path))))
	}
	if err != nil {
		return nil, fmt.Errorf("lpips: weights: %w", err)
	}
	defer w.Close() // the weights were copied: no tensor is a view of the file

	shapes := map[string][]int{}
	for t := range w.File().Tensors() {
		shapes[t.Name] = t.Shape
	}
	switch found := recognise(shapes); {
	case found == "":
		return fail(fmt.Errorf("none of its %d tensors belongs to LPIPS: want a file from scripts/lpips_weights.py", len(shapes)))
	case c.Net == "":
		c.Net = found
	case c.Net != found:
		return fail(fmt.Errorf("they are for %s, want %s (net %s)", found.architecture().title, c.Net.architecture().title, quote.Quoted(c.Net)))
	}
	l, err := newWith(c, dev, torch.Float32, 0, zero)
	if err != nil {
		return nil, err
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return l.Load(func(yield func(string, *torch.Tensor) bool) {
			for name, t := range w.All(s) {
				if !strings.HasPrefix(name, "lins.") && !yield(name, t) {
					return
				}
			}
		})
	})
	if err != nil {
		l.Close()
		return fail(fmt.Errorf("weights for %s (net %s): %w", c.Net.architecture().title, quote.Quoted(c.Net), err))
	}
	return l, nil
}

// quoted quotes a path for a shell, if needed.
func quoted(path string) string {
	if path != "" && !strings.ContainsAny(path, " \t\n'\"\\$&;|<>()*?[]#~`!{}") {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// Config returns the configuration, with the network named.
func (l *LPIPS) Config() Config { return l.config }

// Tensors yields the weights and the normalisation constants, with their names in files.
func (l *LPIPS) Tensors() iter.Seq2[string, *torch.Tensor] { return l.store.Tensors() }

// Close frees the weights.
func (l *LPIPS) Close() { l.store.Close() }

// Load copies values into the weights. Names and shapes have to match those of Tensors exactly. NaN and infinite weights, and
// constants other than those of version 0.1, are also errors, after which the distance must not be used.
func (l *LPIPS) Load(values iter.Seq2[string, *torch.Tensor]) error {
	if err := l.store.Load(values); err != nil {
		return err
	}
	n, err := l.store.NonFinite()
	if n > 0 {
		err = fmt.Errorf("%d weights are NaN or infinite: the file is damaged", n)
	}
	if err != nil {
		return err
	}
	return torch.Run(l.store.Device(), func(s *torch.Scope) error {
		for _, c := range []struct {
			name string
			got  *torch.Tensor
			want [3]float32
		}{{"shift", l.shift, shift}, {"scale", l.scale, scale}} {
			for i, v := range torch.ToSlice[float32](c.got.To(s, torch.Float32)) {
				if d := v - c.want[i]; d < -2e-3 || d > 2e-3 { // bfloat16 has three digits
					return fmt.Errorf("%s%s holds %.3g, want %.3g: these are not the weights of LPIPS 0.1", scaling, c.name, v, c.want[i])
				}
			}
		}
		return nil
	})
}

// Distance returns the LPIPS distances of the images in a and b, [B], for RGB images [B, 3, H, W] or greyscale images [B, 1, H, W] with
// values in [-1, 1]. With features y of a and z of b after each slice l of the network,
//
//	d = Σ_l mean_hw Σ_c w_lc·(ŷ_lchw - ẑ_lchw)²      ŷ = y/(‖y‖ + 1e-10), ‖·‖ over the channels
//
// as in the authors' code; the paper's eq. 1 has w_lc inside the square. Gradients flow to a and b, if they require them.
func (l *LPIPS) Distance(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		y, z := l.Features(s, a), l.Features(s, b)
		var sum *torch.Tensor
		for i, w := range l.lins {
			d := s.Tidy(func(s *torch.Scope) *torch.Tensor {
				// The weights come after the mean over pixels: the sums commute, and there are fewer elements to multiply.
				d := unit(s, y[i]).Sub(s, unit(s, z[i])).Square(s).MeanDim(s, false, 2, 3)
				return d.Mul(s, w.Flatten(s, 0, -1)).SumDim(s, false, 1)
			})
			if sum == nil {
				sum = d
			} else {
				sum = sum.Add(s, d)
			}
		}
		return sum
	})
}

// unit divides each pixel's features by their norm. lengthEps² keeps the gradient of the root finite where all features are 0, and is far
// below the precision of any other norm.
func unit(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		length := x.Square(s).SumDim(s, true, 1).AddScalar(s, lengthEps*lengthEps).Sqrt(s)
		return x.Div(s, length.AddScalar(s, lengthEps))
	})
}

// Features returns the features that Distance compares, before normalisation: those after each slice of the network, [B, C, H', W'],
// for images x in the range of Distance.
func (l *LPIPS) Features(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	l.store.CheckOpen("lpips")
	arch := l.config.Net.architecture()
	x = s.Tidy(func(s *torch.Scope) *torch.Tensor { return l.input(s, x, arch) })
	features := make([]*torch.Tensor, len(l.slices))
	for i, convs := range l.slices {
		x = s.Tidy(func(s *torch.Scope) *torch.Tensor {
			h := x
			if arch.slices[i].pools {
				h = l.pool(s, h, arch.window)
			}
			for _, c := range convs {
				h = s.Tidy(func(s *torch.Scope) *torch.Tensor { return c.Forward(s, h).ReLU(s) })
			}
			return h
		})
		features[i] = x
	}
	return features
}

func (l *LPIPS) pool(s *torch.Scope, x *torch.Tensor, window int) *torch.Tensor {
	if l.config.AveragePool {
		return x.AvgPool2D(s, window)
	}
	return x.MaxPool2D(s, window, 2, 0)
}

// input resizes and normalises images. Greyscale images become three channels with different normalisation.
func (l *LPIPS) input(s *torch.Scope, x *torch.Tensor, arch architecture) *torch.Tensor {
	shape := x.Shape()
	if len(shape) != 4 || (shape[1] != 3 && shape[1] != 1) {
		panic(&torch.Error{Op: "lpips", Msg: fmt.Sprintf("want images [B, 3, H, W] or [B, 1, H, W], got %v", shape)})
	}
	h, w := shape[2], shape[3]
	switch {
	case l.config.Resize == ResizeSmall && min(h, w) < small:
		x = x.Interpolate(s, resized, resized, torch.Bilinear)
	case l.config.Resize == ResizeAll && max(h, w) > resized:
		x = x.Interpolate(s, resized, resized, torch.BilinearAntialias)
	case l.config.Resize == ResizeAll:
		x = x.Interpolate(s, resized, resized, torch.Bilinear)
	case min(h, w) < arch.least:
		panic(&torch.Error{Op: "lpips", Msg: fmt.Sprintf("%s needs images of at least %d×%d pixels, got %d×%d: set Resize",
			arch.title, arch.least, arch.least, h, w)})
	}
	return x.Sub(s, l.shift).Div(s, l.scale)
}
