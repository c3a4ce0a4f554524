package training

import (
	"iter"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
)

// Losses and gradients are those of PyTorch: with the model's own boundary, with a head, and guided.
func TestIMFLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "imf")
		net, head := r.net(t, "model", true), r.net(t, "head", true)
		f := &IMF{MeanFlow: MeanFlow{Model: &models.MeanFlow{Net: net}, Power: 0.75}}
		loss := func() *torch.Tensor { return f.LossAt(s, r.batch(), r.numbers("r"), r.numbers("tau"), r["z"], 1) }
		r.require(t, s, "boundary", loss(), net)
		f.Head = &models.MeanFlow{Net: head}
		r.require(t, s, "headed", loss(), net)
		r.require(t, s, "of head", loss(), head)

		guided := network(t, perceptron.Config{Width: 8, Depth: 2, Until: true, Classes: 2, Guidance: true}, torch.Float64, 1)
		require.NoError(t, guided.Load(func(yield func(string, *torch.Tensor) bool) {
			for k, v := range r {
				if name, ok := strings.CutPrefix(k, "guided."); ok && !yield(name, v) {
					return
				}
			}
		}))
		f = &IMF{MeanFlow: MeanFlow{Model: &models.MeanFlow{Net: guided}, Power: 0.75}, Null: 2}
		b := r.batch()
		b.Cond = models.Cond{Class: r["label"], Guidance: r["omega"]}
		r.require(t, s, "guided", f.LossAt(s, b, r.numbers("r"), r.numbers("tau"), r["z"], 1), guided)
		return nil
	}))
}

// Where the network predicts the sample's velocity, the loss is MeanFlow's; so it is for samples with r = τ.
func TestIMFIsMeanFlow(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		ref := readReference(t, s, "imf")
		net := ref.net(t, "model", true)
		m := MeanFlow{Model: &models.MeanFlow{Net: net}, Power: 0.75, Eps: 0.01}
		f := &IMF{MeanFlow: m}
		r, tau := []float64{0, 0.2, 0.5, 0.7}, []float64{0.9, 0.6, 0.8, 0.75}
		b, z := ref.batch(), ref["z"]
		require.Equal(t, m.LossAt(s, b, tau, tau, z, 1).Item(), f.LossAt(s, b, tau, tau, z, 1).Item())
		require.NotEqual(t, m.LossAt(s, b, r, tau, z, 1).Item(), f.LossAt(s, b, r, tau, z, 1).Item())
		f.Head = &models.MeanFlow{Net: &constant{z.Sub(s, b.X)}}
		headed := f.LossAt(s, b, r, tau, z, 1) // the head is right, and its loss 0
		require.InEpsilon(t, m.LossAt(s, b, r, tau, z, 1).Item(), headed.Item(), 1e-12)
		return nil
	}))
}

// constant is a network whose output is given.
type constant struct{ y *torch.Tensor }

func (n *constant) Forward(s *torch.Scope, x, _ *torch.Tensor, _ models.Cond) *torch.Tensor {
	return n.y.Add(s, x.MulScalar(s, 0))
}

func (n *constant) Parameters() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// The head's weights are in the optimizer and in checkpoints.
func TestIMFHeadIsTrained(t *testing.T) {
	c := perceptron.Config{Width: 8, Depth: 1, Until: true}
	net, head := network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 2)
	f := &IMF{MeanFlow: MeanFlow{Model: &models.MeanFlow{Net: net}}, Head: &models.MeanFlow{Net: head}}
	require.NoError(t, f.Validate())
	n := 0
	for name, p := range f.Parameters() {
		require.True(t, strings.HasPrefix(name, "head."))
		require.True(t, p.RequiresGrad())
		n++
	}
	require.Equal(t, 4, n)
	clone, err := head.Clone()
	require.NoError(t, err)
	defer clone.Close()
	f.Head = &models.MeanFlow{Net: clone}
	require.ErrorContains(t, f.Validate(), "requires no gradients")
	f.Head = f.Model
	require.ErrorContains(t, f.Validate(), "the head is the model")
	require.ErrorContains(t, (&IMF{}).Validate(), "no model")
}

// Scales are log-uniform; a batch with scales needs classes.
func TestIMFGuidance(t *testing.T) {
	net := network(t, perceptron.Config{Width: 8, Depth: 1, Until: true, Guidance: true}, torch.Float32, 1)
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		b := Batch{X: torch.Ones(s, torch.Float32, 4000, 2)}
		d := drawn(1, 0, b)
		b = DrawGuidanceLog(1, 8)(s, b, d)
		sum := 0.0
		for _, w := range torch.ToSlice[float32](b.Cond.Guidance) {
			require.True(t, w >= 1 && w <= 8)
			sum += math.Log(float64(w)) / 4000
		}
		require.InDelta(t, math.Log(8)/2, sum, 0.05)
		(&IMF{MeanFlow: MeanFlow{Model: &models.MeanFlow{Net: net}}}).Loss(s, 0, b, d)
		return nil
	})
	require.ErrorContains(t, err, "no classes")
}
