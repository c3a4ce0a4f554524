package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each point is measured once, each axis has its values at the base's others, and the network and the images take the sizes that are asked for.
func TestPoints(t *testing.T) {
	all := points()
	seen := map[point]bool{}
	count := map[string]int{}
	for _, p := range all {
		require.False(t, seen[p], "%+v", p)
		seen[p] = true
		count[p.Work]++
		p.GFLOP, p.Ours.MS = 3, 4
		require.True(t, all[len(seen)-1].same(p))
	}
	require.Equal(t, map[string]int{"train": 7 + 3 + 4, "sample": 7 + 3 + 4 + 4}, count)

	var out bytes.Buffer
	require.NoError(t, work([]string{"sample", "--batch", "1", "--resolution", "8", "--channels", "16", "--steps", "2", "--runs", "1", "--threads", "1"}, &out))
	var got map[string]float64
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	require.Contains(t, got, "consistency_2")
	require.NotContains(t, got, "consistency_1")
}
