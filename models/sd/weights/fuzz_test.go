package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// FuzzModelIndex looks for descriptions of models that crash.
func FuzzModelIndex(f *testing.F) {
	f.Add([]byte(tinyIndex))
	f.Fuzz(func(t *testing.T, data []byte) {
		if index, err := parseModelIndex(data); err == nil && index.classes["unet"] != unetClass {
			t.Fatalf("a model with a %q", index.classes["unet"])
		}
	})
}

// zeros is a plan whose small tensors can be read.
type zeros struct{ *plan }

func (z zeros) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	n := 1
	for _, d := range z.shapes[name] {
		if d < 0 || d > 64 || n > 4096 {
			return nil, errors.New("it is not small")
		}
		n *= d
	}
	var t *torch.Tensor
	err := torch.Catch(func() { t = torch.Zeros(s, torch.Float32, z.shapes[name]...) })
	return t, err
}

// alike fails when a tensor of a source does not have the shape that it is said to have.
func alike(t *testing.T, src nn.Source) {
	t.Helper()
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name := range src.Names() {
			shape, _, ok := src.Info(name)
			if x, err := src.Get(s, name); err == nil && (!ok || !slices.Equal(x.Shape(), shape)) {
				return fmt.Errorf("%q has the shape %v, not %v", name, x.Shape(), shape)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzTensors looks for names and shapes of tensors that crash what finds out what they are, or what gives them other names and shapes.
// A file is lines of a name and dimensions. A text of odd length asks for averages.
func FuzzTensors(f *testing.F) {
	for _, kind := range []Kind{SD15, SDXL, SSD1B, VAE} {
		c := singles(f)[kind.String()]
		var lines []string
		for _, t := range c.File {
			dims, err := json.Marshal(t.shape)
			if err != nil {
				f.Fatal(err)
			}
			lines = append(lines, t.name+" "+string(dims))
		}
		f.Add(strings.Join(lines, "\n"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := planOf(nil)
		for line := range strings.Lines(text) {
			name, dims, _ := strings.Cut(strings.TrimSpace(line), " ")
			var shape []int
			_ = json.Unmarshal([]byte(dims), &shape) // whatever it makes of it
			p.add(name, shape...)
		}
		l, err := sniff(p)
		if err != nil {
			return
		}
		m := &Model{Kind: l.kind}
		if l.kind == LoRA || l.kind == TAESD || l.kind == Refiner || m.fill(zeros{p}, l, Options{EMA: len(text)%2 == 1}) != nil {
			return
		}
		for key, part := range m.parts() {
			alike(t, part)
			if src, err := m.theirs(key, part); err == nil {
				alike(t, src)
			}
		}
	})
}
