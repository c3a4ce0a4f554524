package torch_test

import (
	"debug/elf"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// A graph computes from the values that its inputs have when it is replayed.
func testGraph(t *testing.T, dev torch.Device, record func(*torch.Scope, func(*torch.Scope) []*torch.Tensor) (*torch.Graph, error)) {
	require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			x := torch.FromSlice(s, []float32{1, 2, 3})
			f := func(s *torch.Scope) []*torch.Tensor {
				y := s.Tidy(func(s *torch.Scope) *torch.Tensor { return x.MulScalar(s, 2).AddScalar(s, 1) })
				return []*torch.Tensor{y.Mul(s, y), x}
			}
			f(s)
			g, err := record(s, f)
			require.NoError(t, err)
			defer g.Close()
			out := g.Outputs()
			require.Len(t, out, 2)
			for _, of := range []float32{0, 1, 5} {
				x.CopyFrom(s, torch.Full(s, float64(of), torch.Float32, 3))
				require.NoError(t, g.Replay())
				y := 2*of + 1
				require.Equal(t, []float32{y * y, y * y, y * y}, torch.ToSlice[float32](out[0]))
				x.CopyFrom(s, torch.Full(s, 9, torch.Float32, 3))
				require.Equal(t, []float32{of, of, of}, torch.ToSlice[float32](out[1]), "a result that is an input is a copy")
			}
			return nil
		})
	}))
}

func TestGraphCUDA(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	testGraph(t, torch.CUDA(0), torch.Record)
	require.NoError(t, torch.Run(torch.CUDA(0), func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 3)
		_, err := torch.Record(s, func(s *torch.Scope) []*torch.Tensor {
			return []*torch.Tensor{torch.FromSlice(s, []float32{1}).Add(s, x)}
		})
		require.ErrorContains(t, err, "while a graph is recorded")
		require.Equal(t, 3.0, x.Sum(s).Item(), "a recording that failed is over")
		return nil
	}))
}

func TestGraphRehearsed(t *testing.T) {
	testGraph(t, torch.CPU, torch.Rehearse)
}

// What a replay would not repeat is an error, also in scopes inside.
func TestGraphMovesNothing(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 2)
		for name, f := range map[string]func(s *torch.Scope) *torch.Tensor{
			"item": func(s *torch.Scope) *torch.Tensor { return x.MulScalar(s, x.Sum(s).Item()) },
			"int":  func(s *torch.Scope) *torch.Tensor { return x.MulScalar(s, float64(x.Sum(s).Int())) },
			"to_slice": func(s *torch.Scope) *torch.Tensor {
				return torch.Full(s, float64(torch.ToSlice[float32](x.Neg(s))[0]), torch.Float32)
			},
			"from_slice": func(s *torch.Scope) *torch.Tensor { return torch.FromSlice(s, []float32{1}) },
			"in a scope inside": func(s *torch.Scope) *torch.Tensor {
				return s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return torch.Scalar(s, float32(1)) })
			},
		} {
			_, err := torch.Rehearse(s, func(s *torch.Scope) []*torch.Tensor { return []*torch.Tensor{f(s)} })
			require.ErrorContains(t, err, "while a graph is recorded", name)
		}
		_, err := torch.Record(s, func(s *torch.Scope) []*torch.Tensor { return nil })
		require.ErrorContains(t, err, "only a GPU has graphs: want a scope of one, got cpu")
		return nil
	}))
}

// The layer finds libtorch's CUDA graphs by their names.
func TestGraphNames(t *testing.T) {
	file := filepath.Join(filepath.Dir(torch.LibraryPath()), "libtorch_cuda.so")
	f, err := elf.Open(file)
	if err != nil {
		t.Skipf("this libtorch has no CUDA: %v", err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	require.NoError(t, err)
	there := map[string]bool{}
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF {
			there[s.Name] = true
		}
	}
	source, err := os.ReadFile("../csrc/layer/graph.cpp")
	if err != nil {
		t.Skip(err) // in a bundle
	}
	names := regexp.MustCompile(`"(_ZN\w+)"`).FindAllSubmatch(source, -1)
	require.Len(t, names, 5)
	for _, name := range names {
		require.True(t, there[string(name[1])], "%s has no %s", file, name[1])
	}
}
