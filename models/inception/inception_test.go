package inception

import (
	"archive/zip"
	"errors"
	"io/fs"
	"iter"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

const golden = "testdata/golden.safetensors"

func bytesOf(s *torch.Scope, g *torch.Generator, dims ...int) *torch.Tensor {
	return torch.Rand(s, g, torch.Float32, dims...).MulScalar(s, 256).Floor(s).DivScalar(s, 127.5).SubScalar(s, 1)
}

// drawn writes the drawn weights as a safetensors file, and returns its path and the generator after them.
func drawn(t *testing.T, s *torch.Scope) (path string, want map[string]*torch.Tensor, g *torch.Generator) {
	t.Helper()
	want, metadata := torchtest.Golden(t, s, golden)
	seed, err := strconv.ParseUint(metadata["seed"], 10, 64)
	require.NoError(t, err)
	g = torch.NewGenerator(s, seed)
	path = filepath.Join(t.TempDir(), "inception.safetensors")
	require.NoError(t, torch.SaveSafetensors(path, torchtest.DrawnNorms(t, s, g, metadata["layout"], ".bn."), torch.SaveOptions{}))
	return path, want, g
}

// Features and logits are those of torch-fidelity and pytorch-fid, and those after clean-fid's resizing. Folding batch norms into convolutions
// changes the rounding of 94 layers: Python's own float32 differs from float64 by about as much.
func TestGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		path, want, g := drawn(t, s)
		net, err := Open(path, torch.CPU)
		require.NoError(t, err)
		defer net.Close()
		return s.NoGrad(func(s *torch.Scope) error {
			images := map[string]*torch.Tensor{"small": bytesOf(s, g, 1, 3, 32, 48)}
			images["large"] = bytesOf(s, g, 1, 3, 310, 300)
			for _, size := range []string{"small", "large"} {
				for _, c := range []struct {
					resize Resize
					name   string
				}{{"", "fidelity."}, {PyTorch, "pytorch."}, {Clean, "clean."}} {
					net.Resize = c.resize
					features := net.Features(s, images[size])
					torchtest.Close(t, c.name+size, features, want[c.name+size], 1e-3, 0)
					if size == "large" && c.resize == "" {
						torchtest.Close(t, "logits", net.Logits(s, features), want["logits"], 1e-3, 0)
						torchtest.Close(t, "unbiased", net.ScoreLogits(s, features), want["unbiased"], 1e-3, 0)
					}
				}
			}
			return nil
		})
	}))
}

// Both formats of torch.save are read, as the projects publish their weights.
func TestOpenPickled(t *testing.T) {
	python := torchtest.Python(t, "torch", "torch_fidelity", "pytorch_fid", "safetensors", "PIL")
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		path, _, _ := drawn(t, s)
		want, err := Open(path, torch.CPU)
		require.NoError(t, err)
		defer want.Close()
		for i, format := range [][]string{nil, {"--legacy"}} {
			path := filepath.Join(t.TempDir(), Files[i])
			out, err := exec.Command(python, append([]string{"../../scripts/golden/models/inception/fid.py", "--weights", path}, format...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			net, err := Open(path, torch.CPU)
			require.NoError(t, err)
			n := 0
			theirs := net.store.Tensors()
			next, stop := iter.Pull2(theirs)
			for name, v := range want.store.Tensors() {
				other, got, _ := next()
				require.Equal(t, name, other)
				torchtest.Close(t, name, got, v, 0, 0)
				n++
			}
			stop()
			require.Equal(t, 2*94+2, n)
			net.Close()
		}
		return nil
	}))
}

// listed is a file of zeros with tensors of these shapes.
type listed struct {
	order  []string
	shapes map[string][]int
	bad    string // a tensor of NaN
}

func (l listed) Info(name string) ([]int, torch.DType, bool) {
	shape, ok := l.shapes[name]
	return shape, torch.Float32, ok
}

func (l listed) Names() iter.Seq[string] { return slices.Values(l.order) }
func (l listed) Release(string)          {}

func (l listed) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	value := 0.0
	if name == l.bad {
		value = math.NaN()
	}
	return torch.Full(s, value, torch.Float32, l.shapes[name]...), nil
}

func TestOpenRefuses(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "none.pth"), torch.CPU)
	require.ErrorIs(t, err, os.ErrNotExist)
	script := filepath.Join(t.TempDir(), "inception-2015-12-05.pt") // a program of TorchScript, as NVIDIA publishes it
	f, err := os.Create(script)
	require.NoError(t, err)
	z := zip.NewWriter(f)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "inception/data.pkl"})
	require.NoError(t, err)
	_, err = w.Write([]byte("\x80\x02c__torch__\nNet\n)\x81."))
	require.NoError(t, errors.Join(err, z.Close(), f.Close()))
	_, err = Open(script, torch.CPU)
	require.ErrorContains(t, err, "__torch__.Net: want a state dict")
	var layout string
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		_, metadata := torchtest.Golden(t, s, golden)
		layout = metadata["layout"]
		return nil
	}))
	for want, change := range map[string]func(l *listed){
		"": func(*listed) {},
		"of another network, with tensors such as conv.weight":          func(l *listed) { *l = listed{[]string{"conv.weight"}, map[string][]int{"conv.weight": {1}}, ""} },
		"the file has no tensors":                                       func(l *listed) { *l = listed{} },
		"1000 classes":                                                  func(l *listed) { l.shapes["fc.weight"] = []int{1000, Width} },
		"Mixed_6d.branch7x7_2.bn.running_var: want shape [160], got []": func(l *listed) { delete(l.shapes, "Mixed_6d.branch7x7_2.bn.running_var") },
		"Mixed_6d.branch7x7_2.weight (want [160 160 1 7], got [160 160 7 1])": func(l *listed) {
			l.shapes["Mixed_6d.branch7x7_2.conv.weight"] = []int{160, 160, 7, 1}
		},
		"1008 weights are NaN":     func(l *listed) { l.bad = "fc.bias" },
		"unexpected: other.weight": func(l *listed) { l.order, l.shapes["other.weight"] = append(l.order, "other.weight"), []int{3} },
	} {
		l := listed{shapes: map[string][]int{}}
		for range torchtest.Drawn(t, layout, func(name string, dims []int) *torch.Tensor {
			l.order, l.shapes[name] = append(l.order, name), dims
			return nil
		}) {
		}
		change(&l)
		net, err := read(l, torch.CPU)
		if want == "" {
			require.NoError(t, err)
			net.Close()
			continue
		}
		require.ErrorContains(t, err, want)
	}
}

// Either project's file is found.
func TestFind(t *testing.T) {
	data := t.TempDir()
	t.Setenv("XDG_DATA_HOME", data)
	path, err := Find()
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, filepath.Join(data, "onestep", Files[0]), path)
	for _, name := range []string{Files[1], Files[0]} {
		want := filepath.Join(data, "onestep", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(want), 0o755))
		require.NoError(t, os.WriteFile(want, nil, 0o600))
		path, err = Find()
		require.NoError(t, err)
		require.Equal(t, want, path)
	}
}
