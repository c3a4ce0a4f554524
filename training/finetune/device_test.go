package finetune_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/training"
	. "github.com/onestep-go/onestep/training/finetune"
)

// An LCM-LoRA, a full latent consistency model and a style have the CPU's losses on a GPU but for rounding. On the CPU, the LCM-LoRA shows that the
// comparison compares.
func TestFineTuningOnDevices(t *testing.T) {
	oneThread(t)
	model, data := base(t, "sd15"), photos(t, 3)
	train := map[string]func(Run) error{
		"LCM-LoRA": func(r Run) error {
			_, err := LCM{LoRA: true, Run: r, Adapter: Adapter{Rank: 4}}.Train(t.Context())
			return err
		},
		"full LCM": func(r Run) error { _, err := LCM{Run: r}.Train(t.Context()); return err },
		"style":    func(r Run) error { _, err := LoRA{Run: r, Adapter: Adapter{Rank: 4}}.Train(t.Context()); return err },
	}
	losses := func(t *testing.T, dev torch.Device, kind string) (all []float64) {
		r := tinyRun(t, model, data)
		r.Device = dev
		r.Progress = func(p training.Progress) { all = append(all, p.Loss) }
		require.NoError(t, train[kind](r))
		require.Len(t, all, r.Steps)
		return all
	}
	torchtest.Devices(t, func(t *testing.T, dev torch.Device) {
		for kind := range train {
			if !dev.IsCUDA() && kind != "LCM-LoRA" {
				continue
			}
			want, got := losses(t, torch.CPU, kind), losses(t, dev, kind)
			require.InDeltaSlice(t, want, got, 0.02*slices.Max(want), kind)
		}
	})
}
