package vae

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
)

// BenchmarkSD15 is a image of 256×256 pixels, to latents and back.
func BenchmarkSD15(b *testing.B) {
	for _, dtype := range []torch.DType{torch.Float32, torch.BFloat16} {
		k, err := From(SD15(), sdtest.Filled(Shapes(SD15())), torch.CPU, dtype)
		require.NoError(b, err)
		benchmark(b, fmt.Sprint("KL/", dtype), k)
		k.Close()
		tiny, err := TinyFrom(TAESD(), sdtest.Filled(TinyShapes(TAESD())), torch.CPU, dtype)
		require.NoError(b, err)
		benchmark(b, fmt.Sprint("Tiny/", dtype), tiny)
		tiny.Close()
	}
}

func benchmark(b *testing.B, name string, a Autoencoder) {
	const side = 256
	pass := func(what string, shape []int, f func(s *torch.Scope, x *torch.Tensor) *torch.Tensor) {
		b.Run(fmt.Sprint(what, "/", name), func(b *testing.B) {
			require.NoError(b, torch.Run(torch.CPU, func(s *torch.Scope) error {
				return s.NoGrad(func(s *torch.Scope) error {
					x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, shape...).To(s, a.DType())
					for b.Loop() {
						f(s, x).Free()
					}
					return nil
				})
			}))
		})
	}
	pass("Decode", []int{1, a.Channels(), side / a.Factor(), side / a.Factor()}, a.Decode)
	pass("Encode", []int{1, 3, side, side}, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return a.Encode(s, x, nil) })
}
