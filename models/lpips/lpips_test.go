package lpips

import (
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func build(t *testing.T, c Config) *LPIPS {
	t.Helper()
	l, err := New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// save writes tensors of the distance as change leaves them, and returns the file's path.
func save(t *testing.T, l *LPIPS, change func(s *torch.Scope, file map[string]*torch.Tensor)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lpips.safetensors")
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		file := maps.Collect(l.Tensors())
		if change != nil {
			change(s, file)
		}
		return torch.SaveSafetensors(path, maps.All(file), torch.SaveOptions{})
	}))
	return path
}

func distance(t *testing.T, l *LPIPS) []float32 {
	t.Helper()
	var d []float32
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b := pictures(s, 3, 40)
		d = torch.ToSlice[float32](l.Distance(s, a, b))
		return nil
	}))
	return d
}

func pictures(s *torch.Scope, channels, side int) (a, b *torch.Tensor) {
	g := torch.NewGenerator(s, 5)
	draw := func() *torch.Tensor {
		return torch.Rand(s, g, torch.Float32, 2, channels, side, side).MulScalar(s, 2).SubScalar(s, 1)
	}
	return draw(), draw()
}

// What was written is read back: the same network, by itself and with what Python's state dict has besides.
func TestOpen(t *testing.T) {
	for _, net := range []Net{Alex, VGG} {
		l := build(t, Config{Net: net})
		want := distance(t, l)
		for name, c := range map[string]struct {
			config Config
			change func(s *torch.Scope, file map[string]*torch.Tensor)
		}{
			"plain": {},
			"named": {config: Config{Net: net, Resize: ResizeNone}},
			"repeated": {change: func(s *torch.Scope, file map[string]*torch.Tensor) {
				for i := range l.lins {
					file[fmt.Sprintf("lins.%d.model.1.weight", i)] = file[fmt.Sprintf("lin%d.model.1.weight", i)]
				}
			}},
			"float64": {change: func(s *torch.Scope, file map[string]*torch.Tensor) {
				for k, v := range file {
					file[k] = v.To(s, torch.Float64)
				}
			}},
		} {
			t.Run(string(net)+" "+name, func(t *testing.T) {
				read, err := Open(save(t, l, c.change), c.config, torch.CPU)
				require.NoError(t, err)
				defer read.Close()
				require.Equal(t, Config{Net: net}, read.Config())
				require.Equal(t, want, distance(t, read))
				for name, w := range read.Tensors() {
					require.False(t, w.RequiresGrad(), name)
				}
			})
		}
		t.Run(string(net)+" half precision", func(t *testing.T) {
			read, err := Open(save(t, l, func(s *torch.Scope, file map[string]*torch.Tensor) {
				for k, v := range file {
					file[k] = v.To(s, torch.BFloat16)
				}
			}), Config{}, torch.CPU)
			require.NoError(t, err)
			defer read.Close()
			require.InDeltaSlice(t, want, distance(t, read), 0.02*float64(want[0]))
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	alex, vgg := build(t, Config{Net: Alex}), build(t, Config{Net: VGG})
	filled := func(v float64) func(s *torch.Scope, file map[string]*torch.Tensor) {
		return func(s *torch.Scope, file map[string]*torch.Tensor) {
			file["lin2.model.1.weight"] = torch.Full(s, v, torch.Float64, 1, 384, 1, 1)
		}
	}
	for _, c := range []struct {
		name   string
		l      *LPIPS
		config Config
		change func(s *torch.Scope, file map[string]*torch.Tensor)
		want   string
	}{
		{"missing", alex, Config{}, func(s *torch.Scope, file map[string]*torch.Tensor) {
			delete(file, "net.slice2.3.bias")
			delete(file, "lin4.model.1.weight")
		}, `weights for AlexNet (net "alex"): weights do not fit the network: 2 missing: lin4.model.1.weight, net.slice2.3.bias`},
		{"misshapen", vgg, Config{}, func(s *torch.Scope, file map[string]*torch.Tensor) {
			file["net.slice1.2.weight"] = torch.Zeros(s, torch.Float32, 64, 64, 5, 5)
		}, `weights for VGG16 (net "vgg"): weights do not fit the network: 1 shape mismatch: ` +
			"net.slice1.2.weight (want [64 64 3 3], got [64 64 5 5])"},
		{"unexpected", alex, Config{}, func(s *torch.Scope, file map[string]*torch.Tensor) {
			file["lin5.model.1.weight"] = torch.Zeros(s, torch.Float32, 1)
		}, "1 unexpected: lin5.model.1.weight"},
		{"integers", alex, Config{}, func(s *torch.Scope, file map[string]*torch.Tensor) {
			file["net.slice2.3.bias"] = torch.Zeros(s, torch.Int64, 192)
		}, "1 not of floating point: net.slice2.3.bias (int64)"},
		{"NaN", alex, Config{}, filled(math.NaN()), "384 weights"},
		{"infinite", alex, Config{}, filled(math.Inf(1)), "384 weights"},
		{"infinite in float32", alex, Config{}, filled(1e300), "384 weights"},
		{"other scaling", alex, Config{}, func(s *torch.Scope, file map[string]*torch.Tensor) {
			file["scaling_layer.scale"] = torch.Full(s, 0.458, torch.Float32, 1, 3, 1, 1)
		}, "scaling_layer.scale holds 0.458, want 0.448: these are not the weights of LPIPS 0.1"},
		{"the other network", alex, Config{Net: VGG}, nil, `they are for AlexNet, want VGG16 (net "vgg")`},
		{"something else", alex, Config{}, func(s *torch.Scope, file map[string]*torch.Tensor) {
			clear(file)
			file["conv_in.weight"] = torch.Zeros(s, torch.Float32, 1)
			file["scaling_layer.shift"] = torch.Zeros(s, torch.Float32, 1, 3, 1, 1)
		}, "none of its 2 tensors"},
		{"nothing", alex, Config{}, func(s *torch.Scope, file map[string]*torch.Tensor) { clear(file) }, "none of its 0 tensors"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := save(t, c.l, c.change)
			_, err := Open(path, c.config, torch.CPU)
			require.ErrorContains(t, err, "lpips: weights "+path+": ")
			require.ErrorContains(t, err, c.want)
		})
	}

	whole, err := os.ReadFile(save(t, alex, nil))
	require.NoError(t, err)
	cut := filepath.Join(t.TempDir(), "cut.safetensors")
	require.NoError(t, os.WriteFile(cut, whole[:len(whole)-1], 0o666))
	_, err = Open(cut, Config{}, torch.CPU)
	require.ErrorContains(t, err, cut)
}

// Without weights, the error is the command that makes them.
func TestOpenWithoutWeights(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir + "/lpips.safetensors":    "python scripts/lpips_weights.py vgg " + dir + "/lpips.safetensors",
		dir + "/my lpips.safetensors": "python scripts/lpips_weights.py vgg '" + dir + "/my lpips.safetensors'",
		dir + "/it's":                 `python scripts/lpips_weights.py vgg '` + dir + `/it'\''s'`,
		"":                            "python scripts/lpips_weights.py vgg ''",
	} {
		_, err := Open(path, Config{}, torch.CPU)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.True(t, strings.HasSuffix(err.Error(), ": pip install lpips torchvision safetensors; "+want), err.Error())
	}
	_, err := Open(dir+"/a", Config{Net: Alex}, torch.CPU)
	require.ErrorContains(t, err, "python scripts/lpips_weights.py alex ")
}

func TestConfigValidate(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Net: "squeeze"}, `lpips: net: want "alex" or "vgg", got "squeeze"`},
		{Config{Resize: "large"}, `lpips: resize: want "", "small" or "all", got "large"`},
		{Config{Net: Alex, AveragePool: true},
			`lpips: average_pool: supported with net "vgg" only, got "alex", whose pooling windows overlap`},
	} {
		_, err := New(c.config, torch.CPU, torch.Float32, 1)
		require.EqualError(t, err, c.want)
	}
	// A file tells the network, and then it is known whether it can pool by averages.
	_, err := Open(save(t, build(t, Config{}), nil), Config{AveragePool: true}, torch.CPU)
	require.ErrorContains(t, err, "average_pool")
}

func TestDistance(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, c := range []Config{{}, {Resize: ResizeSmall}, {Net: VGG, AveragePool: true}} {
			l := build(t, c)
			a, b := pictures(s, 1, 32)
			d := torch.ToSlice[float32](l.Distance(s, a, b))
			require.Len(t, d, 2)
			require.Greater(t, min(d[0], d[1]), float32(0.01))
			require.Equal(t, d, torch.ToSlice[float32](l.Distance(s, b, a)), "it is symmetric")
			require.Equal(t, []float32{0, 0}, torch.ToSlice[float32](l.Distance(s, a, a)))
			rgb := func(x *torch.Tensor) *torch.Tensor { return x.Repeat(s, 1, 3, 1, 1) }
			three := torch.ToSlice[float32](l.Distance(s, rgb(a), rgb(b)))
			require.InDeltaSlice(t, d, three, 1e-6, "grey images have three equal channels")
			alone := torch.ToSlice[float32](l.Distance(s, a.Narrow(s, 0, 1, 1), b.Narrow(s, 0, 1, 1)))
			require.InDelta(t, d[1], alone[0], 1e-6, "samples do not see each other")
		}
		return nil
	}))
}

// Gradients reach the images that ask for them; nothing is recorded of the others, nor of the weights.
func TestGradients(t *testing.T) {
	l := build(t, Config{})
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b := pictures(s, 3, 40)
		require.False(t, l.Distance(s, a, b).RequiresGrad())
		a.SetRequiresGrad(true)
		for i := range l.slices {
			require.True(t, l.Features(s, a)[i].RequiresGrad())
			require.False(t, l.Features(s, b)[i].RequiresGrad())
		}
		l.Distance(s, a, b).Sum(s).Backward()
		require.False(t, b.HasGrad())
		one := a.Grad(s).Clone(s)

		// d(a, b) = d(b, a), so that a's gradient is the same from the other side.
		a.ZeroGrad()
		b.SetRequiresGrad(true)
		l.Distance(s, b, a).Sum(s).Backward()
		torchtest.Close(t, "gradient", a.Grad(s), one, 1e-9, 1e-5)
		require.NotZero(t, b.Grad(s).Abs(s).Max(s).Item())
		for name, w := range l.Tensors() {
			require.False(t, w.RequiresGrad() || w.HasGrad(), name)
		}
		return s.NoGrad(func(s *torch.Scope) error {
			require.False(t, l.Distance(s, a, b).RequiresGrad())
			return nil
		})
	}))
}

// Where images are the same, or all features of a pixel are 0 and have no direction, gradients are 0, not NaN.
func TestGradientsAtZero(t *testing.T) {
	dead, err := newWith(Config{Net: Alex}, torch.CPU, torch.Float32, 0, zero)
	require.NoError(t, err)
	defer dead.Close()
	for name, l := range map[string]*LPIPS{"same": build(t, Config{}), "dead": dead} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			a, b := pictures(s, 3, 40)
			if name == "same" {
				b = a.Clone(s)
			}
			a.SetRequiresGrad(true)
			d := l.Distance(s, a, b)
			d.Sum(s).Backward()
			require.Equal(t, []float32{0, 0}, torch.ToSlice[float32](d.Detach(s)), name)
			require.Zero(t, a.Grad(s).Abs(s).Max(s).Item(), name)
			return nil
		}))
	}
}

// Where a length's square is 0 the slope is large and finite.
func TestUnit(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{3, 0, 1e-30, 4, 0, 0}, 1, 2, 1, 3)
		x.SetRequiresGrad(true)
		y := unit(s, x)
		require.InDeltaSlice(t, []float32{0.6, 0, 0, 0.8, 0, 0}, torch.ToSlice[float32](y.Detach(s)), 1e-6)
		y.Sum(s).Backward()
		require.Zero(t, torch.CountNonFinite(s, []*torch.Tensor{x.Grad(s)}))
		return nil
	}))
}

func TestDistanceRefuses(t *testing.T) {
	for _, c := range []struct {
		config Config
		shape  []int
		want   string
	}{
		{Config{}, []int{2, 2, 64, 64}, "lpips: want images [B, 3, H, W] or [B, 1, H, W], got [2 2 64 64]"},
		{Config{}, []int{3, 64, 64}, "lpips: want images [B, 3, H, W] or [B, 1, H, W], got [3 64 64]"},
		{Config{}, []int{1, 3, 30, 31}, "lpips: AlexNet needs images of at least 31×31 pixels, got 30×31: set Resize"},
		{Config{Net: VGG}, []int{1, 1, 64, 15}, "lpips: VGG16 needs images of at least 16×16 pixels, got 64×15: set Resize"},
	} {
		l := build(t, c.config)
		require.EqualError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Zeros(s, torch.Float32, c.shape...)
			l.Distance(s, x, x)
			return nil
		}), c.want)
	}
}

// The script's file is read, and the distance is that of the network it was given.
func TestScript(t *testing.T) {
	python := torchtest.Python(t, "lpips", "torchvision", "safetensors")
	path := filepath.Join(t.TempDir(), "it is.safetensors")
	out, err := exec.Command(python, "-W", "ignore", "-c", `
import sys; sys.path.insert(0, "../../scripts"); sys.dont_write_bytecode = True
import lpips, lpips_weights, torch
torch.set_num_threads(1); torch.manual_seed(3)
model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
lpips_weights.write(model, sys.argv[1])
x = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
print(model(x, x.flip(3)).item())`, path).Output()
	require.NoError(t, err)
	var want float64
	_, err = fmt.Sscan(string(out), &want)
	require.NoError(t, err)
	l, err := Open(path, Config{}, torch.CPU)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Linspace(s, -1, 1, 3*64*64, torch.Float32).Reshape(s, 1, 3, 64, 64)
		require.InEpsilon(t, want, l.Distance(s, x, x.Flip(s, 3)).Item(), 1e-5)
		return nil
	}))
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing is left beside the file")
}

// Every tensor of Python's state dict but the repeated ones is one of ours, as the golden file lists them.
func TestNames(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s)
		for _, net := range []Net{Alex, VGG} {
			require.Equal(t, shapes(g.draw(t, s, net)), shapes(build(t, Config{Net: net}).Tensors()))
		}
		return nil
	}))
}

func shapes(tensors iter.Seq2[string, *torch.Tensor]) map[string][]int {
	out := map[string][]int{}
	for name, w := range tensors {
		out[name] = w.Shape()
	}
	return out
}
