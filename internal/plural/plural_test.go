package plural_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/plural"
)

func TestN(t *testing.T) {
	for _, c := range []struct {
		n          int
		noun, want string
	}{
		{1, "step", "1 step"}, {0, "step", "0 steps"}, {2, "step", "2 steps"}, {3, "class", "3 classes"}, {1, "class", "1 class"}, {2, "entry", "2 entries"},
		{2, "other size", "2 other sizes"}, {2, "key", "2 keys"}, {2, "batch", "2 batches"}, {-1, "day", "-1 days"},
	} {
		require.Equal(t, c.want, plural.N(c.n, c.noun))
	}
	require.Equal(t, "1 image", plural.N(int64(1), "image"))
}
