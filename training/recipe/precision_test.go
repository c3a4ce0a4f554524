package recipe

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// slopes returns a method's loss of one batch, and the gradients of all that it trains, with weights away from their initial values, at
// which residual branches are near zero.
func slopes(t *testing.T, p *Plan, precision torch.DType) (loss float64, all []float64) {
	t.Helper()
	if precision != torch.Float16 {
		return scaledSlopes(t, p, precision, 1)
	}
	for scale := 4096.0; scale >= 1; scale /= 16 { // until nothing overflows, as loss scaling does
		if loss, all = scaledSlopes(t, p, precision, scale); !math.IsInf(norm(all), 0) && !math.IsNaN(norm(all)) {
			break
		}
	}
	return loss, all
}

func scaledSlopes(t *testing.T, p *Plan, precision torch.DType, scale float64) (loss float64, all []float64) {
	t.Helper()
	r := &p.Run
	se := &session{Plan: p}
	parts := &Parts{Device: r.Device, Steps: r.Steps, Seed: r.Seed, function: p.spec.Function}
	defer se.close(parts)
	require.NoError(t, se.make(parts))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 3)
		for _, w := range learnt(se.net, se.objective) {
			w.Detach(s).AddInPlace(s, torch.Randn(s, g, torch.Float32, w.Shape()...).MulScalar(s, 0.05))
		}
		b := training.Batch{X: torch.Rand(s, g, torch.Float32, append([]int{8}, p.Start.Network.Shape()...)...).MulScalar(s, 2).SubScalar(s, 1)}
		b.Cond.Class = torch.FromSlice(s, []int64{0, 1, 2, 3, 0, 1, 2, 3})
		b.Cond.Precision = precision
		l := se.objective.Loss(s, 2, b, training.Draw(1, 2, 16, 8))
		require.Equal(t, torch.Float32, l.DType())
		loss = l.Item()
		l.MulScalar(s, scale).Backward()
		for name, w := range learnt(se.net, se.objective) {
			slope := w.Grad(s)
			if slope == nil {
				continue
			}
			require.Equal(t, torch.Float32, slope.DType(), name)
			for _, v := range torch.ToSlice[float32](slope) {
				all = append(all, float64(v)/scale)
			}
		}
		return nil
	}))
	return loss, all
}

func norm(v []float64) (sum float64) {
	for _, x := range v {
		sum += x * x
	}
	return math.Sqrt(sum)
}

// Every method's gradients in mixed precision are those of float32 but for rounding, with convolutions and, of three, with transformers. Methods that
// compare two results of the network, whose difference is smaller than the results, lose more digits: ECT's last stages and SoFlow, whose levels are
// close, most of all.
func TestEveryMethodInMixedPrecision(t *testing.T) {
	loose := map[string]float64{"ect": 8, "stablect": 8, "soflow": 8} // factor of the tolerance
	for _, method := range Names() {
		for _, net := range []string{"ddpmpp", "dit"} {
			if net == "dit" && !slices.Contains([]string{"ct", "scd", "edm"}, method) {
				continue
			}
			t.Run(method+"/"+net, func(t *testing.T) {
				m, err := Named(method)
				require.NoError(t, err)
				r := tiny(t, m)
				if r.Network = net; net == "dit" {
					r.Size = &dit.Options{Channels: 16, Blocks: 1}
				}
				p, err := r.Plan()
				require.NoError(t, err)
				defer p.Close()
				want, slope := slopes(t, p, torch.Float32)
				require.Positive(t, norm(slope))
				for d, tolerance := range map[torch.DType]float64{torch.BFloat16: 0.08, torch.Float16: 0.01} {
					tolerance *= max(loose[method], 1)
					got, of := slopes(t, p, d)
					diff := make([]float64, len(slope))
					for i := range slope {
						diff[i] = of[i] - slope[i]
					}
					off := norm(diff) / norm(slope)
					t.Logf("%v: loss %.2g, gradients %.2g", d, got/want-1, off)
					require.Less(t, off, tolerance, d)
					require.Positive(t, off, d)
					require.InEpsilon(t, want, got, tolerance, d)
				}
			})
		}
	}
}

// A run in mixed precision that is stopped and resumed has the weights, EMA weights and optimizer state of one that was not, to the bit, and
// all are float32: its files are those of any other run. float16 has loss scaling. A run is not resumed in another precision.
func TestMixedPrecisionResumes(t *testing.T) {
	threads := torch.Threads()
	defer func() { require.NoError(t, torch.SetThreads(threads)) }()
	require.NoError(t, torch.SetThreads(1))
	for precision, scaled := range map[string]bool{"bf16": false, "f16": true} {
		t.Run(precision, func(t *testing.T) {
			whole := tiny(t, &CT{})
			whole.Precision = precision
			want, err := whole.Train(t.Context())
			require.NoError(t, err)
			again := whole
			again.Out = filepath.Join(t.TempDir(), "again")
			ctx, cancel := context.WithCancel(t.Context())
			again.Progress = func(p training.Progress) {
				if p.Step == 3 {
					cancel()
				}
			}
			_, err = again.Train(ctx)
			require.ErrorIs(t, err, context.Canceled)
			again.Progress, again.Resume = nil, true
			again.Precision = "f32"
			_, err = again.Train(t.Context())
			require.ErrorContains(t, err, "precision")
			again.Precision = precision
			got, err := again.Train(t.Context())
			require.NoError(t, err)
			require.Equal(t, want.Loss, got.Loss)
			for _, path := range []func(r training.Result) string{func(r training.Result) string { return r.State }, func(r training.Result) string { return r.Snapshot }} {
				require.Equal(t, tensorsOf(t, path(want.Result)), tensorsOf(t, path(got.Result)))
			}
			stats, err := os.ReadFile(filepath.Join(again.Out, "stats.jsonl"))
			require.NoError(t, err)
			if scaled {
				require.Contains(t, string(stats), "loss_scale")
			} else {
				require.NotContains(t, string(stats), "loss_scale")
			}
			card, err := os.ReadFile(filepath.Join(again.Out, "card.md"))
			require.NoError(t, err)
			require.Contains(t, string(card), "Mixed precision")
		})
	}
}

// tensorsOf reads a file's tensors, which have to be float32 or counts.
func tensorsOf(t *testing.T, path string) map[string][]byte {
	t.Helper()
	w, err := torch.OpenWeights(path)
	require.NoError(t, err)
	defer w.Close()
	all := map[string][]byte{}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name, x := range w.All(s) {
			require.Contains(t, []torch.DType{torch.Float32, torch.Int64}, x.DType(), name)
			all[name] = slices.Clone(x.Bytes())
		}
		return nil
	}))
	require.NotEmpty(t, slices.Collect(maps.Keys(all)))
	return all
}

// A run of an older version has no precision in its options.json, and is resumed in float32.
func TestRunsWithoutPrecisionResume(t *testing.T) {
	r := tiny(t, &CT{})
	_, err := r.Train(t.Context())
	require.NoError(t, err)
	path := filepath.Join(r.Out, "options.json")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var entries map[string]any
	require.NoError(t, json.Unmarshal(text, &entries))
	require.Equal(t, "f32", entries["precision"])
	delete(entries, "precision")
	text, err = json.Marshal(entries)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o644))
	r.Resume = true
	_, err = r.Train(t.Context())
	require.NoError(t, err)
	r.Precision = "bf16"
	_, err = r.Train(t.Context())
	require.ErrorContains(t, err, "precision")
}

// A snapshot of a run in mixed precision is a model like any other, and its estimate of memory is less than float32's.
func TestMixedPrecisionSnapshots(t *testing.T) {
	r := tiny(t, &EDM{})
	r.Precision, r.Steps = "bf16", 1
	got, err := r.Train(t.Context())
	require.NoError(t, err)
	f, err := checkpoint.OpenFile(got.Snapshot, torch.CPU)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, torch.Float32, f.Network.Store().DType())
	need := func(precision string) Need {
		r.Precision, r.Batch = precision, 64
		p, err := r.Plan()
		require.NoError(t, err)
		defer p.Close()
		n, err := p.Need()
		require.NoError(t, err)
		return n
	}
	require.Less(t, need("bf16").Device, need("f32").Device)
}
