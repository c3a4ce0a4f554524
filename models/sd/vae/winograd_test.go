package vae

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
)

// Both autoencoders give the same by this library's convolutions as with packed weights, but for rounding.
func TestOwnConvolutions(t *testing.T) {
	defer torch.SetFused(true)
	if torch.SetFused(true); !torch.Fused() {
		t.Skip("no kernels for this processor")
	}
	c, narrow := Config{Channels: []int{32, 64}, Groups: 16}.WithDefaults(), TAESD()
	k, err := From(c, sdtest.Filled(Shapes(c)), torch.CPU, torch.Float32)
	require.NoError(t, err)
	defer k.Close()
	tiny, err := TinyFrom(narrow, sdtest.Filled(TinyShapes(narrow)), torch.CPU, torch.Float32)
	require.NoError(t, err)
	defer tiny.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for what, a := range map[string]Autoencoder{"kl": k, "tiny": tiny} {
				g := torch.NewGenerator(s, 1)
				x, z := torch.Randn(s, g, torch.Float32, 1, 3, 64, 64), torch.Randn(s, g, torch.Float32, 1, 4, 16, 16)
				for way, f := range map[string]func(s *torch.Scope) *torch.Tensor{
					"encode": func(s *torch.Scope) *torch.Tensor { return a.Encode(s, x, nil) },
					"decode": func(s *torch.Scope) *torch.Tensor { return a.Decode(s, z) },
				} {
					own := f(s)
					torch.SetFused(false)
					want := f(s)
					torch.SetFused(true)
					off := own.Sub(s, want).Abs(s).Max(s).Item() / want.Abs(s).Max(s).Item()
					t.Logf("%s %s: %.2g", what, way, off)
					require.NotZero(t, off)
					require.Less(t, off, 2e-5)
				}
			}
			return nil
		})
	}))
}
