package job

import (
	"context"
	"encoding/json"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Images of different sizes are trained on without --resolution: the resolution is chosen, said, and written into the run's options, so
// that a run that is resumed has the same. A run from another model takes that one's.
func TestMixedSizes(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]image.Point{"a": {13, 9}, "b": {12, 20}, "c": {40, 8}} {
		f, err := os.Create(filepath.Join(dir, name+".png"))
		require.NoError(t, err)
		require.NoError(t, png.Encode(f, image.NewGray(image.Rectangle{Max: size})))
		require.NoError(t, f.Close())
	}
	train := func(out, start string, steps int) (resolution int, notices string) {
		o := tinyRun(out, "ct")
		o.Data, o.Classes, o.Resolution, o.Steps, o.Init = dir, false, 0, steps, start
		if start != "" {
			o.Size = nil
		}
		r, err := o.Train(context.Background(), Hooks{Data: func(d DataSummary) { notices = strings.Join(d.Notices, "; ") }})
		require.NoError(t, err)
		require.Zero(t, r.Resized)
		data, err := os.ReadFile(filepath.Join(out, "options.json"))
		require.NoError(t, err)
		var options struct{ Resolution int }
		require.NoError(t, json.Unmarshal(data, &options))
		return options.Resolution, notices
	}
	first := filepath.Join(t.TempDir(), "first")
	side, notices := train(first, "", 2)
	require.Equal(t, 8, side)
	require.Contains(t, notices, "40×8")
	require.Contains(t, notices, "8×8")
	side, _ = train(first, "", 2) // resumed
	require.Equal(t, 8, side)
	side, notices = train(filepath.Join(t.TempDir(), "second"), first, 2)
	require.Equal(t, 8, side)
	require.Contains(t, notices, "model")
}
