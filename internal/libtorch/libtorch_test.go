package libtorch

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestSupported(t *testing.T) {
	list := Supported()
	require.NotEmpty(t, list)
	for _, r := range list {
		require.Regexp(t, `^\d+\.\d+\.\d+$`, r.Version)
		require.NotEmpty(t, r.Wheels)
		for _, w := range r.Wheels {
			require.Regexp(t, `^nvidia-[a-z-]+==[\d.]+$`, w)
		}
	}
}

func TestVersions(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	require.Empty(t, VersionOf(dir))
	write("version.py", "from typing import Optional\n\n__version__ = '2.11.0+cu130'\n")
	require.Equal(t, "2.11.0", VersionOf(dir))
	require.Empty(t, HeaderVersion(dir), "there is nothing to compile against")
	write("include/torch/headeronly/version.h", "#pragma once\n#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 15\n#define TORCH_VERSION_PATCH 0\n#define TORCH_VERSION_ABI_TAG 0\n")
	require.Equal(t, "2.15.0", HeaderVersion(dir))
	require.Equal(t, "2.15.0", VersionOf(dir))
}

// Every source has a part in the sum, and nothing else has.
func TestSum(t *testing.T) {
	sources := fstest.MapFS{}
	for _, name := range []string{"ct.h", "functions.h", "table.h", "layer/a.cpp", "layer/b.h"} {
		sources[name] = &fstest.MapFile{Data: []byte(name)}
	}
	sum, err := Sum(sources)
	require.NoError(t, err)
	require.Regexp(t, regexp.MustCompile(`^[0-9a-f]{12}$`), sum)
	sources["layer/found.json"] = &fstest.MapFile{Data: []byte("{}")}
	same, err := Sum(sources)
	require.NoError(t, err)
	require.Equal(t, sum, same)
	for _, name := range []string{"ct.h", "functions.h", "table.h", "layer/a.cpp", "layer/b.h"} {
		was := sources[name]
		sources[name] = &fstest.MapFile{Data: []byte("changed")}
		other, err := Sum(sources)
		require.NoError(t, err)
		require.NotEqual(t, sum, other, name)
		sources[name] = was
	}
	delete(sources, "ct.h")
	_, err = Sum(sources)
	require.ErrorContains(t, err, "ct.h")
}

func TestLayerFile(t *testing.T) {
	name := LayerFile("2.11.0", "0123456789ab", "89abcdef")
	require.Equal(t, "libonestep-torch-2.11.0-0123456789ab-89abcdef.so", name)
	require.Equal(t, "2.11.0", LayerVersion("/a/b/"+name))
	require.Empty(t, LayerVersion("/a/b/libother.so"))
}
