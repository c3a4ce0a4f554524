package engine

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Clients take turns, whoever came first and with however many requests.
func TestQueue(t *testing.T) {
	var q queue
	add := func(client, prompt string) *job {
		j := &job{r: Request{Client: client, Prompt: prompt}}
		q.push(j)
		return j
	}
	order := func() (out []string) {
		for j := range q.order() {
			out = append(out, j.r.Prompt)
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
	require.True(t, q.serve(first))
	require.False(t, q.serve(first))
	require.Equal(t, []string{"b1", "c1", "a2", "c2", "a3", "a4"}, order())
	require.True(t, q.remove(b1))
	require.True(t, q.remove(c2))
	add("b", "b2") // anew, at the end
	require.Equal(t, []string{"c1", "a2", "b2", "a3", "a4"}, order())
	require.Equal(t, 5, q.n)

	// Whoever is served until nothing is left, a client with one request waits for one of each other client at most.
	var served []string
	for q.n > 0 {
		for j := range q.order() {
			served = append(served, j.r.Client)
			q.serve(j)
			break
		}
	}
	require.Equal(t, []string{"c", "a", "b", "a", "a"}, served)
	require.Empty(t, slices.Collect(q.order()))
	require.Empty(t, q.lines)
}

// A slow reader gets all images and all previews, and of other steps the last.
func TestMailbox(t *testing.T) {
	b := newMailbox()
	for _, ev := range []Event{
		{Queued: 3}, {Queued: 2}, {Resolved: &Resolved{}}, {Step: 1}, {Step: 2}, {Step: 3, Previews: previewOf(1)}, {Step: 4}, {Step: 5}, {Image: &Image{Seed: 1}},
		{Step: 6}, {Image: &Image{Seed: 2}},
	} {
		b.put(ev)
	}
	b.end(ErrClosed)
	b.put(Event{Step: 9})
	var got []any
	for {
		ev, more, err := b.next()
		if !more {
			require.ErrorIs(t, err, ErrClosed)
			break
		}
		switch {
		case ev.Queued > 0:
			got = append(got, "queued", ev.Queued)
		case ev.Resolved != nil:
			got = append(got, "resolved")
		case ev.Image != nil:
			got = append(got, "image", ev.Image.Seed)
		case ev.Previews != nil:
			got = append(got, "preview", ev.Step)
		default:
			got = append(got, "step", ev.Step)
		}
	}
	require.Equal(t, []any{"queued", 2, "resolved", "preview", 3, "step", 5, "image", uint64(1), "step", 6, "image", uint64(2)}, got)
}
