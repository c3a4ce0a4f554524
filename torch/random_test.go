package torch_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

var drawSizes = [][]int{{1}, {5}, {15}, {16}, {17}, {40}, {3, 7}}

// CPU draws are PyTorch's bit for bit: several in a row, on both sides of 16 elements, where libtorch changes its method.
// 16-bit draws changed between PyTorch 2.11 and 2.15, and are compared with those of the golden file's version only.
func TestDrawsEqualPyTorch(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		want, meta := torchtest.Golden(t, s, "testdata/random.safetensors")
		version, _, _ := strings.Cut(meta["torch"], "+")
		equal := func(name string, got *torch.Tensor) {
			t.Helper()
			require.Contains(t, want, name)
			require.Equal(t, want[name].DType(), got.DType(), name)
			require.Equal(t, want[name].Shape(), got.Shape(), name)
			assert.True(t, bytes.Equal(want[name].Bytes(), got.Bytes()), "%s: got %v, want %v", name, got, want[name])
		}
		for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.Float16, torch.BFloat16} {
			if d.Size() == 2 && version != torch.Version() {
				t.Logf("%s draws not compared: the golden file is of PyTorch %s, this is libtorch %s", d, version, torch.Version())
				continue
			}
			for name, f := range map[string]func(*torch.Scope, *torch.Generator, torch.DType, ...int) *torch.Tensor{"randn": torch.Randn, "rand": torch.Rand} {
				g := torch.NewGenerator(s, 1234)
				for i, size := range drawSizes {
					equal(fmt.Sprintf("%s.%s.%d", name, d, i), f(s, g, d, size...))
				}
			}
		}
		g := torch.NewGenerator(s, 99)
		weights := torch.Arange(s, 8, torch.Float32).AddScalar(s, 1)
		for i, size := range drawSizes {
			equal(fmt.Sprintf("randint.%d", i), torch.Randint(s, g, -3, 1000, torch.Int64, size...))
			equal(fmt.Sprintf("randperm.%d", i), torch.Randperm(s, g, size[0]+3))
			equal(fmt.Sprintf("multinomial.%d", i), weights.Multinomial(s, g, size[0], true))
			equal(fmt.Sprintf("bernoulli.%d", i), torch.Zeros(s, torch.Float32, size...).Bernoulli(s, 0.3, g))
			x := torch.Zeros(s, torch.Float32, size...)
			x.NormalInPlace(s, 1, 2, g)
			equal(fmt.Sprintf("normal.%d", i), x)
			x.UniformInPlace(s, -1, 3, g)
			equal(fmt.Sprintf("uniform.%d", i), x)
		}
		require.Equal(t, torch.ToSlice[uint8](want["state"]), g.State())

		state := g.State()
		a := torch.ToSlice[float32](torch.Randn(s, g, torch.Float32, 9))
		require.NoError(t, g.SetState(state))
		require.Equal(t, a, torch.ToSlice[float32](torch.Randn(s, g, torch.Float32, 9)))
		require.ErrorContains(t, g.SetState(state[:7]), "generator state of 7 bytes")
		g.Seed(99)
		require.Equal(t, torch.ToSlice[int64](want["randint.0"]), torch.ToSlice[int64](torch.Randint(s, g, -3, 1000, torch.Int64, 1)))
		return nil
	}))
}

// The same with the PyTorch that is here, of whatever version, for more sizes; and its generator's state goes both ways.
func TestDrawsEqualThisPyTorch(t *testing.T) {
	python := torchtest.Python(t, "torch")
	const program = `
import hashlib, json, sys, torch
out = {"version": torch.__version__.split("+")[0]}
for d in ["float32", "float64", "float16", "bfloat16"]:
    for name, f in {"randn": torch.randn, "rand": torch.rand}.items():
        g = torch.Generator().manual_seed(7)
        h = hashlib.sha256()
        for n in range(1, 100):
            h.update(f(n, generator=g, dtype=getattr(torch, d)).view(torch.uint8).numpy().tobytes())
        out[name + "." + d] = h.hexdigest()
g = torch.Generator()
g.set_state(torch.frombuffer(bytearray.fromhex(sys.argv[1]), dtype=torch.uint8))
out["next"] = torch.randn(5, generator=g, dtype=torch.float64).tolist()
out["state"] = g.get_state().numpy().tobytes().hex()
print(json.dumps(out))`
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		here := torch.NewGenerator(s, 1<<40)
		torch.Randn(s, here, torch.Float32, 3)
		cmd := exec.Command(python, "-c", program, hex.EncodeToString(here.State()))
		cmd.Dir = t.TempDir()
		b, err := cmd.Output()
		require.NoError(t, err)
		var want map[string]any
		require.NoError(t, json.Unmarshal(b, &want))
		if want["version"] != torch.Version() {
			t.Skipf("this is libtorch %s, %s has PyTorch %s", torch.Version(), python, want["version"])
		}
		for d := torch.Float32; d <= torch.BFloat16; d++ {
			for name, f := range map[string]func(*torch.Scope, *torch.Generator, torch.DType, ...int) *torch.Tensor{"randn": torch.Randn, "rand": torch.Rand} {
				g := torch.NewGenerator(s, 7)
				h := sha256.New()
				for n := 1; n < 100; n++ {
					h.Write(f(s, g, d, n).Bytes())
				}
				assert.Equal(t, want[name+"."+d.String()], hex.EncodeToString(h.Sum(nil)), "%s %s", name, d)
			}
		}
		for i, v := range torch.ToSlice[float64](torch.Randn(s, here, torch.Float64, 5)) {
			assert.Equal(t, want["next"].([]any)[i], v)
		}
		assert.Equal(t, want["state"], hex.EncodeToString(here.State()))
		return nil
	}))
}

// Masks of one stream are the same wherever the tensor is.
func TestDropoutOnCUDA(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 3, 50)
		want := x.Dropout(s, 0.3, torch.NewGenerator(s, 3))
		got := x.ToDevice(s, torch.CUDA(0)).Dropout(s, 0.3, torch.NewGenerator(s, 3))
		require.Equal(t, torch.CUDA(0), got.Device())
		require.Equal(t, torch.ToSlice[float32](want), torch.ToSlice[float32](got))
		return nil
	}))
}

func TestDropout(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 10_000)
		require.Same(t, x, x.Dropout(s, 0.5, nil), "no stream: evaluation")
		a := x.Dropout(s, 0.25, torch.NewGenerator(s, 3))
		require.InDelta(t, 0.25, a.EqScalar(s, 0).To(s, torch.Float32).Mean(s).Item(), 0.02)
		require.InDelta(t, 1, a.Mean(s).Item(), 0.03)
		require.InDelta(t, 4.0/3, a.Max(s).Item(), 1e-6)
		b := x.MulScalar(s, 5).Dropout(s, 0.25, torch.NewGenerator(s, 3))
		require.Equal(t, torch.ToSlice[bool](a.EqScalar(s, 0)), torch.ToSlice[bool](b.EqScalar(s, 0)), "equal streams, equal masks")
		return nil
	}))
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		torch.Ones(s, torch.Float32, 1).Dropout(s, 1, torch.NewGenerator(s, 1))
		return nil
	})
	require.ErrorContains(t, err, "probability in [0, 1)")
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		for range 3 { // a scope frees its streams
			torch.NewGenerator(s, 1)
		}
		require.Equal(t, torch.CPU, torch.NewGenerator(s, 1).Device())
		torch.Randint(s, torch.NewGenerator(s, 1), 3, 3, torch.Int64, 1)
		return nil
	})
	require.ErrorContains(t, err, "randint")
	err = torch.Run(torch.CPU, func(s *torch.Scope) error { torch.Randn(s, nil, torch.Float32, 1); return nil })
	require.ErrorContains(t, err, "the generator is nil")
}
