package job

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Nothing is drawn for a name that cannot be written.
func TestOutputIsLookedAtFirst(t *testing.T) {
	dir := t.TempDir()
	fifo, read := filepath.Join(dir, "pipe.png"), filepath.Join(dir, "read.png")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	require.NoError(t, os.WriteFile(read, nil, 0o444))
	o := DefaultSample()
	o.Model, o.N, o.Overwrite = "builtin", 1, true
	drawn := 0
	progress := func(int, int) { drawn++ }
	for _, o.Out = range []string{dir + "/none/../x.png", fifo, read} {
		_, err := o.Run(context.Background(), progress)
		require.Error(t, err)
		require.Zero(t, drawn, o.Out)
	}
	o.Out = filepath.Join(dir, "x.png")
	_, err := o.Run(context.Background(), progress)
	require.NoError(t, err)
	require.NotZero(t, drawn, "or else this test sees nothing")
}
