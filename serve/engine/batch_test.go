package engine

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/torchtest"
)

// Requests of several clients that wait are served in one batch, each with its own seeds, classes and images, as alone but for rounding.
func TestBatch(t *testing.T) {
	g, sizes := newGate(), make(chan int, 100)
	plain := engineOf(t, Options{Models: []Model{fake{}.with(t)}})
	e := engineOf(t, Options{Models: []Model{fake{before: g.wait, sizes: sizes}.with(t)}, Batch: 6})
	defer g.open()
	first := start(t, ctx, e, Request{})
	<-g.reached
	requests := []Request{{Prompt: "dog", N: 2}, {Labels: []int{0, 2}, N: 2}, {}, {Width: 16}, {Steps: 2}, {Prompt: "cat"}, {Prompt: "field", N: 9}}
	var all []<-chan result
	for i, r := range requests {
		r.Seed, r.Client = new(uint64(10*i+3)), fmt.Sprint(i)
		requests[i] = r
		all = append(all, start(t, ctx, e, r))
	}
	g.open()
	require.NoError(t, (<-first).err)
	for i, done := range all {
		got, want := <-done, read(ctx, plain, requests[i])
		require.NoError(t, got.err)
		require.NoError(t, want.err)
		require.Equal(t, want.as, got.as)
		require.Len(t, got.images, len(want.images))
		for k, img := range got.images {
			require.Equal(t, []any{want.images[k].Seed, want.images[k].Label}, []any{img.Seed, img.Label})
			require.Equal(t, want.images[k].Texts, img.Texts)
			require.LessOrEqual(t, torchtest.Levels(want.images[k].Image, img.Image), 1)
		}
	}
	close(sizes)
	var seen []int
	for n := range sizes {
		seen = append(seen, n)
	}
	require.Equal(t, []int{1, 6, 1, 1, 1, 6, 3}, seen, "the first; 0 to 3; 4 with its two steps; 5 alone, since 6 has too many images; 6 in parts")
}

// Who leaves a batch does not end it for the others; when the last one leaves, it ends.
func TestBatchWithoutSome(t *testing.T) {
	g := newGate()
	e := engineOf(t, Options{Models: []Model{fake{before: g.wait}.with(t)}})
	defer g.open()
	blocking, unblock := context.WithCancel(ctx)
	start(t, blocking, e, Request{})
	<-g.reached
	gone, leave := context.WithCancel(ctx)
	leaves := start(t, gone, e, Request{Client: "a", Steps: 3})
	refused := start(t, ctx, e, Request{Client: "b", Steps: 3, Labels: []int{1}, Seed: new(uint64(1))})
	stays := start(t, ctx, e, Request{Client: "c", Steps: 3, Seed: new(uint64(9)), N: 2})
	unblock()
	g.pass <- struct{}{}
	<-g.reached
	require.Equal(t, 3, e.Status().Running)
	leave()
	require.ErrorIs(t, (<-leaves).err, context.Canceled)
	for range 2 {
		g.pass <- struct{}{}
		<-g.reached
	}
	g.pass <- struct{}{}
	got := <-stays
	require.NoError(t, got.err)
	require.Len(t, got.images, 2)
	require.NoError(t, (<-refused).err)

	gone, leave = context.WithCancel(ctx)
	leaves = start(t, gone, e, Request{Steps: 5})
	<-g.reached
	leave()
	require.ErrorIs(t, (<-leaves).err, context.Canceled)
	g.pass <- struct{}{}
	eventually(t, func() bool { return e.idle() })
	require.Empty(t, g.reached, "no further step")
}

// idle reports whether no model is in use.
func (e *Engine) idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.models {
		if m.used {
			return false
		}
	}
	return true
}
