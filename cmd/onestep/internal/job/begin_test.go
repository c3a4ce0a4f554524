package job

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A run that fails before its first step leaves nothing that was not there.
func TestFailedBeforeFirstStepLeavesNothing(t *testing.T) {
	base := t.TempDir()
	data := filepath.Join(base, "data")
	require.NoError(t, os.Mkdir(data, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(data, "a.png"), []byte("no image"), 0o666))
	for _, corrupt := range []string{"error", "skip"} {
		o := tinyRun(filepath.Join(base, "runs", "one"), "ict")
		o.Data, o.Classes, o.Corrupt = data, false, corrupt
		_, err := o.Run(context.Background(), Hooks{})
		require.Error(t, err)
		require.NoDirExists(t, filepath.Join(base, "runs"))
	}
}

// Sample grids are drawn whenever a state is saved, where nothing else is asked for, and the data is summed up at the start.
func TestRunsDrawSamplesByDefault(t *testing.T) {
	o := tinyRun(filepath.Join(t.TempDir(), "run"), "ict")
	o.Steps, o.SaveEvery, o.SampleEvery = 4, 2, DefaultTrain().SampleEvery
	var d DataSummary
	_, err := o.Run(context.Background(), Hooks{Data: func(s DataSummary) { d = s }})
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(o.Out, "samples-0000002.png"))
	require.Equal(t, 1906, d.Images)
	require.NotEmpty(t, d.Classes)
	require.InDelta(t, 1906.0/4, d.StepsPerEpoch, 1e-9)
	require.InDelta(t, 4/d.StepsPerEpoch, d.Epochs, 1e-9)
}
