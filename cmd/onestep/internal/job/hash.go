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

// shortHash is the start of the SHA-256 of files, one after the other, as A1111 names files by. Gigabytes take seconds: it ends when ctx
// does.
func shortHash(ctx context.Context, paths ...string) (string, error) {
	h := sha256.New()
	for _, path := range paths {
		if err := plainfile.CopyTo(ctx, h, path, nil); err != nil {
			return "", err
		}
	}
	return short12(h), nil
}

// adapterHash is what A1111 calls an adapter's hash: of a safetensors file without its header.
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

// sparse tells whether most of a file takes no room on the disk, so that its size says nothing of what somebody wrote.
func sparse(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && st.Size() > 64<<20 && sys.Blocks*512 < st.Size()/8 // file systems that compress take less, but not so little of weights
}
