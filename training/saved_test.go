package training

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

// A result names what was saved, and not what was about to be when that failed.
func TestResultOfAFailedSave(t *testing.T) {
	for _, c := range []struct {
		blocked         string
		snapshot, state int
	}{{"state-%07d.safetensors", 8, 4}, {"model-%07d.safetensors", 4, 4}} {
		dir := t.TempDir()
		name := func(kind string, step int) string {
			return filepath.Join(dir, fmt.Sprintf("%s-%07d.safetensors", kind, step))
		}
		r, _, _, err := guardedThen(t, dir, Guard{}, at(), func(_ *poisoned, k int) {
			if k == 6 {
				require.NoError(t, os.Mkdir(filepath.Join(dir, fmt.Sprintf(c.blocked, 8)), 0o777))
			}
		})
		require.Error(t, err)
		require.Equal(t, name("state", c.state), r.State)
		require.Equal(t, name("model", c.snapshot), r.Snapshot)
		require.FileExists(t, r.State)
		require.FileExists(t, r.Snapshot)
	}
}

// States and snapshots do not replace what links of their names point to.
func TestSavedBesideLinks(t *testing.T) {
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o666))
	_, _, _, err := guardedThen(t, dir, Guard{}, at(), func(_ *poisoned, k int) {
		if k == 6 {
			for _, name := range []string{"state-0000008.safetensors", "model-0000008.safetensors"} {
				require.NoError(t, os.Symlink(victim, filepath.Join(dir, name)))
			}
		}
	})
	require.NoError(t, err)
	b, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
}

// ownSnapshots are text files that say their step.
type ownSnapshots struct {
	dir   string
	wrote []int
}

func (o *ownSnapshots) Path(step int) string {
	return filepath.Join(o.dir, fmt.Sprintf("own-%d", step))
}

func (o *ownSnapshots) Write(_ context.Context, _ *torch.Scope, step int, images int64) error {
	o.wrote = append(o.wrote, step)
	return os.WriteFile(o.Path(step), fmt.Append(nil, images), 0o600)
}

// Snapshots of a program's own stand in place of the trainer's: written before each checkpoint, and again where one is gone.
func TestOwnSnapshots(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	own := &ownSnapshots{dir: dir}
	train := func() Result {
		net := newMLP(t, 2, 8, 0)
		opt, err := optim.SGD{LR: 0.05}.New(net.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		r, err := (&Trainer{Objective: &EDM{Model: &models.EDM{Net: net}}, Model: net, Optimizer: opt, Data: points2D(3), Dir: dir, Steps: 6, SaveEvery: 4, Snapshots: own}).Train(t.Context())
		require.NoError(t, err)
		return r
	}
	require.Equal(t, own.Path(6), train().Snapshot)
	require.Equal(t, []int{4, 6}, own.wrote)
	require.FileExists(t, filepath.Join(dir, "state-0000006.safetensors"))
	require.NoFileExists(t, filepath.Join(dir, "model-0000006.safetensors"))
	text, err := os.ReadFile(own.Path(6))
	require.NoError(t, err)
	require.Equal(t, "18", string(text))
	require.Equal(t, own.Path(6), train().Snapshot, "nothing is left to do")
	require.Len(t, own.wrote, 2)
	require.NoError(t, os.Remove(own.Path(6)))
	train()
	require.FileExists(t, own.Path(6))
}
