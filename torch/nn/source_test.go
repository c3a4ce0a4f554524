package nn

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// twoLayers is a network to be bound to a file.
type twoLayers struct {
	conv Conv2D
	out  Linear
}

func (n *twoLayers) build(p Path) {
	n.conv = NewConv2D(p.Sub("conv"), 1, 2, 3, torch.Conv2DOptions{})
	n.out = NewLinearInit(p.Sub("out"), 2, 3, FanIn(2), nil)
}

// save writes the tensors to a file and opens it.
func save(t *testing.T, tensors map[string]*torch.Tensor) *torch.Weights {
	t.Helper()
	path := filepath.Join(t.TempDir(), "w.safetensors")
	require.NoError(t, torch.SaveSafetensors(path, maps.All(tensors), torch.SaveOptions{}))
	w, err := torch.OpenWeights(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

func TestBuildFromTakesWhatTheFileHas(t *testing.T) {
	st, err := Build(torch.CPU, torch.Float32, 1, new(twoLayers).build)
	require.NoError(t, err)
	defer st.Close()
	given := maps.Collect(st.Tensors())
	w := save(t, given)
	for _, dtype := range []torch.DType{torch.Float32, torch.BFloat16} {
		var n twoLayers
		bound, err := BuildFrom(w, torch.CPU, dtype, n.build)
		require.NoError(t, err)
		require.Equal(t, []string{"conv.weight", "conv.bias", "out.weight"}, names(bound.Parameters()))
		s := torch.NewScope(torch.CPU)
		for name, p := range bound.Parameters() {
			if name == "conv.bias" { // weights are converted when they are used
				require.Equal(t, dtype, p.DType())
			}
			require.False(t, p.RequiresGrad())
			want := torch.ToSlice[float64](given[name].Detach(s).To(s, dtype).To(s, torch.Float64))
			require.Equal(t, want, torch.ToSlice[float64](p.To(s, dtype).To(s, torch.Float64)), name)
		}
		x := torch.Ones(s, dtype, 1, 1, 3, 3)
		before := torch.ToSlice[float64](n.out.Forward(s, n.conv.Forward(s, x).Flatten(s, 1, -1)).To(s, torch.Float64))
		bound.Release() // changes nothing
		require.Equal(t, before, torch.ToSlice[float64](n.out.Forward(s, n.conv.Forward(s, x).Flatten(s, 1, -1)).To(s, torch.Float64)))
		if dtype == torch.Float32 { // views of the file
			require.ErrorIs(t, w.Close(), torch.ErrInUse)
		}
		require.Len(t, before, 3)
		s.Close()
		bound.Close()
	}
}

func TestBuildFromListsAllThatIsWrong(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	before := torch.Live()
	w := save(t, map[string]*torch.Tensor{
		"conv.weight": torch.Zeros(s, torch.Float32, 2, 1, 1, 1),
		"conv.bias":   torch.Zeros(s, torch.Int64, 2),
		"more":        torch.Zeros(s, torch.Float32, 1),
	})
	_, err := BuildFrom(w, torch.CPU, torch.Float32, new(twoLayers).build)
	require.EqualError(t, err, "weights do not fit the network: 1 missing: out.weight; 1 unexpected: more; "+
		"1 shape mismatch: conv.weight (want [2 1 3 3], got [2 1 1 1]); 1 not of floating point: conv.bias (int64)")
	require.Equal(t, before+3, torch.Live())
	_, err = BuildFrom(w, torch.CPU, torch.Int64, new(twoLayers).build)
	require.ErrorContains(t, err, "floating-point dtype, got int64")
}
