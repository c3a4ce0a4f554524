// Package torchtest has helpers for tests of code that uses package torch.
package torchtest

import (
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// Main runs a package's tests and then fails if tensors were not freed. Operators use one thread, here and in programs that the tests start, so
// that results repeat bit by bit and tests that share a machine do not starve each other: threads that wait for one that does not run are slower
// than one by far. Call it from TestMain. The functions run after the tests.
func Main(m *testing.M, after ...func()) {
	if err := oneThread(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	before := torch.Live()
	code := m.Run()
	for _, f := range after {
		f()
	}
	if left := torch.Live() - before; left != 0 && code == 0 {
		fmt.Fprintln(os.Stderr, plural.N(left, "tensor")+" not freed")
		code = 1
	}
	os.Exit(code)
}

// oneThread is what [Main] does to threads. A number that the environment has for programs stays.
func oneThread() error {
	const variable = "OMP_NUM_THREADS"
	if _, set := os.LookupEnv(variable); !set {
		if err := os.Setenv(variable, "1"); err != nil {
			return err
		}
	}
	return torch.SetThreads(1)
}

// SkipIfNoCUDA skips a test on machines without a usable GPU, with the reason.
func SkipIfNoCUDA(t testing.TB) {
	t.Helper()
	if err := torch.CUDA(0).Available(); err != nil {
		t.Skip(err)
	}
}

// Devices runs a test on the CPU and on the first GPU; without a GPU that part is skipped.
func Devices(t *testing.T, f func(t *testing.T, dev torch.Device)) {
	t.Helper()
	t.Run("cpu", func(t *testing.T) { f(t, torch.CPU) })
	t.Run("cuda", func(t *testing.T) {
		SkipIfNoCUDA(t)
		f(t, torch.CUDA(0))
	})
}

// hasModules is a Python program that ends with an error if modules are missing. It looks for them and does not import them: PyTorch and
// diffusers would take seconds of the processor.
const hasModules = `
import importlib.util, sys
missing = [m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]
if missing:
    sys.exit("no module named " + ", ".join(missing))
`

// Python returns the path of a Python that has the modules: $ONESTEP_PYTHON or else python3. Without one it skips the
// test, with the reason.
func Python(t testing.TB, modules ...string) string {
	t.Helper()
	var reasons []string
	for _, name := range []string{os.Getenv("ONESTEP_PYTHON"), "python3"} {
		if name == "" {
			continue
		}
		path, err := exec.LookPath(name)
		if err != nil {
			reasons = append(reasons, err.Error())
			continue
		}
		cmd := exec.Command(path, append([]string{"-c", hasModules}, modules...)...)
		cmd.Dir = t.TempDir() // Python imports from its working directory
		if out, err := cmd.CombinedOutput(); err != nil {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			reasons = append(reasons, fmt.Sprintf("%s: %s", path, lines[len(lines)-1]))
			continue
		}
		return path
	}
	t.Skipf("no Python with %s (set ONESTEP_PYTHON to one): %s", strings.Join(modules, ", "), strings.Join(reasons, "; "))
	return ""
}

// Golden reads a safetensors file's tensors onto the scope's device, and its metadata.
func Golden(t testing.TB, s *torch.Scope, path string) (map[string]*torch.Tensor, map[string]string) {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := torch.FromFile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*torch.Tensor{}
	for name, x := range all {
		out[name] = x
	}
	return out, f.Metadata()
}

// Drawn yields tensors by a list of names and shapes, as generators of golden files write it, [["conv.weight", [8, 3, 3, 3]], ...]: each as
// draw makes it, in that order.
func Drawn(t testing.TB, layout string, draw func(name string, dims []int) *torch.Tensor) iter.Seq2[string, *torch.Tensor] {
	t.Helper()
	var list [][2]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(layout), &list))
	return func(yield func(string, *torch.Tensor) bool) {
		for _, pair := range list {
			var name string
			var dims []int
			require.NoError(t, json.Unmarshal(pair[0], &name))
			require.NoError(t, json.Unmarshal(pair[1], &dims))
			if !yield(name, draw(name, dims)) {
				return
			}
		}
	}
}

// DrawnNorms is [Drawn] for networks of convolutions and batch norms, with the values of draw in scripts/golden/shared/norms.py. norm is in the
// names of the norms.
func DrawnNorms(t testing.TB, s *torch.Scope, g *torch.Generator, layout, norm string) iter.Seq2[string, *torch.Tensor] {
	t.Helper()
	return Drawn(t, layout, func(name string, dims []int) *torch.Tensor {
		v := torch.Randn(s, g, torch.Float32, dims...)
		switch {
		case strings.HasSuffix(name, "running_var"):
			return v.Abs(s).MulScalar(s, 0.5).AddScalar(s, 0.5)
		case len(dims) == 4:
			return v.MulScalar(s, math.Sqrt(2/float64(dims[1]*dims[2]*dims[3])))
		case strings.Contains(name, norm) && strings.HasSuffix(name, ".weight"):
			return v.MulScalar(s, 0.1).AddScalar(s, 1)
		}
		return v.MulScalar(s, 0.1)
	})
}

// Close fails the test unless got has want's dtype and shape and every element is within atol + rtol·|want| of it, or equal
// to it, or both are NaN. It reports the worst element.
func Close(t testing.TB, name string, got, want *torch.Tensor, atol, rtol float64) {
	t.Helper()
	if got.DType() != want.DType() || fmt.Sprint(got.Shape()) != fmt.Sprint(want.Shape()) {
		t.Errorf("%s: got %s%v, want %s%v", name, got.DType(), got.Shape(), want.DType(), want.Shape())
		return
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	values := func(x *torch.Tensor) []float64 {
		return torch.ToSlice[float64](x.Detach(s).ToDevice(s, torch.CPU).To(s, torch.Float64))
	}
	a, b := values(got), values(want)
	worst, at := 0.0, -1
	for i := range a {
		if a[i] == b[i] || (math.IsNaN(a[i]) && math.IsNaN(b[i])) {
			continue
		}
		if excess := math.Abs(a[i]-b[i]) - atol - rtol*math.Abs(b[i]); !(excess <= 0) && (at < 0 || excess > worst || math.IsNaN(excess)) {
			worst, at = excess, i
		}
	}
	if at >= 0 {
		t.Errorf("%s: element %d of %v is %v, want %v within %g + %g·|want|", name, at, want.Shape(), a[at], b[at], atol, rtol)
	}
}
