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
	require.Equal(t, []int{1, 6, 1, 1, 6, 4}, seen, "the first; 0 to 3; 4 with its two steps; 5 and a part of 6; the rest")
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

// A request of many images is served in parts, between which others have their turn.
func TestParts(t *testing.T) {
	g, sizes := newGate(), make(chan int, 100)
	e := engineOf(t, Options{Models: []Model{fake{before: g.wait, sizes: sizes}.with(t)}, Batch: 2, Queue: 1})
	defer g.open()
	long := start(t, ctx, e, Request{Client: "a", N: 5, Seed: new(uint64(10))})
	<-g.reached
	short := start(t, ctx, e, Request{Client: "b", Steps: 2})
	require.Equal(t, ErrFull, read(ctx, e, Request{}).err)
	for range 3 {
		g.pass <- struct{}{}
		<-g.reached
	}
	require.NoError(t, (<-short).err, "before the other's third part")
	require.Equal(t, 1, e.Status().Running)
	g.open()
	got := <-long
	require.NoError(t, got.err)
	var seeds, steps []int
	for _, ev := range got.events {
		if ev.Step > 0 {
			require.Equal(t, 5, ev.Steps)
			steps = append(steps, ev.Step)
		}
		if ev.Image != nil {
			seeds = append(seeds, int(ev.Image.Seed))
		}
	}
	require.Equal(t, []int{10, 11, 12, 13, 14}, seeds)
	require.Equal(t, []int{2, 4, 5}, steps)
	close(sizes)
	var seen []int
	for n := range sizes {
		seen = append(seen, n)
	}
	require.Equal(t, []int{2, 1, 1, 2, 1}, seen)
}

// Requests of a batch that fails are tried alone, so that one of them does not fail the others.
func TestBatchFails(t *testing.T) {
	g := newGate()
	e := engineOf(t, Options{Models: []Model{fake{before: func(n int) {
		g.wait(n)
		if n == 3 || n == 2 {
			panic("too many")
		}
	}}.with(t)}})
	defer g.open()
	first := start(t, ctx, e, Request{})
	<-g.reached
	good := start(t, ctx, e, Request{Client: "a"})
	bad := start(t, ctx, e, Request{Client: "b", N: 2})
	g.open()
	require.NoError(t, (<-first).err)
	got := <-good
	require.NoError(t, got.err)
	require.Len(t, got.images, 1)
	require.ErrorAs(t, (<-bad).err, new(*PanicError))
}
