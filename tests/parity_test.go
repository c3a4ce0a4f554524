// Package tests holds parity, end-to-end and command-line tests across packages.
package tests

import (
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training"
)

// ctConfig is the network of scripts/golden/tests/ct.py.
var ctConfig = unet.Config{
	Resolution: 8, InChannels: 2, Channels: 8, Mult: []int{1, 1}, Blocks: 1, Attention: []int{4}, HeadDim: 8,
	Resample: unet.ResampleConv, NormGroups: 4,
}

func golden(t *testing.T, s *torch.Scope, name string) (map[string]*torch.Tensor, map[string]string) {
	t.Helper()
	f, err := safetensors.Open(filepath.Join("testdata", name+".safetensors"))
	require.NoError(t, err)
	defer f.Close()
	out := map[string]*torch.Tensor{}
	for x := range f.Tensors() {
		d := map[safetensors.DType]torch.DType{"F32": torch.Float32, "F64": torch.Float64}[x.DType]
		out[x.Name] = torch.FromBytes(s, x.Data, d, x.Shape...)
	}
	return out, f.Metadata()
}

func each(m map[string]*torch.Tensor) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for k, v := range m {
			if !yield(k, v) {
				return
			}
		}
	}
}

// worst is the largest difference of two tensors, relative to the larger of 1e-3 and the reference's largest element.
func worst(s *torch.Scope, got, want *torch.Tensor) float64 {
	scale := math.Max(1e-3, want.Abs(s).Max(s).Item())
	return got.To(s, torch.Float64).Sub(s, want.To(s, torch.Float64)).Abs(s).Max(s).Item() / scale
}

// Three steps of consistency training give PyTorch's losses, gradients, weights and target weights. In float64 the
// differences are those of summation order: 1e-9 is generous. In float32 the loss agrees to 1e-5 relative.
func TestConsistencyTrainingParity(t *testing.T) {
	for _, kind := range []string{"l1", "l2", "huber"} {
		for _, dtype := range []torch.DType{torch.Float64, torch.Float32} {
			t.Run(fmt.Sprintf("%s/%s", kind, dtype), func(t *testing.T) { ctParity(t, kind, dtype) })
		}
	}
}

func ctParity(t *testing.T, kind string, dtype torch.DType) {
	distance, err := training.ParseDistance(kind)
	require.NoError(t, err)
	net, err := unet.New(ctConfig, torch.CPU, dtype, 1)
	require.NoError(t, err)
	defer net.Close()

	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		weights, _ := golden(t, s, "ct_weights")
		want, meta := golden(t, s, "ct_"+kind)
		if err := net.Load(each(weights)); err != nil {
			return err
		}
		target, err := net.Clone()
		if err != nil {
			return err
		}
		defer target.Close()
		lr, err := strconv.ParseFloat(meta["lr"], 64)
		require.NoError(t, err)
		opt, err := optim.RAdam{LR: lr}.New(net.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		ct := &training.CT{
			Model: &models.Consistency{Net: net}, Target: &models.Consistency{Net: target},
			Schedule: fixed{levels: 18, decay: 0.9}, Distance: distance,
		}
		require.NoError(t, ct.Validate())
		lossTol, tol := 1e-12, 1e-9
		if dtype == torch.Float32 {
			lossTol, tol = 1e-5, 2e-4 // gradients of float32 sums; weights move by at most the learning rate
		}
		for k := range 3 {
			get := func(name string) *torch.Tensor { return want[fmt.Sprintf("%s.%d", name, k)] }
			b := training.Batch{X: get("x").To(s, dtype)}
			loss := ct.LossAt(s, b, torch.ToSlice[float64](get("low")), torch.ToSlice[float64](get("high")), get("z").To(s, dtype), 1)
			ref := torch.ToSlice[float64](want["losses"])[k]
			require.InEpsilon(t, ref, loss.Item(), lossTol, "loss of step %d", k)
			opt.ZeroGrad()
			loss.Backward()
			if k == 0 {
				checked := 0
				for name, p := range net.Parameters() {
					if g, ok := want["grad."+name]; ok {
						require.LessOrEqual(t, worst(s, p.Grad(s), g), tol, "gradient of %s", name)
						checked++
					}
				}
				require.Greater(t, checked, 20)
			}
			if err := s.NoGrad(func(s *torch.Scope) error { opt.Step(s); ct.Update(s, k); return nil }); err != nil {
				return err
			}
		}
		moved := 0
		for name, p := range net.Parameters() {
			if w, ok := want["after."+name]; ok {
				require.LessOrEqual(t, worst(s, p, w), tol, "%s after 3 steps", name)
				moved++
			}
		}
		for name, p := range ct.State() {
			if w, ok := want[name]; ok && strings.HasPrefix(name, "target.") {
				require.LessOrEqual(t, worst(s, p, w), tol, "%s after 3 steps", name)
				moved++
			}
		}
		require.Greater(t, moved, 40)
		return nil
	})
	require.NoError(t, err)
}

type fixed struct {
	levels int
	decay  float64
}

func (f fixed) At(int) (int, float64) { return f.levels, f.decay }
