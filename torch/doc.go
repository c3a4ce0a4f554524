// Package torch is a thin binding of libtorch: tensors, scopes, operators, autograd, randomness.
//
// # Lifetimes
//
// Whatever creates tensors takes a [*Scope] as its first argument, as calls take a context. Closing a scope frees its
// tensors at once. [Run] opens a root scope, [Scope.Run], [Scope.NoGrad] and [Scope.Tidy] open children, and
// [Scope.Keep] hands a tensor to the parent. There are no finalizers: Go's collector cannot see device memory. Using a
// freed tensor is a panic that names the operation. What one goroutine frees, by Free or by closing a scope, while an operator
// in another still reads it is a data race like any other, and may crash: wait for the others first.
//
//	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
//		x := torch.FromSlice(s, []float32{1, 2, 3}, 3)
//		y := x.MulScalar(s, 2).Sum(s)
//		fmt.Println(y.Item()) // 12
//		return nil
//	})
//
// # Errors
//
// Operators panic with [*Error], so that a network reads like a network; Run turns that panic into an error and lets
// others pass. Everything that touches files or configurations returns an error.
//
// # Modes
//
// Whether operators record gradients is a property of the scope they run in, never of a thread: goroutines move
// between threads.
//
// # Operators
//
// Typed methods cover what networks and samplers use. [Call] reaches any other ATen operator by its schema's name.
package torch
