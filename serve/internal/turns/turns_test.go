package turns

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Clients take turns, whoever came first and with however many requests.
func TestLines(t *testing.T) {
	type job struct{ client, prompt string }
	var q Lines[*job]
	add := func(client, prompt string) *job {
		j := &job{client, prompt}
		q.Push(client, j)
		return j
	}
	order := func() (out []string) {
		for j := range q.Order() {
			out = append(out, j.prompt)
		}
		return out
	}
	first := add("a", "a1")
	for _, p := range []string{"a2", "a3", "a4"} {
		add("a", p)
	}
	b1 := add("b", "b1")
	add("c", "c1")
	c2 := add("c", "c2")
	require.Equal(t, []string{"a1", "b1", "c1", "a2", "c2", "a3", "a4"}, order())
	require.True(t, q.Serve(first))
	require.False(t, q.Serve(first))
	require.Equal(t, []string{"b1", "c1", "a2", "c2", "a3", "a4"}, order())
	require.True(t, q.Remove(b1))
	require.True(t, q.Remove(c2))
	add("b", "b2") // anew, at the end
	require.Equal(t, []string{"c1", "a2", "b2", "a3", "a4"}, order())
	require.Equal(t, 5, q.Len())

	// Whoever is served until nothing is left, a client with one request waits for one of each other client at most.
	var served []string
	for q.Len() > 0 {
		for j := range q.Order() {
			served = append(served, j.client)
			q.Serve(j)
			break
		}
	}
	require.Equal(t, []string{"c", "a", "b", "a", "a"}, served)
	require.Empty(t, slices.Collect(q.Order()))
	require.Empty(t, q.lines)
}
