package efficientnet

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func bytesOf(s *torch.Scope, g *torch.Generator, dims ...int) *torch.Tensor {
	return torch.Rand(s, g, torch.Float32, dims...).MulScalar(s, 256).Floor(s)
}

// Features and logits are those of the Python package efficientnet_lite_pytorch. Folding batch norms into convolutions changes the rounding
// of 50 layers, which the random weights amplify: Python's own float32 differs from float64 by 1.2e-5 of the largest feature (6).
func TestGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		want, metadata := torchtest.Golden(t, s, "testdata/golden.safetensors")
		seed, err := strconv.ParseUint(metadata["seed"], 10, 64)
		require.NoError(t, err)
		g := torch.NewGenerator(s, seed)
		path := filepath.Join(t.TempDir(), "lite0.safetensors")
		require.NoError(t, torch.SaveSafetensors(path, torchtest.DrawnNorms(t, s, g, metadata["layout"], "_bn"), torch.SaveOptions{}))
		net, err := Open(path, torch.CPU)
		require.NoError(t, err)
		defer net.Close()
		images := bytesOf(s, g, 2, 3, Side, Side).DivScalar(s, 127.5).SubScalar(s, 1)
		small := bytesOf(s, g, 1, 3, 32, 48).DivScalar(s, 127.5).SubScalar(s, 1)
		return s.NoGrad(func(s *torch.Scope) error {
			features := net.Features(s, images)
			torchtest.Close(t, "features", features, want["features"], 3e-4, 0)
			torchtest.Close(t, "logits", net.Logits(s, features), want["logits"], 1.5e-3, 0)
			torchtest.Close(t, "resized", net.Features(s, small), want["resized"], 3e-4, 0)
			return nil
		})
	}))
}

func TestOpenRefuses(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "none.safetensors"), torch.CPU)
	require.ErrorIs(t, err, os.ErrNotExist)
	for name, spoil := range map[string]func(s *torch.Scope, name string, v *torch.Tensor) *torch.Tensor{
		"_blocks.3._bn1.running_var": func(*torch.Scope, string, *torch.Tensor) *torch.Tensor { return nil }, // missing
		"_conv_head.weight":          func(s *torch.Scope, _ string, v *torch.Tensor) *torch.Tensor { return v.Narrow(s, 0, 0, 4) },
		"_bn1.weight":                func(s *torch.Scope, _ string, v *torch.Tensor) *torch.Tensor { return v.Narrow(s, 0, 0, 4) },
		"NaN":                        func(s *torch.Scope, _ string, v *torch.Tensor) *torch.Tensor { return v.MulScalar(s, math.NaN()) },
	} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			_, metadata := torchtest.Golden(t, s, "testdata/golden.safetensors")
			path := filepath.Join(t.TempDir(), "spoiled.safetensors")
			require.NoError(t, torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) {
				for key, v := range torchtest.DrawnNorms(t, s, torch.NewGenerator(s, 1), metadata["layout"], "_bn") {
					if key == name || name == "NaN" && key == "_fc.bias" {
						if v = spoil(s, key, v); v == nil {
							continue
						}
					}
					if !yield(key, v) {
						return
					}
				}
			}, torch.SaveOptions{}))
			_, err := Open(path, torch.CPU)
			require.ErrorContains(t, err, name)
			return nil
		}))
	}
}

func TestDefaultPath(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	require.Equal(t, "/data/onestep/efficientnet_lite0.safetensors", DefaultPath())
	t.Setenv("XDG_DATA_HOME", "")
	t.Setenv("HOME", "/home/me")
	require.Equal(t, "/home/me/.local/share/onestep/efficientnet_lite0.safetensors", DefaultPath())
}
