package job

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"github.com/onestep-go/onestep/internal/plainfile"
)

// shortHash is the start of the SHA-256 of the concatenated files, as A1111 writes it. Gigabytes take seconds: it stops when ctx is
// cancelled.
func shortHash(ctx context.Context, paths ...string) (string, error) {
	h := sha256.New()
	for _, path := range paths {
		if err := plainfile.CopyTo(ctx, h, path, nil); err != nil {
			return "", err
		}
	}
	return short12(h), nil
}

// adapterHash is A1111's hash of an adapter: that of a safetensors file without its header.
func adapterHash(ctx context.Context, path string) (string, error) {
	h := sha256.New()
	err := plainfile.CopyTo(ctx, h, path, func(f *os.File) error {
		if filepath.Ext(path) != ".safetensors" {
			return nil
		}
		var n uint64
		if err := binary.Read(f, binary.LittleEndian, &n); err != nil {
			return err
		}
		if n > math.MaxInt64/2 {
			return fmt.Errorf("it is not a safetensors file")
		}
		_, err := f.Seek(int64(n), io.SeekCurrent)
		return err
	})
	return short12(h), err
}

func short12(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil))[:12] }

// sparse reports whether most of a file takes no space on disk, so that its size is not that of real data.
func sparse(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && st.Size() > 64<<20 && sys.Blocks*512 < st.Size()/8 // file systems that compress take less, but not so little of weights
}
