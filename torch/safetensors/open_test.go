package safetensors

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o644))
		return path
	}
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	for path, want := range map[string]string{
		write("empty", nil):                 "it is empty",
		write("short", []byte("abc")):       "3 bytes long",
		write("bad", file(`{"a":1}`)):       `tensor "a"`,
		write("x.index.json", nil):          "it is empty",
		write("y.index.json", []byte("[]")): "index: byte 0: want an object, got '['",
		pipe:                                "not a regular file",
		os.DevNull:                          "not a regular file",
	} {
		_, err := Open(path)
		var e *FormatError
		require.ErrorAs(t, err, &e, path)
		assert.Equal(t, path, e.Path)
		assert.ErrorContains(t, err, want)
	}
	_, err := Open(filepath.Join(dir, "absent"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.ErrorContains(t, err, "absent")
}

// The map is private: changing a tensor does not change the file. A file that is replaced while it is open stays readable.
func TestOpenIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, Write(path, []Source{source("a", U8, []byte{1, 2, 3}, 3)}, Options{}))
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	f, err := Open(path)
	require.NoError(t, err)
	assert.Equal(t, path, f.Path())
	a, _ := f.Tensor("a")
	a.Data[0] = 99
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, before, after)

	require.NoError(t, Write(path, nil, Options{Overwrite: true}))
	assert.Equal(t, []byte{99, 2, 3}, a.Data)
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	_, ok := f.Tensor("a")
	assert.False(t, ok, "a closed file has no tensors")
	assert.Zero(t, f.Len())
}

func TestOpenSharded(t *testing.T) {
	for _, path := range []string{"testdata/sharded", "testdata/sharded/model.safetensors.index.json"} {
		f, err := Open(path)
		require.NoError(t, err)
		requireTensors(t, f, []Source{
			source("a", F32, le(float32(1), float32(2)), 2),
			source("b", I64, le(int64(3)), 1),
			source("c", F64, le(4.0), 1, 1),
		})
		assert.Equal(t, map[string]string{"format": "pt"}, f.Metadata())
		c, _ := f.Tensor("c")
		assert.Equal(t, "testdata/sharded/model-00002-of-00002.safetensors", c.Path)
		require.NoError(t, f.Close())
	}
}

func TestOpenFolder(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, dir)
	require.NoError(t, Write(filepath.Join(dir, "a.safetensors"), nil, Options{}))
	f, err := Open(dir)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	for i := range 20 {
		require.NoError(t, Write(filepath.Join(dir, fmt.Sprintf("b%02d.safetensors", i)), nil, Options{}))
	}
	_, err = Open(dir)
	require.ErrorContains(t, err, "pass one of them: a.safetensors, b00.safetensors")
	require.ErrorContains(t, err, "b06.safetensors, ...")
}

func TestHostileIndex(t *testing.T) {
	one := func(file string) string { return fmt.Sprintf(`{"weight_map":{"a":%q}}`, file) }
	tests := []struct{ name, index, want string }{
		{"parent", one("../a.safetensors"), `tensor "a": shard "../a.safetensors": want the name of a .safetensors file in the index's directory`},
		{"absolute", one("/etc/a.safetensors"), "in the index's directory"},
		{"folder", one("sub/a.safetensors"), "in the index's directory"},
		{"backslash", one(`..\a.safetensors`), "in the index's directory"},
		{"here", one("./a.safetensors"), "in the index's directory"},
		{"zero byte", `{"weight_map":{"a":"a\u0000.safetensors"}}`, "in the index's directory"},
		{"no name", one(".safetensors"), "in the index's directory"},
		{"empty", one(""), "in the index's directory"},
		{"dots", one(".."), "in the index's directory"},
		{"pickle", one("pytorch_model.bin"), "want the name of a .safetensors file"},
		{"missing shard", one("missing.safetensors"), "missing.safetensors: no such file"},
		{"name not in the shard", `{"weight_map":{"a":"good.safetensors","b":"good.safetensors","nope":"good.safetensors"}}`, `"nope" is not in good.safetensors`},
		{"name not in the index", one("good.safetensors"), `"b" is in good.safetensors, but not in the index`},
		{"names in another shard", `{"weight_map":{"a":"good.safetensors","b":"other.safetensors","c":"other.safetensors"}}`, `"b" is in good.safetensors, the index says other.safetensors`},
		{"name in two shards", `{"weight_map":{"a":"good.safetensors","b":"copy.safetensors"}}`, "occurs twice, in "},
		{"damaged shard", one("bad.safetensors"), "bad.safetensors: not a valid safetensors file: "},
		{"shard is a folder", one("folder.safetensors"), "not a regular file"},
		{"no map", `{}`, "weight_map is missing or empty"},
		{"empty map", `{"weight_map":{}}`, "weight_map is missing or empty"},
		{"two maps", `{"weight_map":{},"weight_map":{}}`, "weight_map occurs twice"},
		{"duplicate name", `{"weight_map":{"a":"good.safetensors","\u0061":"good.safetensors"}}`, `tensor "a" occurs twice`},
		{"number", `{"weight_map":{"a":1}}`, "want a file name as a string, got '1'"},
		{"array", `{"weight_map":[]}`, "want an object as weight_map, got '['"},
		{"garbage", `{"weight_map":{"a":"good.safetensors"}}x`, "want the end"},
		{"deep", `{"metadata":` + strings.Repeat("[", 100_000) + `}`, "nested too deeply"},
		{"deep objects", `{"metadata":` + strings.Repeat(`{"a":`, 100_000) + `}`, "nested too deeply"},
		{"not UTF-8", "{\"\xff\":1}", "not UTF-8"},
		{"broken number", `{"metadata":{"total_size":1.}}`, "want a digit"},
		{"minus", `{"metadata":-}`, "want a digit"},
		{"broken word", `{"metadata":nul}`, "want a value, got 'n'"},
		{"Git LFS pointer", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"},
	}
	dir := t.TempDir()
	good := []Source{source("a", U8, []byte{1}, 1), source("b", U8, []byte{2}, 1)}
	require.NoError(t, Write(filepath.Join(dir, "good.safetensors"), good, Options{}))
	require.NoError(t, Write(filepath.Join(dir, "copy.safetensors"), good, Options{}))
	require.NoError(t, Write(filepath.Join(dir, "other.safetensors"), []Source{source("c", U8, []byte{1}, 1)}, Options{}))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad.safetensors"), []byte("bad"), 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder.safetensors"), 0o755))
	path := filepath.Join(dir, "model.safetensors.index.json")
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(path, []byte(c.index), 0o644))
			var err error
			got := allocated(func() { _, err = Open(path) })
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, dir)
			assert.Less(t, got, uint64(8*len(c.index)+64<<10))
		})
	}
	index := `{"metadata":{"total_size":-1.5e+3,"x":[true,false,null,{"y":"\n"},0]},"weight_map":{"a":"good.safetensors","b":"good.safetensors"}}` + "\n"
	require.NoError(t, os.WriteFile(path, []byte(index), 0o644))
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	requireTensors(t, f, good)
}

// What shards contradict each other in does not describe the set.
func TestShardedMetadata(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"a", "b", "c"} {
		o := Options{Metadata: map[string]string{"format": "pt", "shard": fmt.Sprint(i % 2), "only " + name: "x"}}
		require.NoError(t, Write(filepath.Join(dir, name+".safetensors"), []Source{source(name, U8, []byte{1}, 1)}, o))
	}
	index := `{"weight_map":{"a":"a.safetensors","b":"b.safetensors","c":"c.safetensors"}}`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x.safetensors.index.json"), []byte(index), 0o644))
	f, err := Open(dir)
	require.NoError(t, err)
	defer f.Close()
	assert.Equal(t, map[string]string{"format": "pt", "only a": "x", "only b": "x", "only c": "x"}, f.Metadata())
}

func TestWriteSharded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.safetensors")
	sizes := []int{600, 600, 200, 2000, 0, 100, 900, 100}
	var tensors []Source
	for i, n := range sizes {
		tensors = append(tensors, source(fmt.Sprint("t", i), U8, make([]byte, n), n))
	}
	o := Options{Metadata: map[string]string{"format": "pt"}}
	index, err := WriteSharded(path, tensors, 1000, o)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "model.safetensors.index.json"), index)
	requireNames(t, dir, "model-00001-of-00005.safetensors", "model-00002-of-00005.safetensors", "model-00003-of-00005.safetensors",
		"model-00004-of-00005.safetensors", "model-00005-of-00005.safetensors", "model.safetensors.index.json")
	f, err := Open(dir)
	require.NoError(t, err)
	requireTensors(t, f, tensors)
	assert.Equal(t, o.Metadata, f.Metadata())
	require.NoError(t, f.Close())

	_, err = WriteSharded(path, tensors, 1000, o)
	require.ErrorIs(t, err, fs.ErrExist)
	_, err = WriteSharded(path, tensors, 1<<20, o)
	require.ErrorIs(t, err, fs.ErrExist, "one file is enough, but the set is there")

	// Overwriting leaves nothing of the set before, and nothing else is touched.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model-notes.safetensors"), nil, 0o644))
	o.Overwrite = true
	for _, c := range []struct {
		max  int
		want []string
	}{
		{2000, []string{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", "model-notes.safetensors", "model.safetensors.index.json"}},
		{1 << 20, []string{"model-notes.safetensors", "model.safetensors"}},
		{3100, []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model-notes.safetensors", "model.safetensors.index.json"}},
	} {
		name, err := WriteSharded(path, tensors, c.max, o)
		require.NoError(t, err)
		requireNames(t, dir, c.want...)
		f, err := Open(name)
		require.NoError(t, err)
		requireTensors(t, f, tensors)
		require.NoError(t, f.Close())
	}

	_, err = WriteSharded(filepath.Join(dir, "model.bin"), tensors, 1000, o)
	require.ErrorContains(t, err, ".safetensors")
	_, err = WriteSharded(path, tensors, 0, o)
	require.ErrorContains(t, err, "want at least 1")
	_, err = WriteSharded(filepath.Join(dir, "no", "model.safetensors"), tensors, 1000, o)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A shard's name that is taken while the others are written undoes the whole set.
func TestWriteShardedIsUndone(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "m-00002-of-00002.safetensors")
	late := Source{Name: "b", DType: U8, Data: func() ([]byte, error) { return []byte{1}, os.WriteFile(taken, nil, 0o644) }}
	_, err := WriteSharded(filepath.Join(dir, "m.safetensors"), []Source{source("a", U8, []byte{1}), late}, 1, Options{})
	require.ErrorIs(t, err, fs.ErrExist)
	require.ErrorContains(t, err, taken)
	requireNames(t, dir, filepath.Base(taken))
}

// The golden index, made by Python's json module, and ours are the same text.
func TestIndexGolden(t *testing.T) {
	dir := t.TempDir()
	tensors := []Source{source("a", F32, make([]byte, 8), 2), source("b", I64, make([]byte, 8), 1), source("c", F64, make([]byte, 8), 1, 1)}
	index, err := WriteSharded(filepath.Join(dir, "model.safetensors"), tensors, 16, Options{})
	require.NoError(t, err)
	got, err := os.ReadFile(index)
	require.NoError(t, err)
	want, err := os.ReadFile("testdata/sharded/model.safetensors.index.json")
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got))
}

// What is released reads as the file again, and its neighbours keep what was done to them.
func TestReleaseGivesPagesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.safetensors")
	large := make([]byte, 3*os.Getpagesize())
	require.NoError(t, Write(path, []Source{
		{Name: "a", DType: U8, Shape: []int{4}, Data: Bytes([]byte{1, 2, 3, 4})},
		{Name: "b", DType: U8, Shape: []int{len(large)}, Data: Bytes(large)},
		{Name: "c", DType: U8, Shape: []int{4}, Data: Bytes([]byte{5, 6, 7, 8})},
	}, Options{}))
	f, err := Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for v := range f.Tensors() {
		for i := range v.Data {
			v.Data[i] = 9
		}
	}
	for _, name := range []string{"a", "b", "c", "none"} {
		f.Release(name)
	}
	of := func(name string) []byte {
		v, ok := f.Tensor(name)
		require.True(t, ok)
		return v.Data
	}
	require.Equal(t, []byte{9, 9, 9, 9}, of("a")) // smaller than a page
	require.Equal(t, []byte{9, 9, 9, 9}, of("c"))
	require.Contains(t, of("b")[os.Getpagesize():2*os.Getpagesize()], byte(0))
	require.NotContains(t, of("b")[os.Getpagesize():2*os.Getpagesize()], byte(9))
}
