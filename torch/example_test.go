package torch_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/torch"
)

func Example() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{1, 2, 3, 4}, 2, 2)
		y := x.MatMul(s, x).AddScalar(s, 1)
		fmt.Println(y.Shape(), torch.ToSlice[float32](y))
		return nil
	})
	fmt.Println(err)
	// Output:
	// [2 2] [8 11 16 23]
	// <nil>
}

// An operator's panic comes back from Run as an error that names the operation and its operands.
func ExampleRun() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b := torch.Zeros(s, torch.Float32, 2, 3), torch.Zeros(s, torch.Float32, 4)
		a.Add(s, b)
		return nil
	})
	var e *torch.Error
	if errors.As(err, &e) {
		fmt.Println(e.Op)
		fmt.Println(e.Shapes)
	}
	// Output:
	// aten::add.Tensor
	// float32[2, 3], float32[4]
}

// Tidy frees the intermediate results of a block at once.
func ExampleScope_Tidy() {
	before := torch.Live()
	_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Linspace(s, 0, 1, 5, torch.Float32)
		y := s.Tidy(func(s *torch.Scope) *torch.Tensor {
			return x.Sub(s, x.Mean(s)).Square(s).Mean(s).Sqrt(s)
		})
		fmt.Printf("%.4f, %d tensors\n", y.Item(), torch.Live()-before)
		return nil
	})
	fmt.Println(torch.Live() - before)
	// Output:
	// 0.3536, 2 tensors
	// 0
}

// Values that a loop carries from step to step are kept in the outer scope, and freed when the next one is there.
func ExampleScope_Keep() {
	_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float64, 1)
		for range 3 {
			old := x
			if err := s.Run(func(s *torch.Scope) error {
				x = s.Keep(old.MulScalar(s, 2).AddScalar(s, 1))
				return nil
			}); err != nil {
				return err
			}
			old.Free()
		}
		fmt.Println(x)
		return nil
	})
	// Output: tensor([15.], float64[1])
}

func ExampleScope_NoGrad() {
	_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := torch.Ones(s, torch.Float32, 2)
		w.SetRequiresGrad(true)
		fmt.Println(w.Exp(s).RequiresGrad())
		return s.NoGrad(func(s *torch.Scope) error {
			fmt.Println(w.Exp(s).RequiresGrad())
			return nil
		})
	})
	// Output:
	// true
	// false
}

func ExampleTensor_Backward() {
	_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float64{1, 2, 3})
		x.SetRequiresGrad(true)
		x.PowScalar(s, 3).Sum(s).Backward() // d(Σx³)/dx = 3x²
		fmt.Println(torch.ToSlice[float64](x.Grad(s)))
		return nil
	})
	// Output: [3 12 27]
}

func ExampleCheckpoint() {
	_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := torch.FromSlice(s, []float64{2, 3})
		w.SetRequiresGrad(true)
		block := func(s *torch.Scope, in []*torch.Tensor) []*torch.Tensor {
			return []*torch.Tensor{in[0].Mul(s, w).Square(s)}
		}
		x := torch.FromSlice(s, []float64{1, 10})
		torch.Checkpoint(s, block, x)[0].Sum(s).Backward() // d(Σ(xw)²)/dw = 2x²w
		fmt.Println(torch.ToSlice[float64](w.Grad(s)))
		return nil
	})
	// Output: [4 600]
}

// Call reaches the operators that have no method here.
func ExampleCall() {
	_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{3, 1, 2})
		r, err := torch.Call(s, "aten::topk", x, 2)
		if err != nil {
			return err
		}
		fmt.Println(torch.ToSlice[float32](r[0].(*torch.Tensor)), torch.ToSlice[int64](r[1].(*torch.Tensor)))

		_, err = torch.Call(s, "aten::topk", x, "two")
		fmt.Println(err)
		return nil
	})
	// Output:
	// [3 2] [0 2]
	// topk: argument 2 (k) takes int, got a string; given (float32[3], "two"); schema: aten::topk(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor values, Tensor indices)
}

// The numbers are those of torch.randn(3, generator=torch.Generator().manual_seed(0)).
func ExampleGenerator() {
	_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 0)
		fmt.Printf("%.4f\n", torch.ToSlice[float32](torch.Randn(s, g, torch.Float32, 3)))
		return nil
	})
	// Output: [1.5410 -0.2934 -2.1788]
}

func ExampleAttention() {
	_ = torch.Run(torch.CPU, func(s *torch.Scope) error {
		q := torch.Zeros(s, torch.Float32, 1, 1, 2, 4) // equal weights for all it may see
		v := torch.FromSlice(s, []float32{1, 5}, 1, 1, 2, 1)
		for _, causal := range []bool{false, true} {
			fmt.Println(torch.ToSlice[float32](torch.Attention(s, q, q, v, torch.AttentionOptions{Causal: causal})))
		}
		return nil
	})
	// Output:
	// [3 3]
	// [1 3]
}

// Tensors are printed as PyTorch prints them, with type, shape and device behind; of large ones the edges are shown.
func ExampleTensor_String() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{1, -0.5, 0.25, 100}, 2, 2)
		fmt.Println(x)
		fmt.Println(x.GtScalar(s, 0))
		fmt.Println(torch.Arange(s, 1_000_000, torch.Int64))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// tensor([[  1.0000,  -0.5000],
	//         [  0.2500, 100.0000]], float32[2, 2])
	// tensor([[ True, False],
	//         [ True,  True]], bool[2, 2])
	// tensor([     0,      1,      2,  ..., 999997, 999998, 999999], int64[1000000])
}
