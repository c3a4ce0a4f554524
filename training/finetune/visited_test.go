package finetune

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The timesteps of four sampling steps are those of the grid, as many as it has.
func TestVisited(t *testing.T) {
	for grid, want := range map[int][]int{0: {999, 759, 499, 259}, 50: {999, 759, 499, 259}, 10: {999, 799, 499, 299}, 2: {999, 499}, 5000: {999, 749, 499, 249}} {
		require.Equal(t, want, visited(1000, grid, 4))
	}
	require.Equal(t, []int{1, 0}, visited(2, 0, 4))
	require.Equal(t, []int{999, 499}, visited(1000, 50, 2), "of two phases")
}
