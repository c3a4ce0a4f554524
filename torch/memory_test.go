package torch_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

func memory(t *testing.T) torch.MemoryStats {
	t.Helper()
	m, err := torch.CPU.Memory()
	require.NoError(t, err)
	return m
}

const mib = 1 << 20

func TestMemoryOfTheCPU(t *testing.T) {
	before := memory(t)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		torch.Zeros(s, torch.Uint8, 100*mib)
		m := memory(t)
		require.InDelta(t, before.Allocated+100*mib, m.Allocated, 8192)
		require.GreaterOrEqual(t, m.PeakAllocated, m.Allocated)
		require.GreaterOrEqual(t, m.Reserved, m.Allocated)
		require.Less(t, m.Free, m.Total)
		return nil
	}))
	after := memory(t)
	require.Equal(t, before.Allocated, after.Allocated)
	require.GreaterOrEqual(t, after.PeakAllocated, before.Allocated+100*mib)
}

// Freed memory is used again, joined with its neighbours, and goes back to the system when asked.
func TestMemoryIsUsedAgain(t *testing.T) {
	require.NoError(t, torch.EmptyCache())
	before := memory(t)
	_, start := resident(t)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for range 50 {
			var pieces []*torch.Tensor
			for range 16 {
				pieces = append(pieces, torch.Ones(s, torch.Uint8, 4*mib))
			}
			for i := range pieces { // the odd ones first: no two neighbours at a time
				pieces[(2*i+1)%17].Free()
			}
			torch.Ones(s, torch.Uint8, 60*mib).Free() // fits where they were
		}
		return nil
	}))
	m := memory(t)
	require.Less(t, m.Reserved-before.Reserved, int64(70*mib))
	_, kept := resident(t)
	require.Greater(t, kept-start, 50*mib, "kept for use again")
	require.NoError(t, torch.EmptyCache())
	_, end := resident(t)
	require.Less(t, end-start, 16*mib)
}

// Many goroutines make and free tensors of many sizes, some of them on another thread, and no two share memory.
func TestMemoryIsNotShared(t *testing.T) {
	type filled struct {
		t     *torch.Tensor
		value int64
	}
	before := memory(t)
	root := torch.NewScope(torch.CPU)
	pass := make(chan filled, 64)
	check := func(f filled) bool {
		ok := false
		err := root.Run(func(s *torch.Scope) error {
			ok = f.t.EqScalar(s, float64(f.value)).All(s).Item() == 1
			return nil
		})
		f.t.Free()
		return err == nil && ok
	}
	var makers, checkers sync.WaitGroup
	wrong := make(chan int64, 1<<16)
	for g := range 8 {
		makers.Add(1)
		go func() {
			defer makers.Done()
			for i := range 200 {
				v := int64(1 + g*200 + i)
				n := []int{1, 8, 100, 1000, 4096, 4097, 20_000, 70_000}[(g+i)%8]
				f := filled{torch.Full(root, float64(v), torch.Int64, n), v}
				if i%3 == 0 {
					if !check(f) {
						wrong <- v
					}
				} else {
					pass <- f
				}
			}
		}()
	}
	for range 4 {
		checkers.Add(1)
		go func() {
			defer checkers.Done()
			for f := range pass {
				if !check(f) {
					wrong <- f.value
				}
			}
		}()
	}
	makers.Wait()
	close(pass)
	checkers.Wait()
	close(wrong)
	for v := range wrong {
		t.Errorf("the tensor filled with %d holds something else", v)
	}
	root.Close()
	require.Equal(t, before.Allocated, memory(t).Allocated)
}
