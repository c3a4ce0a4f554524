// Package ahead makes things in the background, in order, a few of them before they are wanted.
package ahead

import (
	"context"
	"iter"
	"runtime"
	"sync"
)

// All yields things 0, 1, 2 and so on without end. Thing n is made by a call of fill, in one of several goroutines at once, in the value
// of an earlier one that is no longer used. A value is valid until the next one is requested. An error, including the context's, ends the
// sequence. When the loop ends, no goroutine is left. workers 0 are one per processor, at most 8.
func All[T any](ctx context.Context, workers int, fill func(ctx context.Context, n int64, into *T) error) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		if workers < 1 {
			workers = min(runtime.GOMAXPROCS(0), 8)
		}
		// Thing n is made in slot n mod len(slots). The consumer holds one slot and each worker one; two more are ready.
		slots := make([]*slot[T], workers+3)
		jobs := make(chan job[T], len(slots))
		work, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer close(jobs)
		defer stop()
		for range workers {
			wg.Go(func() {
				for j := range jobs {
					if j.err = work.Err(); j.err == nil {
						j.err = fill(work, j.n, &j.value)
					}
					j.done <- struct{}{}
				}
			})
		}
		next := int64(0)
		enqueue := func(s *slot[T]) {
			jobs <- job[T]{s, next}
			next++
		}
		for i := range slots {
			slots[i] = &slot[T]{done: make(chan struct{}, 1)}
			enqueue(slots[i])
		}
		for n := 0; ; n++ {
			s := slots[n%len(slots)]
			select {
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			case <-s.done:
			}
			if s.err != nil {
				yield(nil, s.err)
				return
			}
			if !yield(&s.value, nil) {
				return
			}
			enqueue(s)
		}
	}
}

// slot holds a thing while it is made and used.
type slot[T any] struct {
	value T
	err   error
	done  chan struct{}
}

type job[T any] struct {
	*slot[T]
	n int64
}
