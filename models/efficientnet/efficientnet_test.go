package efficientnet

import (
	"iter"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// draw yields the state dict that scripts/golden/models/efficientnet/lite0.py drew.
func draw(t *testing.T, s *torch.Scope, metadata map[string]string, g *torch.Generator) iter.Seq2[string, *torch.Tensor] {
	t.Helper()
	return torchtest.Drawn(t, metadata["layout"], func(name string, dims []int) *torch.Tensor {
		v := torch.Randn(s, g, torch.Float32, dims...)
		switch {
		case strings.HasSuffix(name, "running_var"):
			return v.Abs(s).MulScalar(s, 0.5).AddScalar(s, 0.5)
		case len(dims) == 4:
			return v.MulScalar(s, math.Sqrt(2/float64(dims[1]*dims[2]*dims[3])))
		case strings.Contains(name, "_bn") && strings.HasSuffix(name, ".weight"):
			return v.MulScalar(s, 0.1).AddScalar(s, 1)
		}
		return v.MulScalar(s, 0.1)
	})
}

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
		require.NoError(t, torch.SaveSafetensors(path, draw(t, s, metadata, g), torch.SaveOptions{}))
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
				for key, v := range draw(t, s, metadata, torch.NewGenerator(s, 1)) {
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
