package torchtest_test

import (
	"fmt"
	"image"
	"image/draw"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

var forgotten *torch.Tensor

func TestMain(m *testing.M) { torchtest.Main(m) }

// In a child process this test leaves a tensor behind.
func TestLeaks(t *testing.T) {
	if os.Getenv("ONESTEP_TEST_LEAK") != "" {
		forgotten = torch.Ones(torch.NewScope(torch.CPU), torch.Float32, 3)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLeaks$")
	cmd.Env = append(os.Environ(), "ONESTEP_TEST_LEAK=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "PASS\n1 tensor not freed")
}

// recorder is a test that notes how it ended.
type recorder struct {
	testing.TB
	failed, skipped string
}

func (r *recorder) Helper()                           {}
func (r *recorder) Errorf(format string, args ...any) { r.failed = fmt.Sprintf(format, args...) }
func (r *recorder) Skipf(format string, args ...any)  { r.skipped = fmt.Sprintf(format, args...) }

func TestClose(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		nan := math.NaN()
		f := func(v ...float64) *torch.Tensor { return torch.FromSlice(s, v) }
		for _, c := range []struct {
			got, want  *torch.Tensor
			atol, rtol float64
			report     string
		}{
			{f(1, 2), f(1, 2), 0, 0, ""},
			{f(1, nan, math.Inf(1)), f(1, nan, math.Inf(1)), 0, 0, ""},
			{f(1, 2.1), f(1, 2), 0.11, 0, ""},
			{f(1, 220), f(1, 200), 0, 0.1, ""},
			{f(1.5, 2.6, 3), f(1, 2, 3), 0.1, 0, "x: element 1 of [3] is 2.6, want 2 within 0.1 + 0·|want|"},
			{f(1, nan), f(1, 2), 1, 1, "x: element 1 of [2] is NaN, want 2 within 1 + 1·|want|"},
			{f(1), f(nan), 1, 1, "x: element 0 of [1] is 1, want NaN within 1 + 1·|want|"},
			{f(math.Inf(-1)), f(math.Inf(1)), 1, 1, "x: element 0 of [1] is -Inf, want +Inf within 1 + 1·|want|"},
			{f(1, 2), torch.FromSlice(s, []float32{1, 2}), 1, 1, "x: got float64[2], want float32[2]"},
			{f(1, 2), f(1, 2, 3), 1, 1, "x: got float64[2], want float64[3]"},
			{torch.Ones(s, torch.BFloat16, 2).Expand(s, 3, 2), torch.Ones(s, torch.BFloat16, 3, 2), 0, 0, ""},
		} {
			var r recorder
			torchtest.Close(&r, "x", c.got, c.want, c.atol, c.rtol)
			require.Equal(t, c.report, r.failed)
		}
		return nil
	}))
}

func TestGolden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Arange(s, 3, torch.Int64)
		require.NoError(t, torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) { yield("x", x) }, torch.SaveOptions{Metadata: map[string]string{"seed": "4"}}))
		got, meta := torchtest.Golden(t, s, path)
		require.Len(t, got, 1)
		torchtest.Close(t, "x", got["x"], x, 0, 0)
		require.Equal(t, "4", meta["seed"])
		return nil
	}))
}

func TestPython(t *testing.T) {
	none := &recorder{TB: t}
	require.Empty(t, torchtest.Python(none, "no_such_module_here"))
	require.Contains(t, none.skipped, "no Python with no_such_module_here (set ONESTEP_PYTHON to one): ")
	python := torchtest.Python(t, "json", "sys")
	require.NoError(t, exec.Command(python, "-c", "pass").Run())
	t.Setenv("ONESTEP_PYTHON", "/nowhere/python")
	require.Equal(t, python == "", torchtest.Python(&recorder{TB: t}) == "", "python3 serves where $ONESTEP_PYTHON does not")
}

// What other tests have held before does not count where a test runs alone.
func TestAlone(t *testing.T) {
	peak := func() int64 {
		m, err := torch.CPU.Memory()
		require.NoError(t, err)
		return m.PeakAllocated
	}
	const large = 64 << 20
	if os.Getenv("ONESTEP_TEST_ALONE") == "" {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			torch.Zeros(s, torch.Uint8, large)
			return nil
		}))
		require.GreaterOrEqual(t, peak(), int64(large))
	}
	t.Run("part (1)", func(t *testing.T) {
		if torchtest.Alone(t) {
			require.Less(t, peak(), int64(large))
		}
	})
}

func TestLevels(t *testing.T) {
	a, b := image.NewGray(image.Rect(0, 0, 2, 2)), image.NewRGBA(image.Rect(0, 0, 2, 2))
	draw.Draw(b, b.Bounds(), a, image.Point{}, draw.Src)
	require.Zero(t, torchtest.Levels(a, b))
	b.Pix[5] = 7 // green of the second pixel
	require.Equal(t, 7, torchtest.Levels(a, b))
	require.Greater(t, torchtest.Levels(a, image.NewGray(image.Rect(0, 0, 2, 3))), 255)
}
