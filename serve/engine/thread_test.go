package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// All images are computed on one thread: each further one would keep a team of workers and memory of its own. The thread ends with the engine.
func TestOneThread(t *testing.T) {
	var mu sync.Mutex
	threads := map[int]int{} // how often
	e, err := New(Options{Queue: 100, Models: []Model{fake{before: func(int) {
		mu.Lock()
		defer mu.Unlock()
		threads[syscall.Gettid()]++
	}}.with(t)}})
	require.NoError(t, err)
	var all sync.WaitGroup
	for client := range 20 {
		all.Go(func() {
			for n := range 10 {
				if err := read(ctx, e, Request{Client: fmt.Sprint(client), N: 1, Steps: 1 + n%3}).err; err != nil {
					t.Error(err)
				}
				spin := time.Now() // so that the scheduler moves goroutines between threads
				for time.Since(spin) < 100*time.Microsecond {
					runtime.Gosched()
				}
			}
		})
	}
	all.Wait()
	require.Len(t, threads, 1, "requests by thread: %v", threads)
	require.NoError(t, e.Close())
	for id := range threads {
		eventually(t, func() bool {
			_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", id))
			return errors.Is(err, fs.ErrNotExist)
		})
	}
}
