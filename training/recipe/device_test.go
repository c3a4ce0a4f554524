package recipe

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/training"
)

// onDevice trains for ten steps on a device and returns the loss of each, and the weights after five and ten.
func onDevice(t *testing.T, dev torch.Device, method, precision string) (losses []float64, five, ten []float32) {
	t.Helper()
	m, err := Named(method)
	require.NoError(t, err)
	r := tiny(t, m)
	r.Device, r.Precision, r.Steps, r.SaveEvery = dev, precision, 10, 5
	r.Progress = func(p training.Progress) { losses = append(losses, p.Loss) }
	result, err := r.Train(t.Context())
	require.NoError(t, err)
	require.True(t, result.Finished)
	require.Len(t, losses, 10)
	weights := func(path string) (all []float32) {
		w, err := torch.OpenWeights(path)
		require.NoError(t, err)
		defer w.Close()
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			for _, x := range w.All(s) {
				if x.DType() == torch.Float32 {
					all = append(all, torch.ToSlice[float32](x.Flatten(s, 0, -1))...)
				}
			}
			return nil
		}))
		return all
	}
	return losses, weights(filepath.Join(r.Out, "model-0000005.safetensors")), weights(result.Snapshot)
}

// apart is the root of the sum of squared differences.
func apart(a, b []float32) float64 {
	diff := make([]float64, len(a))
	for i := range a {
		diff[i] = float64(a[i]) - float64(b[i])
	}
	return norm(diff)
}

// Every method's losses and weights on a GPU are the CPU's but for rounding, which ten steps of training make larger, and in mixed precision close
// to them; in float16 single steps are skipped while the loss scale is found. Data, noise and dropout do not depend on the device. On the CPU, one
// method shows that the comparison compares.
func TestEveryMethodOnDevices(t *testing.T) {
	torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
		for _, method := range Names() {
			if !dev.IsCUDA() && method != "ct" {
				continue
			}
			t.Run(method, func(t *testing.T) {
				want, before, after := onDevice(t, torch.CPU, method, "f32")
				moved := apart(after, before)
				require.Positive(t, moved)
				for precision, tolerance := range map[string]float64{"f32": 0.05, "bf16": 0.1, "f16": 1.5} {
					got, _, weights := onDevice(t, dev, method, precision)
					off := apart(weights, after) / moved
					t.Logf("%s: weights are off by %.2g of the last five steps, losses %.4g, on the CPU %.4g", precision, off, got, want)
					require.Less(t, off, tolerance, precision)
					require.InDeltaSlice(t, want, got, max(0.2*tolerance, 0.01)*slices.Max(want), precision)
				}
			})
		}
	})
}

// A run on a GPU that is stopped and resumed goes on with the losses of one that was not.
func TestResumesCUDA(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	for _, precision := range []string{"f32", "bf16", "f16"} {
		run := tiny(t, &ICT{})
		run.Device, run.Precision, run.Steps = torch.CUDA(0), precision, 8
		var whole, again []float64
		run.Progress = func(p training.Progress) { whole = append(whole, p.Loss) }
		_, err := run.Train(t.Context())
		require.NoError(t, err)
		run.Out = filepath.Join(t.TempDir(), "again")
		ctx, cancel := context.WithCancel(t.Context())
		run.Progress = func(p training.Progress) {
			if again = append(again, p.Loss); p.Step == 3 {
				cancel()
			}
		}
		_, err = run.Train(ctx)
		require.ErrorIs(t, err, context.Canceled)
		run.Resume = true
		_, err = run.Train(t.Context())
		require.NoError(t, err)
		require.InDeltaSlice(t, whole, again, 0.01*slices.Max(whole), precision)
	}
}
