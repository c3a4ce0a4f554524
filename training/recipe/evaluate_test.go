package recipe

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// A run that is evaluated has the bits of one that is not, and its directory stands for its best model, also where that snapshot was removed.
func TestEvaluatedRun(t *testing.T) {
	one := torch.Threads()
	require.NoError(t, torch.SetThreads(1))
	t.Cleanup(func() { require.NoError(t, torch.SetThreads(one)) })
	plain := tiny(t, &ICT{})
	_, err := plain.Train(t.Context())
	require.NoError(t, err)

	r := tiny(t, &ICT{})
	r.EvalEvery, r.Keep = 1, 1
	r.Evaluate = func(_ context.Context, m Snapshot) (training.Evaluation, error) {
		require.Implements(t, (*models.ConsistencyFunction)(nil), m.Function)
		require.Equal(t, r.Out, m.Run.Path())
		// Random numbers of its own.
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			torch.Randn(s, torch.NewGenerator(s, 5), torch.Float32, 100)
			return nil
		})
		return training.Evaluation{Name: "fd", Value: float64(max(m.Step, 4-m.Step)), Of: "nothing"}, err // lowest at step 2
	}
	got, err := r.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, got.Chosen.Step)
	for _, name := range []string{"state-0000004.safetensors", "model-0000004.safetensors"} {
		a, err := os.ReadFile(filepath.Join(plain.Out, name))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(r.Out, name))
		require.NoError(t, err)
		require.Equal(t, a, b, name)
	}
	require.NoFileExists(t, filepath.Join(r.Out, "model-0000002.safetensors"))
	d, err := checkpoint.ReadDescription(r.Out)
	require.NoError(t, err)
	require.Equal(t, 2, d.Step)
	d, err = checkpoint.ReadDescription(plain.Out)
	require.NoError(t, err)
	require.Equal(t, 4, d.Step)

	// How a run is evaluated may change when it is resumed.
	r.Resume, r.EvalEvery, r.EvalN = true, 3, 100
	again, err := r.Train(t.Context())
	require.NoError(t, err)
	require.Equal(t, got.Chosen, again.Chosen)
}

// Options of evaluations without any are an error, and none are recorded.
func TestEvaluationOptions(t *testing.T) {
	r := tiny(t, &ICT{})
	r.EvalN = 30
	_, err := r.Resolve()
	var of *OptionError
	require.ErrorAs(t, err, &of)
	require.Equal(t, "eval-n", of.Option)
	require.ErrorContains(t, err, "eval_every")
	for every, want := range map[int]bool{0: false, 2: true} {
		r.EvalN, r.EvalEvery = 0, every
		resolved, err := r.Resolve()
		require.NoError(t, err)
		text, err := resolved.MarshalJSON()
		require.NoError(t, err)
		require.Equal(t, want, strings.Contains(string(text), `"eval_n":500`), "%s", text)
	}
}
