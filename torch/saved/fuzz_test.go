package saved

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/onestep-go/onestep/internal/pickle"
)

// goldenArchive returns tiny.ckpt, and its pickle.
func goldenArchive(f *testing.F) (data, description []byte) {
	f.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "tiny.ckpt"))
	if err != nil {
		f.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		f.Fatal(err)
	}
	in, err := z.Open("tiny/data.pkl")
	if err != nil {
		f.Fatal(err)
	}
	if description, err = io.ReadAll(in); err != nil {
		f.Fatal(err)
	}
	return data, description
}

// inside fails when a tensor that was accepted reaches beyond the file.
func (v stored) inside(t *testing.T, size int) {
	t.Helper()
	count, last := 1, 0
	for i, n := range v.shape {
		count *= n
		last += (n - 1) * v.steps[i]
	}
	if v.packed {
		last = count - 1
	}
	if v.at < 0 || v.at > size || count > 0 && (last < 0 || last >= size || v.at+(last+1)*v.dtype.Size() > size) {
		t.Fatalf("%+v reaches beyond %d bytes", v, size)
	}
}

// FuzzUnpickle looks for pickles that crash, and for tensors that reach beyond their storage.
func FuzzUnpickle(f *testing.F) {
	_, description := goldenArchive(f)
	f.Add(description)
	f.Add([]byte("ccollections\nOrderedDict\n]]K\x01aK\x02aa\x85R."))
	f.Add([]byte("(cos\nsystem\nS'x'\noL1L\n\x8a\x02\xff\x00G12345678\x94\x93\x92."))
	const size = 4096
	part := func(string) ([]byte, int, error) { return make([]byte, size), 0, nil }
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := pickle.Unpickle(data)
		if err != nil {
			return
		}
		d, err := stateOf(v)
		if err != nil {
			return
		}
		for _, v := range d.Values {
			if x, ok := rebuilt(v); ok {
				if at, err := tensorOf(x).find(part); err == nil {
					at.inside(t, size)
				}
			}
		}
	})
}

// FuzzArchive does the same with whole files.
func FuzzArchive(f *testing.F) {
	data, _ := goldenArchive(f)
	f.Add(data)
	large, err := os.ReadFile(zip64(f, func(string, *uint64, *uint64) {}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(large)
	old, err := os.ReadFile(filepath.Join("testdata", "legacy.ckpt"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(old)
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &File{tensors: map[string]stored{}}
		if a.read(data, nil) != nil {
			return
		}
		for name := range a.Names() {
			a.tensors[name].inside(t, len(data))
		}
	})
}
