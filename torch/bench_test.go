package torch_test

import (
	"testing"

	"github.com/onestep-go/onestep/torch"
)

// The cases are those of the peers' ops_overhead.py: tensors so small that nearly all the time is the call's. no_grad is in
// an inference scope; grad builds the graph node and frees it; fwd_bwd adds sum and backward. Each iteration has a scope of
// its own, as a step of a program has.
func BenchmarkOps(b *testing.B) {
	type operands struct{ x1, one, m, m2, img, w, bias *torch.Tensor }
	cases := []struct {
		name string
		f    func(s *torch.Scope, o operands) *torch.Tensor
	}{
		{"add", func(s *torch.Scope, o operands) *torch.Tensor { return o.x1.Add(s, o.one) }},
		{"view", func(s *torch.Scope, o operands) *torch.Tensor { return o.m.View(s, 4096) }},
		{"silu64", func(s *torch.Scope, o operands) *torch.Tensor { return o.m.SiLU(s) }},
		{"matmul64", func(s *torch.Scope, o operands) *torch.Tensor { return o.m.MatMul(s, o.m2) }},
		{"conv2d", func(s *torch.Scope, o operands) *torch.Tensor {
			return o.img.Conv2D(s, o.w, o.bias, torch.Conv2DOptions{Padding: 1})
		}},
		{"chain10", func(s *torch.Scope, o operands) *torch.Tensor {
			y := o.x1
			for range 10 {
				y = y.Add(s, o.one)
			}
			return y
		}},
		{"sum", func(s *torch.Scope, o operands) *torch.Tensor { return o.x1 }},
	}
	for _, c := range cases {
		for _, kind := range []string{"no_grad", "grad", "fwd_bwd"} {
			if c.name == "sum" && kind != "fwd_bwd" {
				continue
			}
			b.Run(c.name+"/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				err := torch.Run(torch.CPU, func(s *torch.Scope) error {
					g := torch.NewGenerator(s, 1)
					grad := func(shape ...int) *torch.Tensor {
						t := torch.Randn(s, g, torch.Float32, shape...)
						t.SetRequiresGrad(kind != "no_grad")
						return t
					}
					o := operands{grad(1), torch.Ones(s, torch.Float32, 1), grad(64, 64), torch.Randn(s, g, torch.Float32, 64, 64),
						grad(1, 8, 16, 16), grad(8, 8, 3, 3), grad(8)}
					step := func(s *torch.Scope) error {
						y := c.f(s, o)
						if kind == "fwd_bwd" {
							y.Sum(s).Backward()
						}
						return nil
					}
					in := s.Run
					if kind == "no_grad" {
						in = s.Inference
					}
					for b.Loop() {
						if err := in(step); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

// What small things cost: reading an element, changing one in place, making one, an empty scope.
func BenchmarkSmall(b *testing.B) {
	for name, f := range map[string]func(s *torch.Scope, x, y *torch.Tensor){
		"item":  func(_ *torch.Scope, x, _ *torch.Tensor) { x.Item() },
		"add_":  func(s *torch.Scope, x, y *torch.Tensor) { x.AddInPlace(s, y) },
		"zeros": func(s *torch.Scope, _, _ *torch.Tensor) { torch.Zeros(s, torch.Float32, 1).Free() },
		"shape": func(_ *torch.Scope, x, _ *torch.Tensor) { x.Dim(0) },
		"scope": func(s *torch.Scope, _, _ *torch.Tensor) { _ = s.Run(func(*torch.Scope) error { return nil }) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			err := torch.Run(torch.CPU, func(s *torch.Scope) error {
				return s.Inference(func(s *torch.Scope) error {
					x, y := torch.Zeros(s, torch.Float32, 1), torch.Zeros(s, torch.Float32, 1)
					for b.Loop() {
						f(s, x, y)
					}
					return nil
				})
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}
