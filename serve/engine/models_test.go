package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/sampling/generate"
)

// several returns fakes of 100 bytes each, with counters.
func several(t *testing.T, n int, f fake) ([]Model, []*opener) {
	var models []Model
	var counts []*opener
	for i := range n {
		count := &opener{}
		counts = append(counts, count)
		models = append(models, Model{Name: fmt.Sprint(i), Bytes: 100, Open: func() (*generate.Model, error) {
			m, err := f.open(t)
			if err == nil {
				count.count(m)
			}
			return m, err
		}})
	}
	return models, counts
}

// Models are opened when they are asked for, once, and the least recently used are closed for others when memory is short.
func TestModels(t *testing.T) {
	models, counts := several(t, 3, fake{})
	e := engineOf(t, Options{Models: models, Memory: 250})
	ask := func(names ...string) {
		t.Helper()
		for _, name := range names {
			got := read(ctx, e, Request{Model: name})
			require.NoError(t, got.err)
			require.Equal(t, name, got.as.Model)
		}
	}
	opens := func() (out []int) {
		for _, c := range counts {
			out = append(out, int(c.opens.Load()))
		}
		return out
	}
	ask("0", "1", "0", "1", "0")
	require.Equal(t, []int{1, 1, 0}, opens())
	require.Equal(t, int64(200), e.Status().Bytes)
	ask("2") // in place of 1
	require.Equal(t, []string{"0", "2"}, e.Status().Open)
	require.Equal(t, int32(1), counts[1].closes.Load())
	ask("0", "1") // in place of 2
	require.Equal(t, []int{1, 2, 1}, opens())
	require.Equal(t, []string{"0", "1"}, e.Status().Open)
	require.NotEmpty(t, e.Models()[2].Classes, "what is known of a model stays known")

	// Many that ask for the same at once.
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			for k := range 3 {
				if got := read(ctx, e, Request{Model: fmt.Sprint((i + k) % 3), Client: fmt.Sprint(i)}); got.err != nil {
					t.Error(got.err)
				}
			}
		})
	}
	all.Wait()
	for _, c := range counts {
		require.LessOrEqual(t, c.most.Load(), int32(1))
	}
	require.LessOrEqual(t, e.Status().Bytes, int64(250))

	// A model that is larger than the limit is opened alone.
	models[0].Bytes = 1000
	models[1].Bytes = 1000
	e = engineOf(t, Options{Models: models, Memory: 250})
	ask("2", "0", "1", "2")
	require.Equal(t, []string{"2"}, e.Status().Open)
}

// A model can be opened ahead of requests.
func TestLoad(t *testing.T) {
	models, counts := several(t, 2, fake{})
	broken := errors.New("broken")
	models = append(models, Model{Name: "broken", Open: func() (*generate.Model, error) { return nil, broken }})
	seen := 0
	e := engineOf(t, Options{Models: models, Memory: 150, Observe: func(Observation) { seen++ }})
	require.NoError(t, e.Load(ctx, ""))
	require.NoError(t, e.Load(ctx, "0"))
	require.Equal(t, int32(1), counts[0].opens.Load())
	require.True(t, e.Models()[0].Loaded)
	require.NotEmpty(t, e.Models()[0].Classes)
	require.NoError(t, e.Load(ctx, "1"))
	require.Equal(t, []string{"1"}, e.Status().Open)
	require.ErrorIs(t, e.Load(ctx, "broken"), broken)
	require.ErrorAs(t, e.Load(ctx, "none"), new(*RequestError))
	st := e.Status()
	require.Zero(t, st.Done+st.Failed+st.Cancelled+seen)
	require.NoError(t, e.Close())
	require.ErrorIs(t, e.Load(ctx, ""), ErrClosed)
}

// A model that is loaded ahead takes no place in the queue.
func TestLoadIsNoRequest(t *testing.T) {
	g := newGate()
	models, _ := several(t, 1, fake{})
	slow := models[0].Open
	models[0].Open = func() (*generate.Model, error) { g.wait(0); return slow() }
	e := engineOf(t, Options{Models: models, Queue: 1})
	defer g.open()
	loaded := make(chan error, 1)
	go func() { loaded <- e.Load(ctx, "") }()
	<-g.reached
	require.Zero(t, e.Status().Waiting)
	done := start(t, ctx, e, Request{})
	require.Equal(t, 1, e.Status().Waiting)
	require.ErrorIs(t, read(ctx, e, Request{}).err, ErrFull)
	g.open()
	require.NoError(t, <-loaded)
	got := <-done
	require.NoError(t, got.err)
	for _, ev := range got.events {
		require.Zero(t, ev.Queued, "no request was before it")
	}
}

// Two models that do not fit together are not opened anew for each request.
func TestModelsTakeTurns(t *testing.T) {
	g := newGate()
	models, counts := several(t, 2, fake{before: g.wait})
	e := engineOf(t, Options{Models: models, Memory: 100, Batch: 1})
	defer g.open()
	all := []<-chan result{start(t, ctx, e, Request{Model: "0"})}
	<-g.reached
	for i := range 40 {
		all = append(all, start(t, ctx, e, Request{Model: fmt.Sprint(i % 2), Client: fmt.Sprint(i)}))
	}
	g.open()
	for _, done := range all {
		require.NoError(t, (<-done).err)
	}
	require.LessOrEqual(t, counts[0].opens.Load()+counts[1].opens.Load(), int32(2*(20/patience+1)))
}

// A model that cannot be opened answers those that wait for it, and is tried again; others are served meanwhile.
func TestModelFails(t *testing.T) {
	works := false
	enter, leave := make(chan bool, 10), make(chan bool)
	broken := errors.New("broken")
	models, _ := several(t, 1, fake{})
	models = append(models, Model{Name: "slow", Open: func() (*generate.Model, error) {
		enter <- true
		<-leave
		if !works {
			return nil, broken
		}
		return fake{}.open(t)
	}})
	e := engineOf(t, Options{Models: models})
	first := start(t, ctx, e, Request{Model: "slow"})
	<-enter
	second := start(t, ctx, e, Request{Model: "slow", Prompt: "cow"})
	gone, cancel := context.WithCancel(ctx)
	third := start(t, gone, e, Request{Model: "slow"})
	require.NoError(t, read(ctx, e, Request{Model: "0"}).err, "while another model is opened")
	cancel()
	require.ErrorIs(t, (<-third).err, context.Canceled, "while its model is opened")
	leave <- true
	for _, done := range []<-chan result{first, second} {
		err := (<-done).err
		require.ErrorIs(t, err, broken)
		require.ErrorContains(t, err, "slow")
	}
	works = true
	first = start(t, ctx, e, Request{Model: "slow"})
	second = start(t, ctx, e, Request{Model: "slow", Prompt: "cow"})
	leave <- true
	require.NoError(t, (<-first).err)
	var refused *RequestError
	require.ErrorAs(t, (<-second).err, &refused)
	require.Len(t, enter, 1, "it was opened twice in all")
}

// A model whose files have changed is opened anew before it is used again; the request that finds it so is served.
func TestChangedFiles(t *testing.T) {
	models, counts := several(t, 1, fake{})
	var changed atomic.Bool
	open := models[0].Open
	models[0].Open = func() (*generate.Model, error) { changed.Store(false); return open() }
	models[0].Changed = changed.Load
	e := engineOf(t, Options{Models: models})
	for i := range 3 {
		require.NoError(t, read(ctx, e, Request{}).err)
		require.Equal(t, []int32{int32(1 + i), int32(i)}, []int32{counts[0].opens.Load(), counts[0].closes.Load()})
		changed.Store(true)
	}
}
