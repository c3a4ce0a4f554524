package torch_test

import (
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

func leaf(s *torch.Scope, v []float64, shape ...int) *torch.Tensor {
	x := torch.FromSlice(s, v, shape...)
	x.SetRequiresGrad(true)
	return x
}

func TestBackward(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, y := leaf(s, []float64{1, 2}), leaf(s, []float64{3, 5})
		require.Nil(t, x.Grad(s))
		require.False(t, x.HasGrad())
		z := x.Square(s).Mul(s, y).Sum(s)
		z.Backward()
		require.Equal(t, []float64{6, 20}, torch.ToSlice[float64](x.Grad(s)))
		x.Square(s).Sum(s).Backward()
		require.Equal(t, []float64{8, 24}, torch.ToSlice[float64](x.Grad(s)), "gradients add up")
		x.ZeroGrad()
		require.False(t, x.HasGrad())

		torch.Backward([]*torch.Tensor{x.Mul(s, y)}, torch.BackwardOptions{Grads: []*torch.Tensor{torch.FromSlice(s, []float64{1, 10})}, Inputs: []*torch.Tensor{x}})
		require.Equal(t, []float64{3, 50}, torch.ToSlice[float64](x.Grad(s)))
		require.Equal(t, []float64{1, 4}, torch.ToSlice[float64](y.Grad(s)), "only chosen leaves collect")

		// d²(x³)/dx² = 6x
		cube := x.PowScalar(s, 3).Sum(s)
		first := torch.Grad(s, []*torch.Tensor{cube}, []*torch.Tensor{x}, torch.BackwardOptions{CreateGraph: true})[0]
		second := torch.Grad(s, []*torch.Tensor{first.Sum(s)}, []*torch.Tensor{x}, torch.BackwardOptions{})[0]
		require.Equal(t, []float64{6, 12}, torch.ToSlice[float64](second))

		unused := torch.Grad(s, []*torch.Tensor{x.Sum(s)}, []*torch.Tensor{x, y}, torch.BackwardOptions{AllowUnused: true})
		require.NotNil(t, unused[0])
		require.Nil(t, unused[1])

		// Handles may go: the graph holds what it needs. Results of operators collect nothing.
		x.ZeroGrad()
		middle := x.Square(s)
		end := middle.Square(s).Sum(s)
		middle.Free()
		require.Nil(t, x.Neg(s).Grad(s))
		require.NoError(t, s.NoGrad(func(*torch.Scope) error { end.Backward(); return nil }), "a pass is the same in any scope")
		require.Equal(t, []float64{4, 32}, torch.ToSlice[float64](x.Grad(s)))

		twice := x.Square(s).Sum(s)
		torch.Backward([]*torch.Tensor{twice}, torch.BackwardOptions{RetainGraph: true})
		twice.Backward()
		return nil
	}))
	e := caught(t, func(s *torch.Scope) { x := leaf(s, []float64{1}).Square(s); x.Backward(); x.Backward() })
	require.ErrorContains(t, e, "second time")
	e = caught(t, func(s *torch.Scope) { leaf(s, []float64{1, 2}).Square(s).Backward() })
	require.ErrorContains(t, e, "scalar outputs")
	e = caught(t, func(s *torch.Scope) { y := leaf(s, []float64{1}).Exp(s); z := y.Exp(s); y.ZeroInPlace(s); z.Backward() })
	require.ErrorContains(t, e, "modified by an inplace operation")
	e = caught(t, func(s *torch.Scope) {
		x, y := leaf(s, []float64{1}), leaf(s, []float64{1})
		torch.Grad(s, tensorList{x.Exp(s)}, tensorList{y}, torch.BackwardOptions{})
	})
	require.ErrorContains(t, e, "not have been used in the graph")
	require.Equal(t, "float64[1], float64[1]", e.Shapes)
	require.ErrorContains(t, caught(t, func(*torch.Scope) { torch.Backward(nil, torch.BackwardOptions{}) }), "at least one output")
	require.ErrorContains(t, caught(t, func(s *torch.Scope) { torch.Grad(s, nil, nil, torch.BackwardOptions{}) }), "at least one output")
	e = caught(t, func(s *torch.Scope) { torch.Ones(s, torch.Float32).Backward() })
	require.ErrorContains(t, e, "does not require grad")
	e = caught(t, func(s *torch.Scope) {
		torch.Backward([]*torch.Tensor{leaf(s, []float64{1})}, torch.BackwardOptions{Grads: []*torch.Tensor{}})
	})
	require.ErrorContains(t, e, "0 gradients for 1 outputs")
}

func TestModes(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := leaf(s, []float64{2})
		require.True(t, s.GradEnabled())
		require.True(t, x.Square(s).RequiresGrad())
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			require.False(t, s.GradEnabled())
			require.False(t, x.Square(s).RequiresGrad())
			return s.Run(func(s *torch.Scope) error {
				require.False(t, x.Square(s).RequiresGrad(), "children inherit the mode")
				x.AddScalarInPlace(s, 1) // a leaf may change where nothing is recorded
				return nil
			})
		}))
		require.NoError(t, s.Inference(func(s *torch.Scope) error {
			require.False(t, x.Square(s).RequiresGrad())
			return nil
		}))
		require.True(t, x.Square(s).RequiresGrad(), "and the mode ends with the scope")
		require.False(t, x.Detach(s).RequiresGrad())
		return nil
	}))
}

// Gradients of layers against central differences in float64: h² and rounding leave about 1e-8.
func TestGradientsAgainstDifferences(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 3)
		random := func(shape ...int) *torch.Tensor { return torch.Randn(s, g, torch.Float64, shape...) }
		w, b, gn := random(4, 4, 3, 3), random(4), random(4)
		for name, f := range map[string]func(s *torch.Scope, x *torch.Tensor) *torch.Tensor{
			"conv": func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				return x.Conv2D(s, w, b, torch.Conv2DOptions{Padding: 1, Stride: 2})
			},
			"group norm, silu": func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return x.GroupNorm(s, 2, gn, b, 1e-5).SiLU(s) },
			"attention": func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				q := x.Flatten(s, 2, 3).Unsqueeze(s, 1)
				return torch.Attention(s, q, q, q, torch.AttentionOptions{})
			},
			"pool, up": func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				return x.AvgPool2D(s, 2).UpsampleNearest(s, 2).Square(s)
			},
		} {
			x := random(1, 4, 4, 4)
			x.SetRequiresGrad(true)
			value := func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				y := f(s, x)
				return y.Mul(s, torch.Arange(s, y.NumEl(), torch.Float64).Sin(s).Reshape(s, y.Shape()...)).Sum(s)
			}
			value(s, x).Backward()
			got := torch.ToSlice[float64](x.Grad(s))
			at := torch.ToSlice[float64](x.Detach(s))
			const h = 1e-5
			for _, i := range []int{0, 7, 31, 63} {
				moved := func(d float64) float64 {
					v := append([]float64{}, at...)
					v[i] += d
					return value(s, torch.FromSlice(s, v, 1, 4, 4, 4)).Item()
				}
				require.InDelta(t, (moved(h)-moved(-h))/(2*h), got[i], 1e-7, "%s, element %d", name, i)
			}
		}
		return nil
	}))
}

func TestCheckpoint(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x, w := leaf(s, []float64{1, 2, 3}), leaf(s, []float64{4, 5, 6})
		runs := 0
		f := func(s *torch.Scope, in []*torch.Tensor) []*torch.Tensor {
			runs++
			h := in[0].Mul(s, w).Sin(s)
			return []*torch.Tensor{h.Square(s), h.Exp(s)}
		}
		grads := func(checkpointed bool) (gx, gw []float64, value float64) {
			x.ZeroGrad()
			w.ZeroGrad()
			in := x.MulScalar(s, 2) // an input that is itself recorded
			var out []*torch.Tensor
			if checkpointed {
				out = torch.Checkpoint(s, f, in)
			} else {
				out = f(s, []*torch.Tensor{in})
			}
			loss := out[0].Mul(s, out[1]).Sum(s).Add(s, in.Sum(s)) // the input is used outside too
			value = loss.Item()
			loss.Backward()
			return torch.ToSlice[float64](x.Grad(s)), torch.ToSlice[float64](w.Grad(s)), value
		}
		gx, gw, v := grads(false)
		runs = 0
		cx, cw, cv := grads(true)
		require.Equal(t, 2, runs, "once forward, once backward")
		require.Equal(t, v, cv)
		require.Equal(t, gx, cx)
		require.Equal(t, gw, cw, "parameters that the function captures get theirs too")

		// One of two outputs used; nested checkpoints; nothing recorded without gradients.
		y := torch.Checkpoint(s, f, x)
		y[1].Sum(s).Backward()
		nested := torch.Checkpoint(s, func(s *torch.Scope, in []*torch.Tensor) []*torch.Tensor { return torch.Checkpoint(s, f, in...) }, x)
		nested[0].Sum(s).Backward()
		return s.NoGrad(func(s *torch.Scope) error {
			require.False(t, torch.Checkpoint(s, f, x)[0].RequiresGrad())
			return nil
		})
	}))
	// Errors of the second run come back from backward.
	n := 0
	e := caught(t, func(s *torch.Scope) {
		x := leaf(s, []float64{1})
		torch.Checkpoint(s, func(s *torch.Scope, in []*torch.Tensor) []*torch.Tensor {
			if n++; n == 2 {
				in[0].View(s, 7)
			}
			return []*torch.Tensor{in[0].Square(s)}
		}, x)[0].Backward()
	})
	require.ErrorContains(t, e, "checkpoint: view")
	n = 0
	e = caught(t, func(s *torch.Scope) {
		torch.Checkpoint(s, func(s *torch.Scope, in []*torch.Tensor) []*torch.Tensor {
			if n++; n == 2 {
				panic(errors.New("not an operator's"))
			}
			return []*torch.Tensor{in[0].Square(s)}
		}, leaf(s, []float64{1}))[0].Backward()
	})
	require.ErrorContains(t, e, "not an operator's")
	e = caught(t, func(s *torch.Scope) {
		y := torch.Checkpoint(s, func(s *torch.Scope, in []*torch.Tensor) []*torch.Tensor { return []*torch.Tensor{in[0].Square(s)} }, leaf(s, []float64{1}))[0]
		y.Backward()
		y.Backward()
	})
	require.ErrorContains(t, e, "second time")
}

type tensorList = []*torch.Tensor

func TestCheckpointLimits(t *testing.T) {
	square := func(s *torch.Scope, in tensorList) tensorList { return tensorList{in[0].Square(s)} }
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := leaf(s, []float64{1, 3, 2})
		// Outputs that carry no gradients, before, between and after those that do.
		out := torch.Checkpoint(s, func(s *torch.Scope, in tensorList) tensorList {
			return tensorList{in[0].ArgMax(s, 0), in[0].Square(s), in[0].GtScalar(s, 1), in[0].MulScalar(s, 3)}
		}, x)
		require.Equal(t, 1, out[0].Int())
		require.Equal(t, []bool{false, true, true}, torch.ToSlice[bool](out[2]))
		require.Equal(t, []bool{false, true, false, true}, []bool{out[0].RequiresGrad(), out[1].RequiresGrad(), out[2].RequiresGrad(), out[3].RequiresGrad()})
		out[3].Sum(s).Backward()
		require.Equal(t, []float64{3, 3, 3}, torch.ToSlice[float64](x.Grad(s)))

		// An input that passes through, and a view of it.
		x.ZeroGrad()
		out = torch.Checkpoint(s, func(s *torch.Scope, in tensorList) tensorList { return tensorList{in[0], in[0].View(s, 3, 1)} }, x)
		out[0].Mul(s, out[1].View(s, 3)).Sum(s).Backward()
		require.Equal(t, []float64{2, 6, 4}, torch.ToSlice[float64](x.Grad(s)))

		// A kept graph runs the function again for each pass; the input's handle may go before.
		x.ZeroGrad()
		y := x.MulScalar(s, 2)
		loss := torch.Checkpoint(s, square, y)[0].Sum(s)
		y.Free()
		torch.Backward(tensorList{loss}, torch.BackwardOptions{RetainGraph: true})
		loss.Backward()
		require.Equal(t, []float64{16, 48, 32}, torch.ToSlice[float64](x.Grad(s)))

		// Many in a row, and many inside each other.
		x.ZeroGrad()
		y = x
		for range 100 {
			y = torch.Checkpoint(s, func(s *torch.Scope, in tensorList) tensorList { return tensorList{in[0].AddScalar(s, 1)} }, y)[0]
		}
		var nested func(n int) func(*torch.Scope, tensorList) tensorList
		nested = func(n int) func(*torch.Scope, tensorList) tensorList {
			return func(s *torch.Scope, in tensorList) tensorList {
				if n == 0 {
					return square(s, in)
				}
				return torch.Checkpoint(s, nested(n-1), in[0].MulScalar(s, 1))
			}
		}
		torch.Checkpoint(s, nested(6), y)[0].Sum(s).Backward()
		require.Equal(t, []float64{202, 206, 204}, torch.ToSlice[float64](x.Grad(s)))
		return nil
	}))

	for name, c := range map[string]struct {
		f    func(s *torch.Scope, x *torch.Tensor)
		want string
	}{
		"Grad": {func(s *torch.Scope, x *torch.Tensor) {
			torch.Grad(s, tensorList{torch.Checkpoint(s, square, x)[0].Sum(s)}, tensorList{x}, torch.BackwardOptions{})
		}, "a checkpoint gives gradients to all leaves only"},
		"Inputs": {func(s *torch.Scope, x *torch.Tensor) {
			torch.Backward(tensorList{torch.Checkpoint(s, square, x)[0].Sum(s)}, torch.BackwardOptions{Inputs: tensorList{x}})
		}, "a checkpoint gives gradients to all leaves only"},
		"CreateGraph": {func(s *torch.Scope, x *torch.Tensor) {
			torch.Backward(tensorList{torch.Checkpoint(s, square, x)[0].Sum(s)}, torch.BackwardOptions{CreateGraph: true})
		}, "no second derivatives"},
		"changed input": {func(s *torch.Scope, x *torch.Tensor) {
			y := x.MulScalar(s, 1)
			loss := torch.Checkpoint(s, square, y)[0].Sum(s)
			y.ZeroInPlace(s)
			loss.Backward()
		}, "modified by an inplace operation"},
		"nil output": {func(s *torch.Scope, x *torch.Tensor) {
			torch.Checkpoint(s, func(*torch.Scope, tensorList) tensorList { return tensorList{nil} }, x)
		}, "checkpoint: an operand is nil"},
		"first run": {func(s *torch.Scope, x *torch.Tensor) {
			torch.Checkpoint(s, func(s *torch.Scope, in tensorList) tensorList { return tensorList{in[0].View(s, 99)} }, x)
		}, "view: "},
		"other outputs": {func(s *torch.Scope, x *torch.Tensor) {
			n := 0
			torch.Checkpoint(s, func(s *torch.Scope, in tensorList) tensorList {
				n++
				return tensorList{in[0].Neg(s), in[0].Exp(s)}[:3-min(n, 2)-n/2]
			}, x)[0].Sum(s).Backward()
		}, "returned 2 outputs at first and 0 when run again"},
	} {
		e := caught(t, func(s *torch.Scope) { c.f(s, leaf(s, []float64{1, 2})) })
		require.ErrorContains(t, e, c.want, name)
	}

	// Memory that runs out in the second run is told as such; a fault of the program with the place where it happened.
	again := func(f func(s *torch.Scope)) *torch.Error {
		n := 0
		return caught(t, func(s *torch.Scope) {
			torch.Checkpoint(s, func(s *torch.Scope, in tensorList) tensorList {
				if n++; n == 2 {
					f(s)
				}
				return square(s, in)
			}, leaf(s, []float64{1}))[0].Backward()
		})
	}
	require.ErrorIs(t, again(func(s *torch.Scope) { torch.Empty(s, torch.Float32, 1<<40, 1<<10) }), torch.ErrOutOfMemory)
	e := again(func(*torch.Scope) { var none []int; _ = none[len(os.Args)] })
	require.ErrorContains(t, e, "index out of range")
	require.ErrorContains(t, e, "autograd_test.go:")
}

// What a checkpoint saves: six layers' results are not there between the passes.
func TestCheckpointSavesMemory(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		const layers, MiB = 6, 40
		x := torch.Zeros(s, torch.Float32, MiB<<20/4)
		x.SetRequiresGrad(true)
		f := func(s *torch.Scope, in tensorList) tensorList {
			y := in[0]
			for range layers {
				y = y.Sin(s)
			}
			return tensorList{y}
		}
		grown := func(forward func(s *torch.Scope) *torch.Tensor) (grown float64) {
			require.NoError(t, s.Run(func(s *torch.Scope) error {
				before := memory(t).Allocated
				y := s.Tidy(forward)
				grown = float64(memory(t).Allocated-before) / (1 << 20)
				y.Sum(s).Backward()
				require.Equal(t, 1.0, x.Grad(s).Select(s, 0, 0).Item())
				x.ZeroGrad()
				return nil
			}))
			return grown
		}
		with := grown(func(s *torch.Scope) *torch.Tensor { return torch.Checkpoint(s, f, x)[0] })
		without := grown(func(s *torch.Scope) *torch.Tensor { return f(s, tensorList{x})[0] })
		t.Logf("between the passes: %.0f MiB with a checkpoint, %.0f MiB without", with, without)
		require.Greater(t, without, 0.8*layers*MiB)
		require.Less(t, with, 2.0*MiB)
		return nil
	}))
}

// Goroutines that run backward into one parameter at once: no gradient is lost.
func TestGradientsFromGoroutines(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := leaf(s, []float64{1, 2})
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				err := torch.Run(torch.CPU, func(s *torch.Scope) error {
					for range 10 {
						f := func(s *torch.Scope, in tensorList) tensorList { return tensorList{in[0].Mul(s, w)} }
						x := torch.FromSlice(s, []float64{float64(g), 1})
						y := f(s, tensorList{x})
						if g%2 == 0 {
							y = torch.Checkpoint(s, f, x)
						}
						y[0].Sum(s).Backward()
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, []float64{10 * 32 * 31 / 2, 320}, torch.ToSlice[float64](w.Grad(s)))
		return nil
	}))
}

// Tensors of inference scopes can be read and copied, never recorded or changed outside.
func TestInferenceTensors(t *testing.T) {
	made := func(s *torch.Scope) (x *torch.Tensor) {
		require.NoError(t, s.Inference(func(s *torch.Scope) error {
			x = s.Keep(torch.FromSlice(s, []float64{1, 2}).AddScalar(s, 1))
			return nil
		}))
		return x
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := made(s)
		require.Equal(t, []float64{2, 3}, torch.ToSlice[float64](x))
		require.Equal(t, []float64{2, 3}, torch.ToSlice[float64](x.View(s, 1, 2)))
		require.Equal(t, 5.0, x.Sum(s).Item())
		require.Equal(t, "tensor([2., 3.], float64[2])", x.String())
		require.False(t, x.RequiresGrad())
		require.False(t, x.HasGrad())
		require.Nil(t, x.Grad(s))
		w := leaf(s, []float64{1, 1})
		x.Clone(s).Mul(s, w).Sum(s).Backward()
		require.Equal(t, []float64{2, 3}, torch.ToSlice[float64](w.Grad(s)))
		return nil
	}))
	require.ErrorContains(t, caught(t, func(s *torch.Scope) { made(s).Mul(s, leaf(s, []float64{1, 1})) }), "Inference tensors cannot be saved for backward")
	require.ErrorContains(t, caught(t, func(s *torch.Scope) { made(s).AddScalarInPlace(s, 1) }), "Inplace update to inference tensor")
	require.ErrorContains(t, caught(t, func(s *torch.Scope) { made(s).SetRequiresGrad(true) }), "inference tensor")
}

func TestClipAndNonFinite(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b, none := leaf(s, []float64{0}), leaf(s, []float64{0, 0}), leaf(s, []float64{0})
		a.SetGrad(torch.FromSlice(s, []float64{3}))
		b.SetGrad(torch.FromSlice(s, []float64{0, 4}))
		params := []*torch.Tensor{a, b, none}
		require.InDelta(t, 5, torch.GradNorm(s, params).Item(), 1e-6)
		require.InDelta(t, 5, torch.ClipGradNorm(s, params, 10).Item(), 1e-6)
		require.Equal(t, 3.0, a.Grad(s).Item(), "small gradients stay")
		require.InDelta(t, 5, torch.ClipGradNorm(s, params, 1).Item(), 1e-6)
		require.InDelta(t, 3/(5+1e-6), a.Grad(s).Item(), 1e-7, "PyTorch's clip_grad_norm_")
		require.Zero(t, torch.ClipGradNorm(s, []*torch.Tensor{none}, 1).Item())
		x := torch.FromSlice(s, []float64{1, math.NaN(), math.Inf(1)})
		require.Equal(t, 2, torch.CountNonFinite(s, []*torch.Tensor{x, a}))
		return nil
	}))
}

func residentKiB(t *testing.T) float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(b))[1], 64)
	require.NoError(t, err)
	return pages * float64(os.Getpagesize()) / 1024
}

// 2,000 training steps keep the resident size: the last quarter's mean is within 3% of the second's. Nothing here calls the
// garbage collector.
func TestTrainingKeepsMemoryFlat(t *testing.T) {
	before := torch.Live()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		w1 := torch.Randn(s, g, torch.Float32, 16, 3, 3, 3).MulScalar(s, 0.1)
		w2 := torch.Randn(s, g, torch.Float32, 3, 16, 3, 3).MulScalar(s, 0.1)
		w1.SetRequiresGrad(true)
		w2.SetRequiresGrad(true)
		opt, err := optim.RAdam{}.New(func(yield func(string, *torch.Tensor) bool) { _ = yield("w1", w1) && yield("w2", w2) })
		require.NoError(t, err)
		defer opt.Close()
		held := torch.Live()
		const steps = 2000
		var quarters [4]float64
		for k := range steps {
			err := s.Run(func(s *torch.Scope) error {
				x := torch.Randn(s, g, torch.Float32, 4, 3, 16, 16)
				h := s.Tidy(func(s *torch.Scope) *torch.Tensor {
					return x.Conv2D(s, w1, nil, torch.Conv2DOptions{Padding: 1}).SiLU(s)
				})
				loss := h.Conv2D(s, w2, nil, torch.Conv2DOptions{Padding: 1}).Sub(s, x).Square(s).Mean(s)
				opt.ZeroGrad()
				loss.Backward()
				opt.Step(s)
				if l := loss.Item(); math.IsNaN(l) {
					t.Fatal("the loss is NaN")
				}
				return nil
			})
			if err != nil {
				return err
			}
			quarters[k*4/steps] += residentKiB(t) / (steps / 4)
		}
		require.LessOrEqual(t, torch.Live()-held, int64(4), "only the optimizer's state may be new")
		t.Logf("resident size by quarter, KiB: %.0f", quarters)
		require.InEpsilon(t, quarters[1], quarters[3], 0.03)
		return nil
	}))
	require.Equal(t, before, torch.Live())
}

func TestForeach(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		list := func(v ...float64) []*torch.Tensor {
			var out []*torch.Tensor
			for _, x := range v {
				out = append(out, torch.FromSlice(s, []float64{x}))
			}
			return out
		}
		values := func(ts []*torch.Tensor) (out []float64) {
			for _, x := range ts {
				out = append(out, x.Item())
			}
			return out
		}
		a := list(1, 2)
		torch.ForeachAddInPlace(s, a, list(10, 20), 0.5)
		require.Equal(t, []float64{6, 12}, values(a))
		require.Equal(t, []float64{8, 16}, values(torch.ForeachAdd(s, a, list(1, 2), 2)))
		torch.ForeachMulInPlace(s, a, 2)
		torch.ForeachMulTensorInPlace(s, a, torch.Scalar(s, 0.5))
		torch.ForeachLerpInPlace(s, a, list(8, 8), 0.25)
		require.Equal(t, []float64{6.5, 11}, values(a))
		torch.ForeachCopyInPlace(s, a, list(4, 9))
		require.Equal(t, []float64{2, 3}, values(torch.ForeachSqrt(s, a)))
		torch.ForeachAddCMulInPlace(s, a, list(1, 2), list(3, 4), 2)
		require.Equal(t, []float64{10, 25}, values(a))
		torch.ForeachAddCDivInPlace(s, a, list(1, 10), list(2, 5), 2)
		require.Equal(t, []float64{11, 29}, values(a))
		torch.ForeachAddScalarInPlace(s, a, 1)
		torch.ForeachDivScalarInPlace(s, a, 2)
		require.Equal(t, []float64{6, 15}, values(a))
		torch.ForeachZeroInPlace(s, a)
		require.Equal(t, []float64{0, 0}, values(a))
		torch.ForeachZeroInPlace(s, nil)
		require.Nil(t, torch.ForeachSqrt(s, nil))
		return nil
	}))
}

// A checkpointed function finds gradients enabled both times, so that layers which choose their kernels by that compute the same; scopes
// without gradients inside it are without.
func TestCheckpointRunsAlike(t *testing.T) {
	var saw, inside []bool
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 2)
		x.SetRequiresGrad(true)
		y := torch.Checkpoint(s, func(s *torch.Scope, in []*torch.Tensor) []*torch.Tensor {
			return []*torch.Tensor{s.Tidy(func(s *torch.Scope) *torch.Tensor {
				saw = append(saw, s.GradEnabled())
				s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { inside = append(inside, s.GradEnabled()); return nil })
				return in[0].Square(s)
			})}
		}, x)[0]
		require.Len(t, saw, 1)
		y.Sum(s).Backward()
		require.Equal(t, []float32{2, 2}, torch.ToSlice[float32](x.Grad(s)))
		return nil
	}))
	require.Equal(t, []bool{true, true}, saw)
	require.Equal(t, []bool{false, false}, inside)
}

// Gradients that come back through an alias are summed up before they are added to those of other uses.
func TestAlias(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 1)
		x.SetRequiresGrad(true)
		y := x.Alias(s)
		require.True(t, y.RequiresGrad())
		// 1 + 2⁻²⁴ is 1 in float32, so that (1 + 2⁻²⁴) + 2⁻²⁴ is 1; 2⁻²⁴ + 2⁻²⁴ is not lost.
		small := math.Exp2(-24)
		sum := y.MulScalar(s, small).Add(s, y.MulScalar(s, small)).Add(s, x)
		sum.Sum(s).Backward()
		require.Equal(t, []float32{1 + 1.0/(1<<23)}, torch.ToSlice[float32](x.Grad(s)))
		return nil
	}))
}
