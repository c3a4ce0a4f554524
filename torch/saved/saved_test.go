package saved

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/pickle"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// A checkpoint of training gives the tensors that PyTorch reads from it, and no others.
func TestArchive(t *testing.T) { testArchive(t, "tiny.ckpt") }

// So does one in the format from before PyTorch 1.6.
func TestLegacy(t *testing.T) { testArchive(t, "legacy.ckpt") }

func testArchive(t *testing.T, name string) {
	t.Helper()
	got, err := Open(filepath.Join("testdata", name))
	require.NoError(t, err)
	want, err := torch.OpenWeights(filepath.Join("testdata", "tiny.safetensors"))
	require.NoError(t, err)
	n := 0
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name := range want.Names() {
			shape, d, _ := want.Info(name)
			gotShape, gotD, ok := got.Info(name)
			require.True(t, ok, name)
			require.Equal(t, append([]int{}, shape...), append([]int{}, gotShape...), name)
			require.Equal(t, d, gotD, name)
			a, err := want.Get(s, name)
			require.NoError(t, err)
			b, err := got.Get(s, name)
			require.NoError(t, err, name)
			require.Equal(t, a.Bytes(), b.Bytes(), name)
			n++
		}
		assert.ErrorIs(t, got.Close(), torch.ErrInUse, "tensors are views of the file")
		_, err := got.Get(s, "none")
		assert.ErrorContains(t, err, "there is no tensor")
		return nil
	}))
	for range got.Names() {
		n--
	}
	assert.Zero(t, n)
	got.Release("f32")
	require.NoError(t, got.Close())
	require.NoError(t, want.Close())
}

// rezip rewrites an archive: change gives what becomes of a member, nil leaves it out.
func rezip(t testing.TB, change func(name string, data []byte) (string, []byte, uint16)) string {
	t.Helper()
	r, err := zip.OpenReader(filepath.Join("testdata", "tiny.ckpt"))
	require.NoError(t, err)
	defer r.Close()
	path := filepath.Join(t.TempDir(), "x.ckpt")
	f, err := os.Create(path)
	require.NoError(t, err)
	z := zip.NewWriter(f)
	for _, m := range r.File {
		in, err := m.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(in)
		require.NoError(t, err)
		name, data, method := change(m.Name, data)
		if data == nil {
			continue
		}
		out, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		require.NoError(t, err)
		_, err = out.Write(data)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())
	return path
}

// A damaged file from before PyTorch 1.6 is an error, wherever it is cut or changed.
func TestLegacyRefuses(t *testing.T) {
	whole, err := os.ReadFile(filepath.Join("testdata", "legacy.ckpt"))
	require.NoError(t, err)
	for n := range len(whole) {
		if n%7 == 0 || n < 100 {
			require.Error(t, (&File{tensors: map[string]stored{}}).read(whole[:n], nil), n)
		}
	}
	for old, c := range map[string]struct{ by, want string }{
		"little_endianq\x02\x88": {"little_endianq\x02\x89", "byte order"},
		"\xe9\x03.":              {"\xe8\x03.", "want protocol 1001, got 1000"},
		"FloatStorage":           {"FlootStorage", "unknown class"},
	} {
		changed := bytes.Replace(whole, []byte(old), []byte(c.by), 1)
		require.False(t, bytes.Equal(whole, changed), old)
		require.ErrorContains(t, (&File{tensors: map[string]stored{}}).read(changed, nil), c.want)
	}
}

func TestArchiveRefuses(t *testing.T) {
	for _, c := range []struct {
		what, want string
		change     func(name string, data []byte) (string, []byte, uint16)
	}{
		{"deflated", "compressed or encrypted", func(name string, data []byte) (string, []byte, uint16) { return name, data, zip.Deflate }},
		{"big-endian", `byte order is "big"`, func(name string, data []byte) (string, []byte, uint16) {
			if strings.HasSuffix(name, "byteorder") {
				data = []byte("big")
			}
			return name, data, zip.Store
		}},
		{"no pickle", "no directory with a data.pkl", func(name string, data []byte) (string, []byte, uint16) {
			if strings.HasSuffix(name, "data.pkl") {
				data = nil
			}
			return name, data, zip.Store
		}},
		{"no storage", `missing member "tiny/data/`, func(name string, data []byte) (string, []byte, uint16) {
			if strings.Contains(name, "/data/") {
				data = nil
			}
			return name, data, zip.Store
		}},
		{"short storage", "its storage has", func(name string, data []byte) (string, []byte, uint16) {
			if strings.Contains(name, "/data/") && len(data) > 0 {
				data = data[:len(data)-1]
			}
			return name, data, zip.Store
		}},
		{"twice", "duplicate member", func(name string, data []byte) (string, []byte, uint16) { return "tiny/data.pkl", data, zip.Store }},
		{"two pickles", "several data.pkl", func(name string, data []byte) (string, []byte, uint16) {
			if strings.HasSuffix(name, "byteorder") {
				name = "b/data.pkl"
			}
			return name, data, zip.Store
		}},
		{"damaged pickle", "data.pkl: at byte", func(name string, data []byte) (string, []byte, uint16) {
			if strings.HasSuffix(name, "data.pkl") {
				data = data[:100]
			}
			return name, data, zip.Store
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			path := rezip(t, c.change)
			_, err := Open(path)
			require.ErrorContains(t, err, c.want)
			assert.ErrorContains(t, err, path)
		})
	}
	for data, want := range map[string]string{
		legacyMagic:  "before PyTorch 1.6: pickle at byte 15: at byte 0: it is truncated",
		"\x80\x02}.": "a Python pickle",
		"version https://git-lfs.github.com/spec/v1": "Git LFS pointer",
		"hello":         "of torch.save",
		"PK\x03\x04abc": "zip: the archive",
		"":              "not empty",
	} {
		path := filepath.Join(t.TempDir(), "x.pt")
		require.NoError(t, os.WriteFile(path, []byte(data), 0o644))
		_, err := Open(path)
		assert.ErrorContains(t, err, want)
	}
}

// Unharmed by what a rewritten archive is aligned to: elements that are no multiples of their size from the beginning are copied.
func TestArchiveUnaligned(t *testing.T) {
	path := rezip(t, func(name string, data []byte) (string, []byte, uint16) { return name, data, zip.Store })
	got, err := Open(path)
	require.NoError(t, err)
	want, err := Open(filepath.Join("testdata", "tiny.ckpt"))
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name := range want.Names() {
			a, err := want.Get(s, name)
			require.NoError(t, err)
			b, err := got.Get(s, name)
			require.NoError(t, err)
			require.Equal(t, a.Bytes(), b.Bytes(), name)
		}
		return nil
	}))
	require.NoError(t, got.Close())
	require.NoError(t, want.Close())
}

// zip64 writes tiny.ckpt as files of more than 4 GiB are: sizes and offsets in 64 bits. change may falsify those of a member.
func zip64(t testing.TB, change func(name string, size, at *uint64)) string {
	t.Helper()
	r, err := zip.OpenReader(filepath.Join("testdata", "tiny.ckpt"))
	require.NoError(t, err)
	defer r.Close()
	var body, central []byte
	le := binary.LittleEndian
	const large = 0xffffffff
	for _, m := range r.File {
		in, err := m.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(in)
		require.NoError(t, err)
		size, at := uint64(len(data)), uint64(len(body))
		// Version, flags, method, time, date, checksum and sizes are alike in both headers.
		common := le.AppendUint16(nil, 45)
		common = append(common, make([]byte, 8)...)
		common = le.AppendUint32(common, m.CRC32)
		common = le.AppendUint64(common, large<<32|large)
		common = le.AppendUint16(common, uint16(len(m.Name)))

		body = append(append(body, "PK\x03\x04"...), common...)
		body = le.AppendUint16(body, 20) // of what follows the name
		body = append(body, m.Name...)
		body = le.AppendUint16(le.AppendUint16(body, 1), 16)
		body = le.AppendUint64(le.AppendUint64(body, size), size)
		body = append(body, data...)

		change(m.Name, &size, &at)
		central = append(append(central, "PK\x01\x02\x2d\x00"...), common...)
		central = le.AppendUint16(central, 28)
		central = append(central, make([]byte, 10)...)
		central = le.AppendUint32(central, large)
		central = append(central, m.Name...)
		central = le.AppendUint16(le.AppendUint16(central, 1), 24)
		central = le.AppendUint64(le.AppendUint64(le.AppendUint64(central, size), size), at)
	}
	n := uint64(len(r.File))
	end := append([]byte("PK\x06\x06"), 44, 0, 0, 0, 0, 0, 0, 0, 45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	end = le.AppendUint64(le.AppendUint64(end, n), n)
	end = le.AppendUint64(le.AppendUint64(end, uint64(len(central))), uint64(len(body)))
	end = append(end, "PK\x06\x07\x00\x00\x00\x00"...)
	end = append(le.AppendUint64(end, uint64(len(body)+len(central))), 1, 0, 0, 0)
	end = append(end, "PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00"...)
	path := filepath.Join(t.TempDir(), "x.ckpt")
	require.NoError(t, os.WriteFile(path, slices.Concat(body, central, end), 0o644))
	return path
}

func TestZip64(t *testing.T) {
	want, err := torch.OpenWeights(filepath.Join("testdata", "tiny.safetensors"))
	require.NoError(t, err)
	got, err := Open(zip64(t, func(string, *uint64, *uint64) {}))
	require.NoError(t, err)
	same(t, want, got)
	require.NoError(t, got.Close())
	require.NoError(t, want.Close())

	for _, c := range []struct {
		member, want string
		size, at     uint64 // 0: as it is
	}{
		{"/data.pkl", "beyond the end of the file", 1 << 40, 0},
		{"/data.pkl", "beyond the end of the file", 1 << 63, 0},
		{"/data.pkl", "zip:", 0, 1 << 40},
		{"/data.pkl", "zip:", 0, 1 << 63},
		{"/data.pkl", "zip:", 0, 1},
		{"/data/3", "beyond the end of the file", 1<<64 - 1, 0},
		{"/data/3", "zip:", 0, 1<<64 - 1},
	} {
		_, err := Open(zip64(t, func(name string, size, at *uint64) {
			if strings.HasSuffix(name, c.member) {
				*size, *at = cmp.Or(c.size, *size), cmp.Or(c.at, *at)
			}
		}))
		require.ErrorContains(t, err, c.want, "%+v", c)
	}
}

// Members may lie over each other: what they have is only looked at.
func TestOverlap(t *testing.T) {
	var base uint64 // of the member whose first elements the parameter has
	got, err := Open(zip64(t, func(name string, _, at *uint64) {
		switch {
		case strings.HasSuffix(name, "/data/2"):
			base = *at
		case strings.HasSuffix(name, "/data/12"):
			*at = base
		}
	}))
	require.NoError(t, err)
	assert.NotZero(t, base)
	want, err := torch.OpenWeights(filepath.Join("testdata", "tiny.safetensors"))
	require.NoError(t, err)
	same(t, want, got)
	require.NoError(t, got.Close())
	require.NoError(t, want.Close())
}

// One tuple of sizes, and many tensors made of it.
func TestArchiveSizes(t *testing.T) {
	data := []byte("}(S'a'\nctorch._utils\n_rebuild_tensor_v2\nq\x00((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nK\x00tQK\x00(")
	data = append(append(data, bytes.Repeat([]byte("K\x00"), maxDims)...), "tq\x02h\x02tq\x01R"...)
	for i := range maxSizes/maxDims/2 + 1 {
		data = fmt.Appendf(data, "S'%d'\nh\x00h\x01R", i)
	}
	path := rezip(t, func(name string, old []byte) (string, []byte, uint16) {
		if strings.HasSuffix(name, "data.pkl") {
			old = append(data, "u."...)
		}
		return name, old, zip.Store
	})
	_, err := Open(path)
	assert.ErrorContains(t, err, "dimensions in total")
}

// Parameters, and tensors of classes of their own, are tensors; other objects are none.
func TestRebuilt(t *testing.T) {
	for data, want := range map[string]bool{
		"ctorch._utils\n_rebuild_tensor_v2\n)R.":                                                                                          true,
		"ctorch._utils\n_rebuild_parameter\n(ctorch._utils\n_rebuild_tensor_v2\n)Rt R.":                                                   true,
		"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_parameter\nca\nB\nctorch._utils\n_rebuild_tensor_v2\n)R\x85}tR.": true,
		"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_parameter\nca\nB\nK\x07\x85}tR.":                                 false,
		"cnumpy\narray\n)R.": false,
		"K\x07.":             false,
	} {
		data = strings.ReplaceAll(data, "t R", "tR")
		v, err := pickle.Unpickle([]byte(data))
		require.NoError(t, err, "%q", data)
		_, ok := rebuilt(v)
		assert.Equal(t, want, ok, "%q", data)
	}
}

// What a pickle may say of a tensor, and what is refused.
func TestTensorBounds(t *testing.T) {
	part := func(string) ([]byte, int, error) { return make([]byte, 40), 100, nil }
	at := func(offset int, shape, steps []int) tensor {
		return tensor{storage: &storage{class: "FloatStorage", key: "0", n: 10}, offset: offset, shape: shape, steps: steps}
	}
	view := func(args ...any) *tensor {
		o := object("torch._utils", "_rebuild_tensor_v2")
		o.Args = args
		return tensorOf(o)
	}
	elements := pickle.Persistent{ID: pickle.Tuple{"storage", pickle.Global{Module: "torch", Name: "FloatStorage"}, "0", "cpu", 10}}
	for _, c := range []struct {
		tensor
		packed bool
		want   string
	}{
		{at(0, []int{2, 5}, []int{5, 1}), true, ""},
		{at(0, []int{5, 2}, []int{1, 5}), false, ""},
		{at(2, []int{2, 2}, []int{4, 2}), false, ""},
		{at(9, nil, nil), true, ""},
		{at(9, []int{1, 1}, []int{1 << 39, 7}), true, ""},
		{at(10, []int{0, 5}, []int{5, 1}), true, ""},
		{at(10, nil, nil), false, "exceeds its storage"},
		{at(1, []int{2, 5}, []int{5, 1}), false, "exceeds its storage"},
		{at(0, []int{11}, []int{1}), false, "exceeds its storage"},
		{at(0, []int{11}, []int{0}), false, "exceeds its storage"},
		{at(0, []int{3, 3}, []int{4, 1}), false, "exceeds its storage"},
		{at(-1, []int{1}, []int{1}), false, "are invalid"},
		{at(11, []int{0}, []int{1}), false, "are invalid"},
		{at(0, []int{1}, nil), false, "are invalid"},
		{at(0, []int{-1}, []int{1}), false, "invalid shape"},
		{at(0, []int{2}, []int{-1}), false, "invalid shape"},
		{at(0, []int{0, 1 << 62, 4}, []int{1, 1, 1}), false, "invalid shape"},
		{tensor{storage: &storage{class: "ShortStorage"}}, false, "ShortStorage"},
		{tensor{storage: &storage{class: "FloatStorage", n: 11}}, false, "40 bytes: want 11 elements"},
		{*view(object("numpy", "array"), 0, pickle.Tuple{}, pickle.Tuple{}), false, "the unknown class numpy.array"},
		{*view(1, 0, pickle.Tuple{}, pickle.Tuple{}), false, "no storage"},
		{*view(), false, "0 arguments"},
		{*view(pickle.Persistent{ID: 1}, 0, pickle.Tuple{}, pickle.Tuple{}), false, "want the persistent id of a storage"},
		{*view(elements, "x", pickle.Tuple{}, pickle.Tuple{}), false, "strides are invalid"},
		{*tensorOf(object("torch._utils", "_rebuild_sparse_tensor")), false, "the unknown function torch._utils._rebuild_sparse_tensor"},
	} {
		v, err := c.find(part)
		if c.want != "" {
			assert.ErrorContains(t, err, c.want)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, c.packed, v.packed, "%v %v", c.shape, c.steps)
		assert.Equal(t, 100+4*c.offset, v.at)
	}
}

// Tensors of types that have no class of storages name their type, and their storages count bytes.
func TestTypedTensors(t *testing.T) {
	part := func(string) ([]byte, int, error) { return make([]byte, 6), 100, nil }
	bytes := func(class string) pickle.Persistent {
		return pickle.Persistent{ID: pickle.Tuple{"storage", pickle.Global{Module: "torch.storage", Name: class}, "0", "cpu", 6}}
	}
	dtype := func(name string) any { return pickle.Global{Module: "torch", Name: name} }
	none := &pickle.Dict{}
	for name, c := range map[string]struct {
		args pickle.Tuple
		want string
	}{
		"e4m3":    {pickle.Tuple{bytes("UntypedStorage"), 0, pickle.Tuple{2, 3}, pickle.Tuple{3, 1}, false, none, dtype("float8_e4m3fn")}, ""},
		"e5m2":    {pickle.Tuple{bytes("UntypedStorage"), 0, pickle.Tuple{2, 3}, pickle.Tuple{3, 1}, false, none, dtype("float8_e5m2"), none}, ""},
		"unknown": {pickle.Tuple{bytes("UntypedStorage"), 0, pickle.Tuple{2, 3}, pickle.Tuple{3, 1}, false, none, dtype("float8_e8m0fnu")}, "float8_e8m0fnu"},
		"foreign": {pickle.Tuple{bytes("UntypedStorage"), 0, pickle.Tuple{2, 3}, pickle.Tuple{3, 1}, false, none, pickle.Global{Module: "os", Name: "float8_e5m2"}}, "os"},
		"typed":   {pickle.Tuple{bytes("FloatStorage"), 0, pickle.Tuple{2, 3}, pickle.Tuple{3, 1}, false, none, dtype("float8_e5m2")}, "not a byte storage"},
		"short":   {pickle.Tuple{bytes("UntypedStorage"), 0, pickle.Tuple{2, 3}, pickle.Tuple{3, 1}}, "no data type"},
		"number":  {pickle.Tuple{bytes("UntypedStorage"), 0, pickle.Tuple{2, 3}, pickle.Tuple{3, 1}, false, none, 7}, "unknown"},
		"large":   {pickle.Tuple{bytes("UntypedStorage"), 1, pickle.Tuple{2, 3}, pickle.Tuple{3, 1}, false, none, dtype("float8_e5m2")}, "exceeds its storage"},
	} {
		o := object("torch._utils", "_rebuild_tensor_v3")
		o.Args = c.args
		v, err := tensorOf(o).find(part)
		if c.want != "" {
			assert.ErrorContains(t, err, c.want, name)
			continue
		}
		require.NoError(t, err, name)
		assert.True(t, v.dtype.IsFloat8(), name)
		assert.Equal(t, 100, v.at, name)
	}
}

func object(module, name string) *pickle.Object {
	return &pickle.Object{Of: pickle.Global{Module: module, Name: name}}
}

// with returns a dictionary of keys and values.
func with(pairs ...any) *pickle.Dict {
	d := &pickle.Dict{}
	for i := 0; i < len(pairs); i += 2 {
		d.Set(pairs[i], pairs[i+1])
	}
	return d
}

func TestStateOf(t *testing.T) {
	x := object("torch._utils", "_rebuild_tensor_v2")
	inner := with("a", x)
	for _, root := range []any{
		inner, with("state_dict", inner), with("state_dict", with("state_dict", inner)), with("epoch", 1, "model", inner, "args", with("b", 2)),
	} {
		got, err := stateOf(root)
		require.NoError(t, err)
		assert.Same(t, inner, got)
	}
	for want, root := range map[string]any{
		"an object of class torch.nn.Module": object("torch.nn", "Module"),
		"it contains something else":         &pickle.List{},
		"it has no tensors":                  with("a", 1, 3, x),
		"several dictionaries":               with("g", inner, "d", with("b", x)),
	} {
		_, err := stateOf(root)
		assert.ErrorContains(t, err, want)
	}
}

// same compares the tensors of two sources.
func same(t testing.TB, want, got nn.Source) {
	t.Helper()
	assert.ElementsMatch(t, slices.Collect(want.Names()), slices.Collect(got.Names()))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for name := range want.Names() {
			a, err := want.Get(s, name)
			require.NoError(t, err)
			b, err := got.Get(s, name)
			require.NoError(t, err, name)
			require.Equal(t, a.Shape(), b.Shape(), name)
			require.Equal(t, a.DType(), b.DType(), name)
			require.Equal(t, a.Bytes(), b.Bytes(), name)
		}
		return nil
	}))
}

// Of several dictionaries of tensors the preferred one is read, and the others are told; a lone one is no choice.
func TestPrefer(t *testing.T) {
	x := object("torch._utils", "_rebuild_tensor_v2")
	model, ema := with("a", x), with("a", x)
	for _, c := range []struct {
		root   *pickle.Dict
		prefer []string
		want   *pickle.Dict // nil: an error
		key    string
		others []string
	}{
		{with("model", model, "ema", ema, "step", 3), []string{"ema"}, ema, "ema", []string{"model"}},
		{with("model", model, "ema", ema), []string{"model_ema", "model", "ema"}, model, "model", []string{"ema"}},
		{with("model", model, "ema", ema), nil, nil, "", nil},
		{with("state_dict", model, "ema", ema), []string{"ema"}, ema, "ema", []string{"state_dict"}},
		{with("state_dict", model, "opt", with("b", 1)), []string{"ema"}, model, "", nil},
		{model, []string{"a"}, model, "", nil},
	} {
		f := &File{}
		got, err := f.state(c.root, c.prefer)
		if c.want == nil {
			assert.ErrorContains(t, err, "several dictionaries")
			continue
		}
		require.NoError(t, err)
		assert.Same(t, c.want, got)
		assert.Equal(t, c.key, f.Key())
		assert.Equal(t, c.others, f.Others())
	}
}
