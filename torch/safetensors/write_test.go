package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func le(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func source(name string, d DType, data []byte, shape ...int) Source {
	return Source{Name: name, DType: d, Shape: shape, Data: Bytes(data)}
}

// types are the tensors of testdata/types.safetensors; see scripts/golden/torch/safetensors/files.py.
func types() []Source {
	return []Source{
		source("z.f64", F64, le(1.5, -2.25, 3e300, 0.0, math.Copysign(0, -1), math.Inf(1)), 2, 3),
		source("y.f32", F32, le(float32(1), float32(-0.5), uint32(0x7fc00000)), 3),
		source("b.f32", F32, le(float32(0.25)), 1, 1),
		source("x.f16", F16, le(uint16(0x3c00), uint16(0x7bff), uint16(0x8001)), 3),
		source("w.bf16", BF16, le(uint16(0x3f80), uint16(0xff62), uint16(0x3a83)), 3),
		source("d.i64", I64, le(int64(math.MinInt64), int64(math.MaxInt64)), 2),
		source("c.i32", I32, le(int32(math.MinInt32), int32(math.MaxInt32)), 2, 1),
		source("a.u8", U8, []byte{0, 1, 255}, 3),
		source("a.bool", Bool, []byte{1, 0, 1, 1, 0}, 5),
		source("scalar.f32", F32, le(float32(42))),
		source("scalar.bool", Bool, []byte{1}),
		source("empty.f32", F32, nil, 0, 3),
		source("empty.i64", I64, nil, 2, 0, 4),
		source("quote \" slash / back \\ tab \t é \u2028 \x7f 😀 <&>", U8, []byte{7}, 1),
		source("", U8, []byte{8}, 1),
	}
}

// requireTensors checks that a file holds exactly these tensors.
func requireTensors(t *testing.T, f *File, want []Source) {
	t.Helper()
	require.Equal(t, len(want), f.Len())
	for _, w := range want {
		got, ok := f.Tensor(w.Name)
		require.True(t, ok, w.Name)
		data, err := w.Data()
		require.NoError(t, err)
		assert.Equal(t, w.DType, got.DType, w.Name)
		assert.True(t, slices.Equal(w.Shape, got.Shape), "%s: got shape %v, want %v", w.Name, got.Shape, w.Shape)
		assert.True(t, bytes.Equal(data, got.Data), "%s: got % x, want % x", w.Name, got.Data, data)
		assert.True(t, got.Aligned(), w.Name)
	}
}

// Python's files are read as they were meant, and the same tensors give the same bytes.
func TestGolden(t *testing.T) {
	f, err := Open("testdata/types.safetensors")
	require.NoError(t, err)
	defer f.Close()
	requireTensors(t, f, types())
	require.Contains(t, f.Metadata(), "made by")

	for name, tensors := range map[string][]Source{"types": types(), "none": nil, "others": others(t)} {
		t.Run(name, func(t *testing.T) {
			golden := "testdata/" + name + ".safetensors"
			g, err := Open(golden)
			require.NoError(t, err)
			defer g.Close()
			path := filepath.Join(t.TempDir(), "a.safetensors")
			require.NoError(t, Write(path, tensors, Options{Metadata: g.Metadata()}))
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, string(want), string(got))
		})
	}
}

// others are the tensors of testdata/others.safetensors, in another order than the file's.
func others(t *testing.T) []Source {
	f, err := Open("testdata/others.safetensors")
	require.NoError(t, err)
	defer f.Close()
	var out []Source
	for v := range f.Tensors() {
		out = append(out, source(v.Name, v.DType, bytes.Clone(v.Data), v.Shape...))
	}
	slices.Reverse(out)
	require.Len(t, out, 13)
	f8, _ := f.Tensor("f8_e4m3")
	assert.Equal(t, []byte{0x38, 0x40, 0x44, 0x48}, f8.Data) // 1, 2, 3, 4
	f4, _ := f.Tensor("f4")
	assert.Equal(t, []int{4}, f4.Shape)
	assert.Equal(t, 4, f4.DType.Bits())
	return out
}

func TestWriteIsDeterministic(t *testing.T) {
	dir := t.TempDir()
	metadata := map[string]string{"b": "2", "a": "1", "é": "\x01\n\b\f\r\"\\", "": ""}
	var first []byte
	for i := range 10 {
		tensors := types()
		slices.Reverse(tensors[i:])
		path := filepath.Join(dir, fmt.Sprint(i))
		require.NoError(t, Write(path, tensors, Options{Metadata: metadata}))
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		if i == 0 {
			first = b
		}
		require.Equal(t, first, b)
	}
	f, err := Open(filepath.Join(dir, "0"))
	require.NoError(t, err)
	defer f.Close()
	assert.Equal(t, metadata, f.Metadata())
	requireTensors(t, f, types())
}

func requireNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.Equal(t, append([]string{}, want...), names)
}

func TestWriteRefuses(t *testing.T) {
	ok := source("ok", U8, []byte{1}, 1)
	tests := []struct {
		name     string
		tensors  []Source
		metadata map[string]string
		want     string
	}{
		{"twice", []Source{ok, ok}, nil, `tensor "ok" occurs twice`},
		{"reserved", []Source{source("__metadata__", U8, nil, 0)}, nil, "reserved"},
		{"name", []Source{source("\xff", U8, nil, 0)}, nil, `tensor "\xff": the name is not UTF-8`},
		{"dtype", []Source{source("a", "F128", nil, 0)}, nil, `unknown dtype "F128"`},
		{"negative", []Source{source("a", U8, nil, -1)}, nil, "invalid shape [-1]"},
		{"negative twice", []Source{source("a", U8, []byte{1}, -1, -1)}, nil, "invalid shape"},
		{"overflow", []Source{source("a", U8, nil, 1<<40, 1<<40)}, nil, "too large, or not a whole number of bytes"},
		{"too large together", []Source{source("a", U8, nil, 1<<59), source("b", U8, nil, 1<<59), source("c", U8, nil, 1<<59), source("d", U8, nil, 1<<59),
			source("e", U8, nil, 1<<59), source("f", U8, nil, 1<<59), source("g", U8, nil, 1<<59), source("h", U8, nil, 1<<59),
			source("i", U8, nil, 1<<59), source("j", U8, nil, 1<<59), source("k", U8, nil, 1<<59), source("l", U8, nil, 1<<59),
			source("m", U8, nil, 1<<59), source("n", U8, nil, 1<<59), source("o", U8, nil, 1<<59), source("p", U8, nil, 1<<59)}, nil, "larger than any file"},
		{"dimensions", []Source{source("a", U8, []byte{1}, slices.Repeat([]int{1}, 65)...)}, nil, "65 dimensions"},
		{"half bytes", []Source{source("a", "F4", []byte{1}, 1)}, nil, "too large, or not a whole number of bytes"},
		{"no data", []Source{{Name: "a", DType: U8}}, nil, "it has no data"},
		{"short data", []Source{ok, source("a", F32, []byte{1, 2, 3}, 1)}, nil, `tensor "a": shape [1] of F32 needs 4 bytes, got 3`},
		{"long data", []Source{ok, source("a", U8, []byte{1, 2, 3}, 2)}, nil, "needs 2 bytes, got 3"},
		{"failing data", []Source{ok, {Name: "a", DType: U8, Data: func() ([]byte, error) { return nil, errors.New("device lost") }}}, nil, `tensor "a": device lost`},
		{"metadata key", nil, map[string]string{"\xff": ""}, `metadata "\xff" is not UTF-8`},
		{"metadata value", nil, map[string]string{"k": "\xff"}, `metadata "k" is not UTF-8`},
		{"header", nil, map[string]string{"k": strings.Repeat("x", maxHeader)}, "want at most 100000000"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a.safetensors")
			err := Write(path, c.tensors, Options{Metadata: c.metadata})
			require.ErrorContains(t, err, "write "+path+": ")
			require.ErrorContains(t, err, c.want)
			_, err = WriteSharded(path, c.tensors, 1, Options{Metadata: c.metadata})
			require.ErrorContains(t, err, c.want)
			requireNames(t, dir)
		})
	}
}

// A write that fails or panics late leaves the file that it was to replace, and nothing else.
func TestWriteFailureKeepsOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.safetensors")
	old := source("old", U8, []byte{1}, 1)
	require.NoError(t, Write(path, []Source{old}, Options{}))
	fail := func() ([]byte, error) { return nil, errors.New("device lost") }
	boom := func() ([]byte, error) { panic("boom") }
	many := func(last func() ([]byte, error)) []Source {
		out := []Source{{Name: "z", DType: U8, Data: last}}
		for i := range 5 {
			out = append(out, source(fmt.Sprint(i), U8, make([]byte, 1<<20), 1<<20))
		}
		return out
	}
	require.ErrorContains(t, Write(path, many(fail), Options{Overwrite: true}), "device lost")
	require.PanicsWithValue(t, "boom", func() { _ = Write(path, many(boom), Options{Overwrite: true}) })
	_, err := WriteSharded(path, many(fail), 2<<20, Options{Overwrite: true})
	require.ErrorContains(t, err, "device lost")
	require.PanicsWithValue(t, "boom", func() { _, _ = WriteSharded(path, many(boom), 2<<20, Options{Overwrite: true}) })

	requireNames(t, dir, "a.safetensors")
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	requireTensors(t, f, []Source{old})
}

func TestWriteRefusesToOverwrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.safetensors")
	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o644))
	err := Write(path, types(), Options{})
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorContains(t, err, "allow overwriting")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
	requireNames(t, dir, "a.safetensors")

	// A file that appears while ours is written is not replaced either.
	path = filepath.Join(dir, "b.safetensors")
	late := Source{Name: "a", DType: U8, Data: func() ([]byte, error) {
		return []byte{1}, os.WriteFile(path, []byte("precious"), 0o644)
	}}
	require.ErrorIs(t, Write(path, []Source{late}, Options{}), fs.ErrExist)
	b, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
	requireNames(t, dir, "a.safetensors", "b.safetensors")

	require.ErrorIs(t, Write(filepath.Join(dir, "no", "such", "folder"), nil, Options{}), fs.ErrNotExist)
	require.ErrorContains(t, Write(dir, nil, Options{Overwrite: true}), "not a regular file")
	require.ErrorContains(t, Write(os.DevNull, nil, Options{Overwrite: true}), "not a regular file")
}

// Of many writers of one name exactly one wins, and the file is whole.
func TestWriteRace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.safetensors")
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() {
			errs[i] = Write(path, []Source{source("a", U8, bytes.Repeat([]byte{byte(i)}, 1<<16), 1<<16)}, Options{})
		})
	}
	wg.Wait()
	winner := slices.Index(errs, nil)
	require.GreaterOrEqual(t, winner, 0)
	for i, err := range errs {
		if i != winner {
			require.ErrorIs(t, err, fs.ErrExist)
		}
	}
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	requireTensors(t, f, []Source{source("a", U8, bytes.Repeat([]byte{byte(winner)}, 1<<16), 1<<16)})
	requireNames(t, dir, "a.safetensors")
}

func TestWritePermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o027))
	dir := t.TempDir()
	mode := func(path string) fs.FileMode {
		st, err := os.Stat(path)
		require.NoError(t, err)
		return st.Mode()
	}
	path := filepath.Join(dir, "a.safetensors")
	require.NoError(t, Write(path, nil, Options{}))
	assert.Equal(t, fs.FileMode(0o640), mode(path), "a new file follows the umask")

	require.NoError(t, os.Chmod(path, 0o604))
	require.NoError(t, Write(path, types(), Options{Overwrite: true}))
	assert.Equal(t, fs.FileMode(0o604), mode(path), "a replaced file keeps its permissions")

	require.NoError(t, os.Chmod(path, 0o444))
	err := Write(path, nil, Options{Overwrite: true})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "read-only")

	link := filepath.Join(dir, "link.safetensors")
	target := filepath.Join(dir, "target.safetensors")
	require.NoError(t, os.WriteFile(target, nil, 0o644))
	require.NoError(t, os.Symlink("target.safetensors", link))
	require.ErrorIs(t, Write(link, nil, Options{}), fs.ErrExist)
	require.NoError(t, Write(link, types(), Options{Overwrite: true}))
	st, err := os.Lstat(link)
	require.NoError(t, err)
	assert.NotZero(t, st.Mode()&fs.ModeSymlink, "the link is still one")
	f, err := Open(target)
	require.NoError(t, err)
	defer f.Close()
	requireTensors(t, f, types())
	requireNames(t, dir, "a.safetensors", "link.safetensors", "target.safetensors")
}

// Data are asked for one at a time, in the order of the file, and once.
func TestWriteStreams(t *testing.T) {
	var asked []string
	var tensors []Source
	for _, s := range types() {
		data := s.Data
		s.Data = func() ([]byte, error) {
			asked = append(asked, s.Name)
			return data()
		}
		tensors = append(tensors, s)
	}
	path := filepath.Join(t.TempDir(), "a")
	require.NoError(t, Write(path, tensors, Options{}))
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	var stored []string
	for v := range f.Tensors() {
		stored = append(stored, v.Name)
	}
	assert.Equal(t, stored, asked)

	// No copy of everything is made: 64 tensors of 1 MiB that share one buffer.
	buffer := make([]byte, 1<<20)
	var large []Source
	for i := range 64 {
		large = append(large, source(fmt.Sprint(i), U8, buffer, 1<<20))
	}
	path = filepath.Join(t.TempDir(), "b")
	assert.Less(t, allocated(func() { require.NoError(t, Write(path, large, Options{})) }), uint64(1<<20))
}
