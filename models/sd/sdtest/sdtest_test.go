package sdtest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// The values are those of scripts/golden/shared/sdfill.py: value("a.weight", (2, 16)), value("a.weight", (16,)) and value("a.bias", (16,)),
// first and last.
func TestFilledEqualsPython(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	for _, c := range []struct {
		name        string
		shape       []int
		first, last float64
	}{
		{"a.weight", []int{2, 16}, -0.24079486727714539, 0.13086900115013123},
		{"a.weight", []int{16}, 0.9036820530891418, 0.9135306477546692},
		{"a.bias", []int{16}, 0.01680348999798298, 0.02540414407849312},
	} {
		v, err := Filled{nn.Shape{Name: c.name, Dims: c.shape}}.Get(s, c.name)
		require.NoError(t, err)
		got := torch.ToSlice[float32](v)
		require.Equal(t, []float32{float32(c.first), float32(c.last)}, []float32{got[0], got[len(got)-1]}, c.name)
	}
	_, err := Filled{}.Get(s, "b")
	require.EqualError(t, err, `there is no tensor "b"`)
}
