package mlp

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// tolerance is how far results may be from PyTorch's, relative to the largest element: both sides compute in float32 with
// the same kernels.
const tolerance = 2e-6

// Outputs and gradients are those of the same network in PyTorch: files of scripts/golden/models/mlp/mlp.py.
func TestGolden(t *testing.T) {
	for _, name := range []string{"points", "images"} {
		t.Run(name, func(t *testing.T) {
			w, err := torch.OpenWeights(filepath.Join("testdata", name+".safetensors"))
			require.NoError(t, err)
			defer w.Close()
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				metadata, file := w.File().Metadata(), map[string]*torch.Tensor{}
				for k, v := range w.All(s) {
					file[k] = v.Clone(s)
				}
				var c Config
				require.NoError(t, json.Unmarshal([]byte(metadata["config"]), &c))
				net := build(t, c)
				require.NoError(t, net.Load(weights(t, s, metadata)))

				x := file["x"]
				x.SetRequiresGrad(true)
				y := net.Forward(s, x, file["noise"], models.Cond{Class: file["label"], Until: file["until"], Guidance: file["guidance"]})
				requireClose(t, s, file["y"], y, "output")
				y.Mul(s, file["weight"]).Sum(s).Backward()
				requireClose(t, s, file["grad:x"], x.Grad(s), "the input's gradient")
				n := 0
				for k, p := range net.Parameters() {
					requireClose(t, s, file["grad:"+k], p.Grad(s), k+"'s gradient")
					n++
				}
				for k := range file {
					if strings.HasPrefix(k, "grad:") {
						n--
					}
				}
				require.Equal(t, -1, n, "the file has gradients of all parameters, and of the input")
				return nil
			}))
		})
	}
}

// weights draws the weights that the generator drew, in the order that the file lists their names in.
func weights(t *testing.T, s *torch.Scope, metadata map[string]string) func(yield func(string, *torch.Tensor) bool) {
	t.Helper()
	seed, err := strconv.ParseUint(metadata["seed"], 10, 64)
	require.NoError(t, err)
	stream := torch.NewGenerator(s, seed)
	return torchtest.Drawn(t, metadata["weights"], func(_ string, dims []int) *torch.Tensor {
		v := torch.Randn(s, stream, torch.Float32, dims...)
		if len(dims) > 1 {
			return v.DivScalar(s, math.Sqrt(float64(dims[1])))
		}
		return v.MulScalar(s, 0.1)
	})
}

func requireClose(t *testing.T, s *torch.Scope, want, got *torch.Tensor, what string) {
	t.Helper()
	require.Equal(t, want.Shape(), got.Shape(), what)
	d := got.Sub(s, want).Abs(s).Max(s).Item() / want.Abs(s).Max(s).Item()
	t.Logf("%s: largest difference %.2g", what, d)
	require.LessOrEqual(t, d, tolerance, what)
}

func ExampleConfig_Count() {
	fmt.Println(Config{}.Count())
	// Output: 35842
}
