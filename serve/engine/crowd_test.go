package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// A hundred clients at once, of which some go, come too late or ask for what is not there: each request that was accepted ends exactly once,
// and afterwards nothing is left of them.
func TestCrowd(t *testing.T) {
	goroutines, tensors := countGoroutines(), torch.Live()
	var accepted, observed, left atomic.Int64
	models, counts := several(t, 3, fake{before: func(int) { time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond) }})
	e, err := New(Options{Models: models, Memory: 250, Queue: 40, Observe: func(Observation) { observed.Add(1) }})
	require.NoError(t, err)
	var all sync.WaitGroup
	var ends [5]atomic.Int64
	for client := range 100 {
		all.Go(func() {
			dice := rand.New(rand.NewPCG(1, uint64(client)))
			for range 12 {
				r := Request{
					Model: fmt.Sprint(dice.IntN(3)), Client: fmt.Sprint(client % 40), N: 1 + dice.IntN(5), Steps: 1 + dice.IntN(3), Previews: dice.IntN(2),
				}
				own, cancel := context.WithCancel(ctx)
				switch dice.IntN(6) {
				case 0:
					time.AfterFunc(time.Duration(dice.IntN(20))*time.Millisecond, cancel)
				case 1:
					r.Deadline = time.Duration(dice.IntN(20))*time.Millisecond + 1
				case 2:
					r.Prompt = "cow"
				}
				var got result
				if dice.IntN(8) == 0 { // leave at the first event
					for _, err := range e.Images(own, r) {
						if got.err = err; err == nil {
							got.err = context.Canceled
							left.Add(1)
						}
						break
					}
				} else {
					got = read(own, e, r)
				}
				cancel()
				switch refused := (*RequestError)(nil); {
				case got.err == nil:
					ends[0].Add(1)
					if len(got.images) != r.N {
						t.Errorf("got %d images, want %d", len(got.images), r.N)
					}
				case errors.Is(got.err, ErrFull):
					ends[1].Add(1)
					continue
				case errors.As(got.err, &refused):
					ends[2].Add(1)
					continue // before or after it was accepted
				case errors.Is(got.err, context.Canceled):
					ends[3].Add(1)
				case errors.Is(got.err, context.DeadlineExceeded):
					ends[4].Add(1)
				default:
					t.Error(got.err)
				}
				accepted.Add(1)
			}
		})
	}
	all.Wait()
	st := e.Status()
	require.Zero(t, st.Waiting+st.Running)
	ended := int64(st.Done + st.Failed + st.Cancelled)
	require.GreaterOrEqual(t, observed.Load(), ended)
	require.LessOrEqual(t, observed.Load(), ended+int64(st.Refused)) // some gave way to others
	require.GreaterOrEqual(t, observed.Load(), accepted.Load())
	require.LessOrEqual(t, observed.Load(), accepted.Load()+ends[1].Load()+ends[2].Load())
	require.GreaterOrEqual(t, int64(st.Refused), ends[1].Load())
	require.LessOrEqual(t, int64(st.Refused), ends[1].Load()+left.Load()) // a client that leaves does not see that it gave way just then
	for i := range ends {
		require.Positive(t, ends[i].Load(), "kind %d of end did not occur", i)
	}
	for _, c := range counts {
		require.LessOrEqual(t, c.most.Load(), int32(1))
	}
	require.NoError(t, e.Drain(ctx))
	require.NoError(t, e.Close())
	eventually(t, func() bool { return torch.Live() == tensors })
	eventually(t, func() bool { return countGoroutines() <= goroutines })
}
