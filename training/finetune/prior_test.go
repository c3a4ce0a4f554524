package finetune_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	. "github.com/onestep-go/onestep/training/finetune"
)

// Regularisation images of a dataset.toml take half of the samples, and their losses have the prior loss weight, in every loss
// that adapters are trained with; those of the other images stay as they are.
func TestPriorPreservation(t *testing.T) {
	oneThread(t)
	model, subject := base(t, "sd15"), photos(t, 2)
	dataset := filepath.Join(t.TempDir(), "dataset.toml")
	require.NoError(t, os.WriteFile(dataset, fmt.Appendf(nil, "[[datasets]]\ncaption_extension = '.txt'\n[[datasets.subsets]]\nimage_dir = '%s'\n[[datasets.subsets]]\nimage_dir = '%s'\nis_reg = true\n",
		filepath.ToSlash(subject), filepath.ToSlash(photos(t, 3))), 0o600))
	few, err := LCM{LoRA: true, Run: tinyRun(t, model, subject), Adapter: Adapter{Rank: 4}}.Train(t.Context())
	require.NoError(t, err)
	const steps = 12
	run := func(weight *float64, scalars func(k int, values map[string]float64) error) Run {
		r := tinyRun(t, model, dataset)
		r.Steps, r.Batch, r.SaveEvery, r.LogEvery, r.ValBatches, r.PriorWeight, r.Scalars = steps, 1, steps, 1, new(0), weight, scalars
		r.LR = 1e-6 // the weights move so little that the losses of two runs can be compared
		return r
	}
	style := func(change func(*LoRA)) func(Run) error {
		return func(r Run) error {
			l := LoRA{Run: r, Adapter: Adapter{Rank: 4}}
			change(&l)
			_, err := l.Train(t.Context())
			return err
		}
	}
	for name, train := range map[string]func(Run) error{
		"plain": style(func(*LoRA) {}), "min-SNR": style(func(r *LoRA) { r.MinSNR = 0.5 }), "offset": style(func(r *LoRA) { r.NoiseOffset = 0.5 }),
		"text": style(func(r *LoRA) { r.TextEncoder = true }), "few-step": style(func(r *LoRA) { r.FewStep = few.Snapshot }),
		"LCM-LoRA": func(r Run) error {
			_, err := LCM{LoRA: true, Run: r, Adapter: Adapter{Rank: 4}}.Train(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			of := func(weight *float64) (losses []float64) {
				require.NoError(t, train(run(weight, func(_ int, v map[string]float64) error {
					losses = append(losses, v["loss"])
					return nil
				})))
				require.Len(t, losses, steps)
				return losses
			}
			one := of(nil)
			quarter := of(new(0.25))
			prior := 0
			for k := range one {
				require.Positive(t, one[k])
				share := quarter[k] / one[k]
				if math.Abs(share-0.25) < 1e-3 {
					prior++
				} else {
					require.InDelta(t, 1, share, 1e-3, k)
				}
			}
			require.Equal(t, steps/2, prior)
		})
	}
}
