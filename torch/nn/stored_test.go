package nn

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// A network made from another's store has the same weights in memory of its own.
func TestStored(t *testing.T) {
	build := func(p Path) {
		NewLinear(p.Sub("a"), 3, 2)
		p.Buffer("seen", Zeros, 1)
	}
	st, err := Build(torch.CPU, torch.Float32, 1, build)
	require.NoError(t, err)
	defer st.Close()
	require.Equal(t, []string{"a.weight", "a.bias", "seen"}, slices.Collect(Stored{st}.Names()))
	other, err := BuildFrom(Stored{st}, torch.CPU, torch.Float32, build)
	require.NoError(t, err)
	defer other.Close()
	want := torch.ToSlice[float32](st.byKey["a.weight"].t)
	require.Equal(t, want, torch.ToSlice[float32](other.byKey["a.weight"].t))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			w := other.byKey["a.weight"].t
			w.CopyFrom(s, w.AddScalar(s, 1))
			_, _, ok := Stored{st}.Info("b")
			require.False(t, ok)
			_, err := Stored{st}.Get(s, "b")
			require.Error(t, err)
			return nil
		})
	}))
	require.Equal(t, want, torch.ToSlice[float32](st.byKey["a.weight"].t))
}
