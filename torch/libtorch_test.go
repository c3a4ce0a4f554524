package torch_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/csrc"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// alone is set in processes that have no libtorch.
const alone = "ONESTEP_TEST_WITHOUT_LIBTORCH"

// Without libtorch a program starts, and whatever needs libtorch returns or panics with what is missing.
func TestWithoutLibtorch(t *testing.T) {
	if os.Getenv(alone) == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestWithoutLibtorch$", "-test.v")
		cmd.Env = append(os.Environ(), alone+"=1", "ONESTEP_LAYER="+filepath.Join(t.TempDir(), "none.so"))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestWithoutLibtorch")
		return
	}
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o644))
	mapped, err := torch.OpenMapped(file)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, safetensors.Write(path, []safetensors.Source{{Name: "a", DType: safetensors.F32, Shape: []int{1}, Data: safetensors.Bytes(make([]byte, 4))}}, safetensors.Options{}))
	weights, err := torch.OpenWeights(path)
	require.NoError(t, err)
	shape, d, ok := weights.Info("a")
	require.True(t, ok)
	require.Equal(t, []int{1}, shape)
	require.Equal(t, torch.Float32, d)
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	caught := func(f func()) func() error {
		return func() error { return torch.Catch(f) }
	}
	for name, f := range map[string]func() error{
		"Open":         torch.Open,
		"Run":          func() error { return torch.Run(torch.CPU, func(*torch.Scope) error { return nil }) },
		"Available":    torch.CPU.Available,
		"CUDA":         torch.CUDA(0).Available,
		"Synchronize":  torch.CUDA(0).Synchronize,
		"Memory":       func() error { _, err := torch.CPU.Memory(); return err },
		"EmptyCache":   torch.EmptyCache,
		"SetThreads":   func() error { return torch.SetThreads(1) },
		"Mapped":       func() error { _, err := mapped.Tensor(s, 0, torch.Uint8, 4); return err },
		"Weights":      func() error { _, err := weights.Get(s, "a"); return err },
		"Call":         func() error { _, err := torch.Call(s, "aten::add.Tensor", 1, 2); return err },
		"Schema":       func() error { _, err := torch.Schema("add.Tensor"); return err },
		"Ones":         caught(func() { torch.Ones(s, torch.Float32, 2) }),
		"Scalar":       caught(func() { torch.Scalar(s, float32(1)) }),
		"NewGenerator": caught(func() { torch.NewGenerator(s, 1) }),
		"Backward":     caught(func() { torch.Backward(nil, torch.BackwardOptions{}) }),
		"Grad":         caught(func() { torch.Grad(s, nil, nil, torch.BackwardOptions{}) }),
		"JVP": caught(func() {
			torch.JVP(s, func(s *torch.Scope, _ []*torch.Tensor) *torch.Tensor { return torch.Zeros(s, torch.Float32) }, nil, nil)
		}),
		"Checkpoint": caught(func() {
			torch.Checkpoint(s, func(*torch.Scope, []*torch.Tensor) []*torch.Tensor { return nil })
		}),
	} {
		var missing *csrc.OpenError
		require.True(t, errors.As(f(), &missing), "%s: got %v", name, f())
		require.Contains(t, missing.Reason, "none.so", name)
	}
	require.NoError(t, mapped.Close())
	require.NoError(t, weights.Close())
	torch.AllowTF32(true)
	torch.BenchmarkConvolutions(true)
	torch.Deterministic(true)
	require.Zero(t, torch.CUDACount())
	opened, reason := torch.CUDAOpened()
	require.False(t, opened)
	require.Contains(t, reason, "none.so")
	require.Empty(t, torch.Version()+torch.LibraryPath()+torch.CPUCapability())
	require.Zero(t, torch.Threads())
}
