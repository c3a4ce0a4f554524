package job

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/inception"
	"github.com/onestep-go/onestep/torch"
)

// weightsOf writes a file with tensors of these names.
func weightsOf(t *testing.T, path string, names ...string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) {
			for _, name := range names {
				if !yield(name, torch.Zeros(s, torch.Float32, 1)) {
					return
				}
			}
		}, torch.SaveOptions{})
	}))
	return path
}

// A name stands for a file in the data directory, and a file for the network whose tensors it has; without a file, an error says where to get it
// and where to put it.
func TestFindFeatures(t *testing.T) {
	data := t.TempDir()
	t.Setenv("XDG_DATA_HOME", data)
	dir := t.TempDir()
	lite := weightsOf(t, filepath.Join(dir, "a.safetensors"), "_conv_stem.weight", "_conv_head.weight")
	deep := weightsOf(t, filepath.Join(dir, "b.safetensors"), "Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight")
	other := weightsOf(t, filepath.Join(dir, "c.safetensors"), "conv.weight")
	for _, c := range []struct {
		features, resize string
		network          string
		want             []string // of the error
	}{
		{lite, "", efficientNet, nil},
		{deep, "", inceptionV3, nil},
		{deep, "clean", inceptionV3, nil},
		{lite, "clean", "", []string{"--resize", efficientNet}},
		{deep, "bilinear", "", []string{"--resize", "tensorflow, pytorch, clean"}},
		{other, "", "", []string{other, "another network", "EfficientNet-Lite0", inception.Files[0]}},
		{filepath.Join(dir, "none"), "", "", []string{"--features", "none"}},
		{"", "", "", []string{"scripts/efficientnet_weights.py " + filepath.Join(data, "onestep", "efficientnet_lite0.safetensors")}},
		{"inception", "", "", []string{inception.Source, filepath.Join(data, "onestep"), inception.Files[1]}},
	} {
		x, err := findFeatures("--features", c.features, c.resize)
		if c.want == nil {
			require.NoError(t, err)
			require.Equal(t, [2]string{c.network, c.features}, [2]string{x.network, x.path})
		}
		for _, want := range c.want {
			require.ErrorContains(t, err, want)
		}
	}
	for _, name := range []string{inception.Files[1], "efficientnet_lite0.safetensors"} {
		require.NoError(t, os.Rename(map[bool]string{true: lite, false: deep}[name != inception.Files[1]], weightsOf(t, filepath.Join(data, "onestep", name))))
	}
	for _, network := range FeatureNames() {
		x, err := findFeatures("--features", network, "")
		require.NoError(t, err)
		require.Equal(t, network, x.network)
		require.Equal(t, filepath.Join(data, "onestep"), filepath.Dir(x.path))
	}
}

// Figures over the features of FID's network have the names of papers, others their own.
func TestFigure(t *testing.T) {
	require.Equal(t, []string{"FID", "KID", "IS", "SWD-InceptionV3"}, []string{Figure("FD", inception.Name), Figure("KID", inception.Name), Figure("IS", inception.Name), Figure("SWD", inception.Name)})
	require.Equal(t, "FD-EffNetLite0", Figure("FD", "EffNetLite0"))
	require.NotEmpty(t, fewForFID(inception.Name, 2047))
	require.Empty(t, fewForFID(inception.Name, 2048))
	require.Empty(t, fewForFID("EffNetLite0", 6))
}
