package page_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/stretchr/testify/require"
)

// axe-core, https://github.com/dequelabs/axe-core, finds faults of accessibility. It is fetched once, into the cache folder.
const (
	axeVersion = "4.14.1"
	axeSum     = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
)

// axe returns axe-core's source. Without npm or the network the test is skipped.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	path := filepath.Join(cache, "onestep", "axe-core-"+axeVersion, "axe.min.js")
	data, err := os.ReadFile(path)
	if err != nil {
		if data, err = fetchAxe(t); err != nil {
			t.Skip("no axe-core: ", err)
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, atomicfile.WriteBytes(path, atomicfile.Options{Overwrite: true}, data))
	}
	sum := sha256.Sum256(data)
	require.Equal(t, axeSum, hex.EncodeToString(sum[:]), "%s is not axe-core %s: delete it", path, axeVersion)
	return string(data)
}

func fetchAxe(t *testing.T) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "axe-core@"+axeVersion)
	cmd.Dir = dir
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, "axe-core-"+axeVersion+".tgz"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	for files := tar.NewReader(z); ; {
		h, err := files.Next()
		if err != nil {
			return nil, errors.New("its archive has no axe.min.js")
		}
		if h.Name == "package/axe.min.js" {
			return io.ReadAll(io.LimitReader(files, 4<<20))
		}
	}
}
