package engine

import (
	"context"
	"errors"
	"image"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/sampling/generate"
)

var ctx = context.Background()

func pause() { time.Sleep(time.Millisecond) }

func previewOf(n int) []image.Image { return make([]image.Image, n) }

// Events come in order, images have the seeds and classes asked for, and the first client is told its place.
func TestImages(t *testing.T) {
	e := engineOf(t, Options{Models: []Model{fake{}.with(t)}})
	require.Equal(t, []Info{{Name: "fake"}}, e.Models())
	seed := uint64(7)
	got := read(ctx, e, Request{Prompt: "dog", N: 3, Seed: &seed, Steps: 2, Width: 16, Height: 16, Previews: 5})
	require.NoError(t, got.err)
	require.Equal(t, Resolved{Model: "fake", N: got.as.N, Sampler: "multistep", Steps: 2, Seed: 7, Width: 16, Height: 16, Notices: got.as.Notices}, *got.as)
	require.Len(t, got.as.Notices, 1)
	require.Len(t, got.images, 3)
	for i, img := range got.images {
		require.Equal(t, uint64(7+i), img.Seed)
		require.Equal(t, 1, img.Label)
		require.Equal(t, image.Pt(16, 16), img.Image.Bounds().Size())
		require.NotEmpty(t, img.Texts)
	}
	kinds := ""
	for _, ev := range got.events {
		switch {
		case ev.Resolved != nil:
			kinds += "r"
		case ev.Previews != nil:
			kinds += "p"
			require.Len(t, ev.Previews, 3)
			require.Equal(t, image.Pt(16, 16), ev.Previews[0].Bounds().Size())
		case ev.Image != nil:
			kinds += "i"
		case ev.Step > 0:
			kinds += "s"
			require.Equal(t, 6, ev.Steps)
		}
	}
	require.Equal(t, "rpsiii", kinds)
	info := e.Models()[0]
	require.Equal(t, Info{Name: "fake", Kind: "consistency model", Classes: []string{"cat face", "dog", "green field"}, Width: 8, Height: 8, Images: true,
		Samplers: []string{"multistep"}, Steps: 1, InputSteps: generate.StrokeSteps, MaskSteps: generate.EditSteps, Loaded: true}, info)

	random := read(ctx, e, Request{})
	require.NoError(t, random.err)
	require.Len(t, random.images, 1)
	require.Less(t, random.images[0].Seed, uint64(1)<<32)
	st := e.Status()
	require.Equal(t, 4, st.Images)
	require.Equal(t, 2, st.Done)
	require.Equal(t, []string{"fake"}, st.Open)
	require.Positive(t, st.Bytes)
}

// A pixel-space model edits input images: with a mask it repaints the white part, and without one it starts from the image.
func TestEdits(t *testing.T) {
	e := engineOf(t, Options{Models: []Model{fake{}.with(t)}})
	init, mask := image.NewRGBA(image.Rect(0, 0, 16, 16)), image.NewGray(image.Rect(0, 0, 8, 8))
	for i := range init.Pix {
		init.Pix[i] = 255 // white; the fake makes greys
	}
	for i := range 32 {
		mask.Pix[i] = 255 // the upper half
	}
	got := read(ctx, e, Request{Prompt: "cat", Init: init, Mask: mask, N: 2})
	require.NoError(t, got.err)
	require.Equal(t, 40, got.as.Steps)
	require.Len(t, got.images, 2)
	for _, img := range got.images {
		above, _, _, _ := img.Image.At(4, 1).RGBA()
		below, _, _, _ := img.Image.At(4, 6).RGBA()
		require.Less(t, above, uint32(0x8000))
		require.Greater(t, below, uint32(0xf000))
	}
	for _, strength := range []float64{0, 0.5, 1} {
		got = read(ctx, e, Request{Prompt: "cat", Init: init, Strength: strength})
		require.NoError(t, got.err)
		require.Len(t, got.images, 1)
		require.Equal(t, image.Pt(8, 8), got.images[0].Image.Bounds().Size())
	}
	require.ErrorAs(t, read(ctx, e, Request{Init: init, Mask: image.NewGray(image.Rect(0, 0, 16, 16))}).err, new(*RequestError), "nothing is white")
}

// What no model can do is refused at once; the rest when the model is known.
func TestRefuses(t *testing.T) {
	e := engineOf(t, Options{Models: []Model{fake{}.with(t)}})
	for range 2 { // before the model was open, and after
		for field, r := range map[string]Request{
			"Model": {Model: "fakee"}, "N": {N: -1}, "Steps": {Steps: -1}, "Width": {Width: 1 << 20}, "Height": {Height: -1}, "Guidance": {Guidance: -1},
			"Strength": {Strength: 2}, "Mask": {Mask: image.NewGray(image.Rect(0, 0, 1, 1))}, "Init": {Init: image.NewGray(image.Rect(0, 0, 0, 1))},
			"Prompt": {Prompt: "cow"}, "Negative": {Negative: "a\x00b"}, "Labels": {Labels: []int{3}}, "Sampler": {Sampler: "multistp"}, "Deadline": {Deadline: -1}, "Previews": {Previews: -1},
		} {
			got := read(ctx, e, r)
			var refused *RequestError
			require.ErrorAs(t, got.err, &refused, field)
			require.Equal(t, field, refused.Field)
			require.Nil(t, got.as)
		}
	}
	require.ErrorContains(t, read(ctx, e, Request{Model: "fakee"}).err, "fake?")
	require.ErrorContains(t, read(ctx, e, Request{Prompt: "dgo"}).err, "dog?")
	require.ErrorContains(t, read(ctx, e, Request{Prompt: "dog\x00"}).err, "NUL")
	for _, o := range []Options{{}, {Models: []Model{{Name: "a"}}}, {Models: []Model{fake{}.with(t), fake{}.with(t)}}, {Models: []Model{fake{}.with(t)}, Queue: -1}} {
		_, err := New(o)
		require.Error(t, err)
	}
}

// A client with many requests does not hold up one with a single request, and a full queue refuses.
func TestTurns(t *testing.T) {
	g := newGate()
	var mu sync.Mutex
	var served []string
	e := engineOf(t, Options{Models: []Model{fake{before: g.wait}.with(t)}, Queue: 6, Batch: 1})
	defer g.open()
	ask := func(client, prompt string) <-chan result {
		done := make(chan result, 1)
		accepted := start(t, ctx, e, Request{Client: client, Prompt: prompt})
		go func() {
			got := <-accepted
			mu.Lock()
			served = append(served, client)
			mu.Unlock()
			done <- got
		}()
		return done
	}
	var all []<-chan result
	all = append(all, ask("many", "dog"))
	<-g.reached // it runs
	for range 5 {
		all = append(all, ask("many", "dog"))
	}
	one := ask("one", "dog")
	require.Equal(t, ErrFull, read(ctx, e, Request{Client: "many"}).err)
	require.Equal(t, Status{Waiting: 6, Running: 1, Refused: 1, Open: []string{"fake"}, Bytes: e.Status().Bytes}, e.Status())
	g.open()
	got := <-one
	require.NoError(t, got.err)
	require.Equal(t, []int{2, 1}, places(got), "behind the one that runs and one more of the other client")
	for _, done := range all {
		require.NoError(t, (<-done).err)
	}
	eventually(t, func() bool { return e.Status().Done == 7 })
}

// places are the numbers of requests that were to be served before.
func places(r result) (all []int) {
	for _, ev := range r.events {
		if ev.Queued > 0 {
			all = append(all, ev.Queued)
		}
	}
	return all
}

// A request ends when its client goes or its deadline comes: while it waits, and while it is generated. Others are not disturbed.
func TestEnds(t *testing.T) {
	g := newGate()
	e := engineOf(t, Options{Models: []Model{fake{before: g.wait}.with(t)}, Batch: 1})
	defer g.open()
	gone, leave := context.WithCancel(ctx)
	runs := start(t, gone, e, Request{Client: "a", Steps: 8})
	<-g.reached
	late := start(t, ctx, e, Request{Client: "b", Deadline: 10 * time.Millisecond})
	require.ErrorIs(t, (<-late).err, context.DeadlineExceeded)
	waits, leaveToo := context.WithCancel(ctx)
	second := start(t, waits, e, Request{Client: "c"})
	leaveToo()
	require.ErrorIs(t, (<-second).err, context.Canceled)
	stays := start(t, ctx, e, Request{Client: "d"})
	leave()
	require.ErrorIs(t, (<-runs).err, context.Canceled)
	g.pass <- struct{}{} // the step that is being computed; no other step of it comes
	<-g.reached
	g.pass <- struct{}{}
	require.NoError(t, (<-stays).err)
	require.Empty(t, g.reached)

	runs = start(t, ctx, e, Request{Deadline: 20 * time.Millisecond})
	<-g.reached
	require.ErrorIs(t, (<-runs).err, context.DeadlineExceeded, "without waiting for the step")
	g.pass <- struct{}{}

	// Leaving the loop ends a request as well.
	for range e.Images(ctx, Request{N: 4}) {
		break
	}
	g.open()
	st := e.Status()
	require.Equal(t, []int{1, 2, 3}, []int{st.Done, st.Failed, st.Cancelled})
	require.Zero(t, st.Waiting+st.Running)
}

// Drain refuses new requests and waits for those before; Close ends them.
func TestDrainAndClose(t *testing.T) {
	g := newGate()
	e, err := New(Options{Models: []Model{fake{before: g.wait}.with(t)}, Batch: 1})
	require.NoError(t, err)
	first := start(t, ctx, e, Request{})
	<-g.reached
	second := start(t, ctx, e, Request{})
	soon, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, e.Drain(soon), context.DeadlineExceeded)
	require.ErrorIs(t, read(ctx, e, Request{}).err, ErrClosed)
	g.pass <- struct{}{}
	require.NoError(t, (<-first).err)
	<-g.reached
	go func() {
		require.ErrorIs(t, (<-second).err, ErrClosed)
		g.open()
	}()
	require.NoError(t, e.Close())
	require.NoError(t, e.Drain(ctx))
	require.NoError(t, e.Close(), "again")
	require.Empty(t, e.Status().Open)
	require.ErrorIs(t, read(ctx, e, Request{}).err, ErrClosed)

	idle, err := New(Options{Models: []Model{fake{}.with(t)}})
	require.NoError(t, err)
	require.NoError(t, read(ctx, idle, Request{}).err)
	require.NoError(t, idle.Drain(ctx))
	require.NoError(t, idle.Close())
}

// A panic ends the request that it belongs to, and no other.
func TestPanics(t *testing.T) {
	first := true
	e := engineOf(t, Options{Models: []Model{fake{before: func(int) {
		if first {
			first = false
			panic("a bug")
		}
	}}.with(t)}})
	var bug *PanicError
	require.ErrorAs(t, read(ctx, e, Request{}).err, &bug)
	require.Equal(t, "a bug", bug.Value)
	require.NoError(t, read(ctx, e, Request{}).err)
	opens := 0
	e = engineOf(t, Options{Models: []Model{{Name: "fake", Open: func() (*generate.Model, error) {
		if opens++; opens == 1 {
			panic("another bug")
		}
		return fake{}.open(t)
	}}}})
	require.ErrorAs(t, read(ctx, e, Request{}).err, &bug)
	require.NoError(t, read(ctx, e, Request{}).err)
}

// Each accepted request is observed once, with its times.
func TestObserve(t *testing.T) {
	seen := make(chan Observation, 10)
	g := newGate()
	e := engineOf(t, Options{Models: []Model{fake{before: g.wait}.with(t)}, Observe: func(o Observation) { seen <- o }})
	done := start(t, ctx, e, Request{N: 2})
	<-g.reached
	time.Sleep(2 * time.Millisecond)
	g.open()
	require.NoError(t, (<-done).err)
	o := <-seen
	require.Equal(t, Observation{Model: "fake", Images: 2, Batch: 2, Queued: o.Queued, Generating: o.Generating}, o)
	require.Positive(t, o.Queued)
	require.GreaterOrEqual(t, o.Generating, 2*time.Millisecond)
	require.Error(t, read(ctx, e, Request{Prompt: "cow"}).err)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.Error(t, read(gone, e, Request{}).err)
	require.True(t, errors.Is((<-seen).Err, context.Canceled))
	require.Empty(t, seen)
}

func countGoroutines() int {
	runtime.GC()
	return runtime.NumGoroutine()
}

// A client that fills the queue gives way to others, with its last request, until they have as many.
func TestFullQueue(t *testing.T) {
	g := newGate()
	e := engineOf(t, Options{Models: []Model{fake{before: g.wait}.with(t)}, Queue: 4, Batch: 1})
	defer g.open()
	first := start(t, ctx, e, Request{Client: "many"})
	<-g.reached
	var many []<-chan result
	for range 4 {
		many = append(many, start(t, ctx, e, Request{Client: "many"}))
	}
	one, two := start(t, ctx, e, Request{Client: "one"}), start(t, ctx, e, Request{Client: "one"})
	require.Equal(t, ErrFull, (<-many[3]).err)
	require.Equal(t, ErrFull, (<-many[2]).err)
	require.Equal(t, ErrFull, read(ctx, e, Request{Client: "one"}).err)
	require.Equal(t, 3, e.Status().Refused)
	g.open()
	for _, done := range append(many[:2:2], first, one, two) {
		require.NoError(t, (<-done).err)
	}
}
