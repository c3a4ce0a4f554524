package weights

import (
	"fmt"
	"iter"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// scales is a file with quantization scales, ComfyUI's "scaled fp8": the weight is X.weight times X.scale_weight, or X.weight_scale in
// newer files. Such weights are dequantized to float32. The other tensors of the scheme are hidden: a marker, and input scales, which are
// for computing in 8 bits.
type scales struct {
	file
	by     map[string]string // weight name to scale name
	hidden map[string]bool
}

// scaleEnds are the suffixes of scales of X.weight, and layerEnds those of other tensors of a layer X.
var (
	scaleEnds = []string{".scale_weight", ".weight_scale"}
	layerEnds = []string{".scale_input", ".input_scale", ".comfy_quant"}
)

// scaledMarker is the name, or its suffix, of an empty tensor that marks such files.
const scaledMarker = "scaled_fp8"

// withScales wraps a file that has scales, and returns any other file unchanged.
func withScales(f file) (file, error) {
	s := &scales{f, map[string]string{}, map[string]bool{}}
	for name := range f.Names() {
		if name == scaledMarker || strings.HasSuffix(name, "."+scaledMarker) {
			s.hidden[name] = true
			continue
		}
		for _, end := range scaleEnds {
			layer, ok := strings.CutSuffix(name, end)
			if !ok {
				continue
			}
			if err := s.add(layer+".weight", name); err != nil {
				return nil, err
			}
		}
	}
	if len(s.by)+len(s.hidden) == 0 {
		return f, nil
	}
	for name := range f.Names() {
		for _, end := range layerEnds {
			s.hidden[name] = s.hidden[name] || strings.HasSuffix(name, end)
		}
	}
	return s, nil
}

// add registers the scale of a weight: one number, or one for each output.
func (s *scales) add(weight, scale string) error {
	shape, d, ok := s.file.Info(weight)
	if !ok {
		return fmt.Errorf("tensor %s: it is a scale, but its weight %s is missing", quote.Quoted(scale), quote.Quoted(weight))
	}
	of, kind, _ := s.file.Info(scale)
	n := 1
	for _, v := range of {
		n *= v
	}
	outputs := len(shape) > 0 && len(of) > 0 && n == shape[0] && of[0] == n // [n], [n, 1], …
	switch {
	case !d.IsFloat() && !d.IsFloat8() || !kind.IsFloat():
		return fmt.Errorf("tensor %s: want a weight and a scale of floating-point types, got %s and %s", quote.Quoted(weight), d, kind)
	case n != 1 && !outputs:
		return fmt.Errorf("tensor %s: want one scale, or one for each output of the weight %v, got shape %v", quote.Quoted(scale), shape, of)
	case s.by[weight] != "":
		return fmt.Errorf("tensor %s: it has two scales, %s and %s", quote.Quoted(weight), quote.Text(s.by[weight]), quote.Text(scale))
	}
	s.by[weight], s.hidden[scale] = scale, true
	return nil
}

// Info implements nn.Source.
func (s *scales) Info(name string) ([]int, torch.DType, bool) {
	if s.hidden[name] {
		return nil, 0, false
	}
	shape, d, ok := s.file.Info(name)
	if s.by[name] != "" {
		d = torch.Float32
	}
	return shape, d, ok
}

// Names implements nn.Source.
func (s *scales) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range s.file.Names() {
			if !s.hidden[name] && !yield(name) {
				return
			}
		}
	}
}

// Get implements nn.Source.
func (s *scales) Get(scope *torch.Scope, name string) (*torch.Tensor, error) {
	if s.hidden[name] {
		return nil, fmt.Errorf("there is no tensor %s", quote.Quoted(name))
	}
	scale := s.by[name]
	if scale == "" {
		return s.file.Get(scope, name)
	}
	var out *torch.Tensor
	err := scope.NoGrad(func(c *torch.Scope) error {
		w, err := s.file.Get(c, name)
		if err != nil {
			return err
		}
		by, err := s.file.Get(c, scale)
		if err != nil {
			return err
		}
		shape := make([]int, len(w.Shape()))
		for i := range shape {
			shape[i] = 1
		}
		if by.NumEl() > 1 {
			shape[0] = by.NumEl()
		}
		out = c.Keep(w.To(c, torch.Float32).Mul(c, by.To(c, torch.Float32).Reshape(c, shape...)))
		return nil
	})
	return out, err
}

// Release implements nn.Source.
func (s *scales) Release(name string) {
	s.file.Release(name)
	if scale := s.by[name]; scale != "" {
		s.file.Release(scale)
	}
}

// noticeOf says how many weights of a file have scales; "": none.
func noticeOf(f file) string {
	s, ok := f.(*scales)
	if !ok || len(s.by) == 0 {
		return ""
	}
	return fmt.Sprintf("%s with a scale (scaled fp8), dequantized to float32", plural.N(len(s.by), "weight"))
}
