package torch_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// caught runs f in a scope and returns the error its panic became.
func caught(t *testing.T, f func(s *torch.Scope)) *torch.Error {
	t.Helper()
	err := torch.Run(torch.CPU, func(s *torch.Scope) error { f(s); return nil })
	var e *torch.Error
	require.ErrorAs(t, err, &e)
	return e
}

func TestScopesFree(t *testing.T) {
	before := torch.Live()
	var outside, kept *torch.Tensor
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		outside = torch.Ones(s, torch.Float32, 3)
		require.NoError(t, s.Run(func(s *torch.Scope) error {
			kept = s.Keep(torch.Ones(s, torch.Float32, 2))
			torch.Ones(s, torch.Float32, 100)
			return nil
		}))
		require.Equal(t, before+2, torch.Live())
		require.False(t, kept.Freed())
		got := s.Tidy(func(s *torch.Scope) *torch.Tensor {
			for range 100 {
				torch.Ones(s, torch.Float32, 2)
			}
			return outside.Add(s, outside)
		})
		require.Equal(t, before+3, torch.Live())
		require.Equal(t, 6.0, got.Sum(s).Item())
		require.Same(t, outside, s.Tidy(func(*torch.Scope) *torch.Tensor { return outside }), "a tensor of an outer scope passes through")
		require.Nil(t, s.Tidy(func(*torch.Scope) *torch.Tensor { return nil }))
		got.Free()
		got.Free()
		require.True(t, got.Freed())
		return nil
	}))
	require.Equal(t, before, torch.Live())
	require.True(t, kept.Freed())
	require.True(t, outside.Freed())

	s := torch.NewScope(torch.CPU)
	torch.Ones(s, torch.Float32, 2)
	s.Close()
	s.Close()
	require.Equal(t, before, torch.Live())
}

func TestErrorsFreeAndName(t *testing.T) {
	before := torch.Live()
	e := caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2, 3).Add(s, torch.Ones(s, torch.Float64, 4)) })
	require.Equal(t, "aten::add.Tensor", e.Op)
	require.Equal(t, "float32[2, 3], float64[4]", e.Shapes)
	require.ErrorContains(t, e, "must match")
	e = caught(t, func(s *torch.Scope) {
		torch.Ones(s, torch.Float32, 2, 3).MatMul(s, torch.Ones(s, torch.Int64, 3, 2))
	})
	require.Contains(t, e.Shapes, "int64[3, 2]")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Int64, 2).SetRequiresGrad(true) })
	require.ErrorContains(t, e, "int64[2]")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).View(s, 3) })
	require.ErrorContains(t, e, "view")
	e = caught(t, func(s *torch.Scope) { torch.Cat(s, []*torch.Tensor{torch.Ones(s, torch.Float32, 2), nil}, 0) })
	require.ErrorContains(t, e, "an operand is nil")
	e = caught(t, func(s *torch.Scope) { torch.FromSlice(s, []float32{1, 2}, 3) })
	require.ErrorContains(t, e, "holds 3 elements, the data has 2")
	e = caught(t, func(s *torch.Scope) { torch.FromSlice(s, []float32{1}, -1) })
	require.ErrorContains(t, e, "impossible shape")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Item() })
	require.ErrorContains(t, e, "one element")
	e = caught(t, func(s *torch.Scope) { torch.ToSlice[int64](torch.Ones(s, torch.Float32, 2)) })
	require.ErrorContains(t, e, "want a int64 tensor, got float32")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Dim(1) })
	require.ErrorContains(t, e, "no dimension 1")
	e = caught(t, func(s *torch.Scope) { torch.Empty(s, torch.Float32, 1<<40, 1<<10) })
	require.ErrorIs(t, e, torch.ErrOutOfMemory)
	require.Equal(t, before, torch.Live())
}

func TestUseAfterFree(t *testing.T) {
	var old *torch.Tensor
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		old = torch.Ones(s, torch.Float32, 2)
		return nil
	}))
	for name, f := range map[string]func(s *torch.Scope){
		"aten::add.Tensor": func(s *torch.Scope) { torch.Ones(s, torch.Float32, 2).Add(s, old) },
		"aten::exp":        func(s *torch.Scope) { old.Exp(s) },
		"aten::conv2d":     func(s *torch.Scope) { old.Conv2D(s, old, nil, torch.Conv2DOptions{}) },
		"aten::cat":        func(s *torch.Scope) { torch.Cat(s, []*torch.Tensor{old}, 0) },
		"shape":            func(*torch.Scope) { old.Shape() },
		"item":             func(*torch.Scope) { old.Item() },
		"to_slice":         func(*torch.Scope) { torch.ToSlice[float32](old) },
		"backward":         func(*torch.Scope) { old.Backward() },
		"grad":             func(s *torch.Scope) { old.Grad(s) },
		"keep":             func(s *torch.Scope) { s.Keep(old) },
		"share":            func(s *torch.Scope) { old.Share(s) },
	} {
		e := caught(t, f)
		require.Equal(t, name, e.Op)
		require.ErrorIs(t, e, torch.ErrFreed, name)
	}
	require.Equal(t, "torch.Tensor(freed)", old.String())

	closed := torch.NewScope(torch.CPU)
	closed.Close()
	e := caught(t, func(*torch.Scope) { torch.Ones(closed, torch.Float32, 2) })
	require.ErrorContains(t, e, "a scope that is closed")
	e = caught(t, func(*torch.Scope) { torch.NewGenerator(closed, 1) })
	require.ErrorContains(t, e, "a scope that is closed")
	var g *torch.Generator
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error { g = torch.NewGenerator(s, 1); return nil }))
	e = caught(t, func(s *torch.Scope) { torch.Randn(s, g, torch.Float32, 2) })
	require.ErrorContains(t, e, "the generator was freed")
	e = caught(t, func(s *torch.Scope) { s.Keep(torch.Ones(s, torch.Float32, 1)) })
	require.ErrorContains(t, e, "no parent")
}

// Panics that are not operators' pass through every scope, which free all the same.
func TestOtherPanicsPass(t *testing.T) {
	before := torch.Live()
	boom := errors.New("boom")
	require.PanicsWithError(t, "boom", func() {
		_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				s.Tidy(func(s *torch.Scope) *torch.Tensor {
					torch.Ones(s, torch.Float32, 5)
					panic(boom)
				})
				return nil
			})
		})
	})
	require.Equal(t, before, torch.Live())
	require.ErrorIs(t, torch.Run(torch.CPU, func(*torch.Scope) error { return boom }), boom)
}

func TestDTypes(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.Equal(t, []float64{1, 2}, torch.ToSlice[float64](torch.FromSlice(s, []float64{1, 2})))
		require.Equal(t, []int64{-1, 2}, torch.ToSlice[int64](torch.FromSlice(s, []int64{-1, 2}, 2, 1)))
		require.Equal(t, []int32{-1, 2}, torch.ToSlice[int32](torch.FromSlice(s, []int32{-1, 2})))
		require.Equal(t, []uint8{255}, torch.ToSlice[uint8](torch.Scalar(s, uint8(255))))
		require.Equal(t, []bool{true, false}, torch.ToSlice[bool](torch.FromSlice(s, []bool{true, false})))
		require.Empty(t, torch.ToSlice[float32](torch.FromSlice(s, []float32{}, 0, 3)))
		x := torch.FromSlice(s, []float32{1, 2, 3, 4, 5, 6}, 2, 3)
		require.Equal(t, []float32{1, 4, 2, 5, 3, 6}, torch.ToSlice[float32](x.Transpose(s, 0, 1)), "in the order of indices")
		require.Equal(t, []int{1, 3}, x.Transpose(s, 0, 1).Strides())
		for d := torch.Float32; d <= torch.Bool; d++ {
			y := torch.Ones(s, d, 3)
			require.Equal(t, d, y.DType())
			require.Len(t, y.Bytes(), 3*d.Size())
			require.Equal(t, 1.0, y.Select(s, 0, 0).Item())
			back, err := torch.ParseDType(d.String())
			require.NoError(t, err)
			require.Equal(t, d, back)
			require.Equal(t, y.Bytes(), torch.FromBytes(s, y.Bytes(), d, 3).Bytes())
		}
		return nil
	}))
	_, err := torch.ParseDType("float8")
	require.ErrorContains(t, err, "unknown dtype")
}

func TestDevices(t *testing.T) {
	for name, want := range map[string]torch.Device{"cpu": torch.CPU, "cuda": torch.CUDA(0), "cuda:3": torch.CUDA(3)} {
		d, err := torch.ParseDevice(name)
		require.NoError(t, err)
		require.Equal(t, want, d)
	}
	for _, name := range []string{"", "tpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1000"} {
		_, err := torch.ParseDevice(name)
		require.ErrorContains(t, err, "unknown device", name)
	}
	require.NoError(t, torch.CPU.Available())
	if ok, reason := torch.CUDAOpened(); !ok {
		require.NotEmpty(t, reason)
		err := torch.Run(torch.CUDA(0), func(*torch.Scope) error { return nil })
		require.ErrorContains(t, err, reason, "the loader's own words")
	}
	require.Error(t, torch.CUDA(100).Available())
	require.Error(t, torch.SetThreads(0))
}

func TestCUDA(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	e := func() *torch.Error {
		err := torch.Run(torch.CUDA(0), func(s *torch.Scope) error {
			x := torch.FromSlice(s, []float32{1, 2, 3})
			require.Equal(t, torch.CUDA(0), x.Device())
			require.Equal(t, []float32{2, 4, 6}, torch.ToSlice[float32](x.Add(s, x)))
			a := torch.Randn(s, torch.NewGeneratorOn(s, torch.CPU, 5), torch.Float32, 20)
			require.NoError(t, torch.Run(torch.CPU, func(c *torch.Scope) error {
				require.Equal(t, torch.ToSlice[float32](torch.Randn(c, torch.NewGenerator(c, 5), torch.Float32, 20)), torch.ToSlice[float32](a))
				return nil
			}))
			require.NoError(t, torch.CUDA(0).Synchronize())
			m, err := torch.CUDA(0).Memory()
			require.NoError(t, err)
			require.Positive(t, m.Allocated)
			x.Add(s, x.ToDevice(s, torch.CPU))
			return nil
		})
		var e *torch.Error
		require.ErrorAs(t, err, &e)
		return e
	}()
	require.Contains(t, e.Shapes, "on cuda:0")
	require.NoError(t, torch.EmptyCache())
}

// 64 goroutines at once: shared tensors are read, each has its own scopes, errors come back from the call that raised
// them, and grad modes stay where they belong, although goroutines move between threads.
func TestGoroutines(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := torch.Ones(s, torch.Float32, 8, 8)
		w.SetRequiresGrad(true)
		var wg sync.WaitGroup
		wrong := make(chan string, 64)
		for g := range 64 {
			wg.Go(func() {
				sc := torch.NewScope(torch.CPU)
				defer sc.Close()
				for i := range 50 {
					err := sc.Run(func(s *torch.Scope) error {
						x := torch.Full(s, float64(g), torch.Float32, 8, 8)
						grad := (g+i)%2 == 0
						var y *torch.Tensor
						if grad {
							y = x.MatMul(s, w)
						} else {
							y = s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return x.MatMul(s, w) })
						}
						if y.RequiresGrad() != grad {
							wrong <- "a grad mode of another goroutine"
						}
						if y.Sum(s).Item() != float64(8*8*8*g) {
							wrong <- "a wrong sum"
						}
						if i%5 == 0 {
							x.Add(s, torch.Ones(s, torch.Float32, g+9))
						}
						return nil
					})
					if (err != nil) != (i%5 == 0) {
						wrong <- "an error lost or misattributed"
					}
				}
			})
		}
		wg.Wait()
		close(wrong)
		for msg := range wrong {
			t.Error(msg)
		}
		return nil
	}))
}

// One scope that many goroutines make tensors in.
func TestSharedScope(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for i := range 100 {
					x := torch.Ones(s, torch.Float32, 4)
					if i%2 == 0 {
						x.Free()
					}
				}
			})
		}
		wg.Wait()
		return nil
	}))
}

// The number of threads holds on whatever thread a goroutine runs, also ones that libtorch has seen before the change.
func TestThreadsAreProcessWide(t *testing.T) {
	defer func() { require.NoError(t, torch.SetThreads(1)) }()
	for _, n := range []int{3, 1, 2} {
		require.NoError(t, torch.SetThreads(n))
		var wg sync.WaitGroup
		got := make(chan int, 32)
		for range 32 {
			wg.Go(func() {
				_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
					torch.Ones(s, torch.Float32, 64, 64).MatMul(s, torch.Ones(s, torch.Float32, 64, 64))
					got <- torch.Threads()
					return nil
				})
			})
		}
		wg.Wait()
		close(got)
		for v := range got {
			require.Equal(t, n, v)
		}
	}
}
