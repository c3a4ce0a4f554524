package recipe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
)

// Improved MeanFlow with guidance trains a network that takes a scale, with a head or without; what it needs is said.
func TestIMFWithGuidance(t *testing.T) {
	r := tiny(t, &IMF{Guidance: []float64{1, 8}, Head: true})
	_, err := r.Train(t.Context())
	require.ErrorContains(t, err, "label_dropout")
	r.LabelDropout = 0.3
	out, err := r.Train(t.Context())
	require.NoError(t, err)
	d, err := checkpoint.ReadDescription(out.Snapshot)
	require.NoError(t, err)
	require.Equal(t, []float64{1, 8}, d.Guidance)
	require.True(t, d.Network.Guidance() && d.Network.Until())
	card, err := os.ReadFile(filepath.Join(r.Out, "card.md"))
	require.NoError(t, err)
	require.Contains(t, string(card), "drawn from 1 to 8, and is an input of the network")
	for _, bad := range [][]float64{{3}, {0.5, 4}, {4, 4}} {
		r := tiny(t, &IMF{Guidance: bad})
		_, err := r.Resolve()
		require.ErrorContains(t, err, "from 1 up to 1000", bad)
	}
}

// Consistency mid-training is a stage: ect continues from a consistency function, meanflow from jumps, and both start with its weights.
func TestMidTrainingIsAStage(t *testing.T) {
	weights := func(path string) []float32 {
		f, err := checkpoint.OpenFile(path, torch.CPU)
		require.NoError(t, err)
		defer f.Close()
		for _, w := range f.Network.Parameters() {
			return torch.ToSlice[float32](w)
		}
		return nil
	}
	teacher := tiny(t, &EDM{})
	_, err := teacher.Train(t.Context())
	require.NoError(t, err)
	for _, c := range []struct {
		trains string
		next   Method
	}{{"consistency", &ECT{}}, {"jumps", &MeanFlow{}}, {"jumps", &SoFlow{}}} {
		mid := tiny(t, &CMT{Teacher: teacher.Out, Trains: c.trains})
		out, err := mid.Train(t.Context())
		require.NoError(t, err, c.trains)
		next := tiny(t, c.next)
		next.Init, next.LR = mid.Out, 1e-9
		after, err := next.Train(t.Context())
		require.NoError(t, err, c.trains)
		require.InDeltaSlice(t, weights(out.Snapshot), weights(after.Snapshot), 1e-6)
	}
	spaced := tiny(t, &CMT{Teacher: Empirical, SolverSteps: 8, SigmaMin: 0.2}) // levels 80·(0.2/80)^(i/8)
	_, err = spaced.Train(t.Context())
	require.NoError(t, err)
	card, err := os.ReadFile(filepath.Join(spaced.Out, "card.md"))
	require.NoError(t, err)
	require.Contains(t, string(card), "| 0 | 80 |\n| 1 | 37.8 |")
	require.Contains(t, string(card), "| 7 | 0.423 |")
	require.Contains(t, string(card), "starts from random weights", "not those of a teacher")
	_, err = tiny(t, &CMT{Teacher: Empirical, Points: 17}).Resolve()
	require.ErrorContains(t, err, "16 points")
	_, err = tiny(t, &CMT{Teacher: Empirical, Trains: "jumps", Distance: "l1"}).Resolve()
	require.ErrorContains(t, err, "squared error")
}

// Multistep models say at which levels they are sampled, one for each segment, and are no teachers.
func TestMultistepModels(t *testing.T) {
	r := tiny(t, &MSCT{Segments: 3})
	out, err := r.Train(t.Context())
	require.NoError(t, err)
	d, err := checkpoint.ReadDescription(out.Snapshot)
	require.NoError(t, err)
	require.Equal(t, checkpoint.Denoiser, d.Kind)
	require.Len(t, d.Levels, 3)
	require.Equal(t, "msct", d.Method)
	require.NotContains(t, denoisers(), "ms")
	m, err := generate.Open(out.Snapshot, sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	for steps, want := range map[int]bool{0: false, 3: false, 2: true} {
		plan, err := m.Plan(t.Context(), generate.Request{Steps: steps})
		require.NoError(t, err)
		require.Equal(t, want, strings.Contains(strings.Join(plan.Notices, "\n"), "trained for 3 sampling steps"), steps)
		plan.Close()
	}
	_, err = tiny(t, &MSCD{Teacher: Empirical, Segments: 8, FirstLevels: 4}).Resolve()
	require.ErrorContains(t, err, "each of 8 segments")
}

// What belongs together in α-flow is checked before a run.
func TestAlphaFlowOptions(t *testing.T) {
	_, err := tiny(t, &AlphaFlow{Shortcut: true}).Resolve()
	require.ErrorContains(t, err, "constant α")
	_, err = tiny(t, &AlphaFlow{From: 0.6, To: 0.5}).Resolve()
	require.ErrorContains(t, err, "the second fraction above the first")
	r := tiny(t, &AlphaFlow{Shortcut: true, Alpha: 0.5})
	_, err = r.Train(t.Context())
	require.NoError(t, err)
}
