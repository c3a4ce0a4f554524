package torch

import (
	"fmt"
	"testing"
)

func TestSmoke(t *testing.T) {
	fmt.Println(Version(), CompiledVersion(), LibraryPath(), CPUCapability(), Threads())
	fmt.Println(CUDAOpened())
	err := Run(CPU, func(s *Scope) error {
		x := FromSlice(s, []float32{1, 2, 3}, 3)
		x.SetRequiresGrad(true)
		y := x.MulScalar(s, 2).Square(s).Sum(s)
		y.Backward()
		fmt.Println(y, x.Grad(s))
		g := NewGenerator(s, 0)
		fmt.Println(Randn(s, g, Float32, 3))
		fmt.Println(Call(s, "add.Tensor", x, "foo"))
		fmt.Println(Call(s, "topk", x, 2))
		z := Checkpoint(s, func(s *Scope, in []*Tensor) []*Tensor { return []*Tensor{in[0].Mul(s, in[0]).Mul(s, x)} }, x)
		z[0].Sum(s).Backward()
		fmt.Println(z[0], x.Grad(s))
		x.Add(s, Zeros(s, Float32, 2))
		return nil
	})
	fmt.Println(err, Live())
}

func BenchmarkAdd(b *testing.B) {
	Run(CPU, func(s *Scope) error {
		s.Inference(func(s *Scope) error {
			x := Ones(s, Float32, 1)
			for b.Loop() {
				x.Add(s, x).Free()
			}
			return nil
		})
		return nil
	})
}
func BenchmarkView(b *testing.B) {
	Run(CPU, func(s *Scope) error {
		s.Inference(func(s *Scope) error {
			x := Ones(s, Float32, 64, 64)
			for b.Loop() {
				x.View(s, 4096).Free()
			}
			return nil
		})
		return nil
	})
}
func BenchmarkItem(b *testing.B) {
	Run(CPU, func(s *Scope) error {
		x := Ones(s, Float32, 1)
		for b.Loop() {
			x.Item()
		}
		return nil
	})
}
