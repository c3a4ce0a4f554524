package lora

import (
	"context"
	"iter"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
)

// dots is a data set of images of one pixel.
type dots struct{}

func (dots) Name() string                        { return "dots" }
func (dots) Len() int                            { return 4 }
func (dots) Shape() (int, int, int)              { return 1, 1, 1 }
func (dots) Classes() []string                   { return nil }
func (dots) Read(i int, dst []byte) (int, error) { dst[0] = byte(i); return -1, nil }

// towards is an objective that draws one layer's output to 1.
type towards struct {
	model *sd.Model
	a     *Adapter
}

func (o towards) Loss(s *torch.Scope, _ int, _ training.Batch, _ training.Draws) *torch.Tensor {
	for path, l := range o.model.UNet.Store().Layers() {
		if l, ok := l.(nn.Linear); ok && strings.HasSuffix(path, "attn1.to_q") {
			x := torch.Ones(s, torch.Float32, 3, l.Weight.Dim(1))
			return l.Adapted(s, x, o.a.At(1)).SubScalar(s, 1).Square(s).Mean(s)
		}
	}
	panic("no layer")
}
func (towards) Update(*torch.Scope, int) {}
func (towards) State() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}
func (towards) Stats(int) map[string]float64 { return nil }

// The snapshots of a run that trains an adapter are adapters: read back they change the model as they did, with their alpha, as do those of
// an average. A run is not resumed with another alpha, which would scale what was learned.
func TestSnapshotsOfTraining(t *testing.T) {
	m := openTiny(t, "sd15")
	c := Config{Rank: 4, Alpha: 16, Targets: []string{"to_q", "q_proj", "conv1"}, Seed: 3}
	a, average := filled(t, Of(m), c), filled(t, Of(m), c)
	dir := filepath.Join(t.TempDir(), "run")
	train := func(a *Adapter, steps int) (training.Result, error) {
		o, err := optim.AdamW{LR: 1e-2}.New(a.Parameters())
		require.NoError(t, err)
		defer o.Close()
		return (&training.Trainer{
			Objective: towards{m, a}, Model: a, Optimizer: o, Data: training.Images{Loader: &dataset.Loader{Dataset: dots{}, Batch: 2, Seed: 1}}, Dir: dir, Seed: 1, Steps: steps,
			Averages: []training.Average{{Into: average, Decay: 0.5}},
		}).Train(context.Background())
	}
	r, err := train(a, 3)
	require.NoError(t, err)
	requireDeltas(t, deltas(t, Of(m), average.At(1)), Of(m), r.Snapshot, 0)
	f, err := Open(r.Snapshot)
	require.NoError(t, err)
	for _, module := range f.Modules {
		require.Equal(t, [3]float64{4, 16, 4}, [3]float64{float64(module.Rank), module.Alpha, module.Scale}, module.Name)
	}
	require.NoError(t, f.Close())

	c.Alpha = 4
	_, err = train(filled(t, Of(m), c), 3)
	require.ErrorContains(t, err, metadataKey)
	c.Alpha = 16
	again := filled(t, Of(m), c)
	_, err = train(again, 3)
	require.NoError(t, err)
}
