package dataset

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// The kinds of files that FuzzOpen knows.
var fuzzNames = []string{"train-images-idx3-ubyte", "data_batch_1.bin", "x.tar", "x.tar.gz", "0.png", "data_batch_1"}

// FuzzOpen looks for files that crash a reader, make it allocate what is not there, or are accepted though they are
// inconsistent. The kind chooses how the data is read; images are read as members of a folder, and gzip is put around an
// archive here, since no mutation would keep its checksum.
//
//	go test -fuzz=. -fuzztime=60s -fuzzminimizetime=10x ./training/dataset
//
// Without a limit, a minute goes into making the first find smaller.
func FuzzOpen(f *testing.F) {
	image := plain(grey(9), 3, 2)
	add := func(kind uint8, data []byte) {
		if len(data) < 4<<10 {
			f.Add(kind, data)
		}
	}
	add(0, idxOf([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 2, 2, 2))
	add(0, gzipped(idxOf([]byte{1, 2, 3, 4}, 1, 2, 2)))
	add(0, idxOf(nil, 1<<32-1, 1<<32-1, 1<<32-1))
	add(1, cifarOf(3))
	archive := tarOf(f, "0.png", image, "0.cls", "1", "0.txt", "one", "1.png", image, "1.json", `{"label": 0, "caption": "x"}`)
	for _, kind := range []uint8{2, 3} {
		add(kind, archive[:2<<10])
		add(kind, tarOf(f, "0.png", image, "0.cls", "1"))
		add(kind, tarOf(f, "../0.png", image))
		add(kind, tarOf(f, "data_batch_1.bin", "x"))
	}
	add(5, read(f, filepath.Join("testdata", "cifar", "protocol5")))
	images, _ := filepath.Glob("testdata/*/*.*")
	for _, path := range images {
		add(4, read(f, path))
	}
	for _, data := range bombs() {
		add(4, data)
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		name := fuzzNames[int(kind)%len(fuzzNames)]
		if strings.HasSuffix(name, "gz") {
			data = gzipped(data)
		}
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		o := Options{}
		if imagefile.Is(name) {
			path, o.Resolution = dir, 8
		}
		n := allocated(func() { checkOpen(t, path, o) })
		// An image of the largest size that a small file may declare, decoded with 8 bytes a pixel and drawn with 4, and
		// with JPEG's coefficients, three of 4 bytes.
		if limit := uint64(24*(4<<20) + 16<<20 + 24*2048*len(data)); n > limit {
			t.Fatalf("%d bytes were allocated for a file of %d, at most %d are expected", n, len(data), limit)
		}
	})
}

// checkOpen opens a set and reads all of it.
func checkOpen(t *testing.T, path string, o Options) {
	s, err := Open(path, o)
	if err != nil {
		if s != nil || !strings.Contains(err.Error(), path) && !errors.As(err, new(*CorruptError)) && !strings.Contains(err.Error(), "no images") {
			t.Fatalf("an error that does not say where: %q", err)
		}
		return
	}
	defer s.Close()
	c, h, w := s.Shape()
	if s.Len() < 1 || c < 1 || h < 1 || w < 1 {
		t.Fatalf("%d images of %d×%d×%d", s.Len(), c, h, w)
	}
	dst, again := make([]byte, c*h*w), make([]byte, c*h*w)
	for i := range min(s.Len(), 64) {
		label, err := s.Read(i, dst)
		if err != nil {
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) && !strings.Contains(err.Error(), "choose a resolution") {
				t.Fatal(err)
			}
			continue
		}
		if label < -1 || label >= len(s.Classes()) || (label == -1) != (len(s.Classes()) == 0) {
			t.Fatalf("label %d of %d classes", label, len(s.Classes()))
		}
		if l, err := s.Read(i, again); err != nil || l != label || !bytes.Equal(dst, again) {
			t.Fatalf("read twice: %d and %d, %v", label, l, err)
		}
	}
}
