package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// file puts a header and data together.
func file(header string, data ...byte) []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), data...)
}

const entry = `{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`

// hostile are files that must be refused, with a part of the reason.
var hostile = []struct {
	name string
	data []byte
	want string
}{
	{"empty", nil, "0 bytes long"},
	{"short", []byte{1, 2, 3}, "3 bytes long"},
	{"header of 2^63", append(binary.LittleEndian.AppendUint64(nil, 1<<63), "{}"...), "9223372036854775808 bytes: want at most 100000000"},
	{"header of 2^64-1", append(binary.LittleEndian.AppendUint64(nil, 1<<64-1), "{}"...), "want at most 100000000"},
	{"header of 100 MB and a byte", append(binary.LittleEndian.AppendUint64(nil, maxHeader+1), "{}"...), "100000001 bytes"},
	{"header of 100 MB", append(binary.LittleEndian.AppendUint64(nil, maxHeader), "{}"...), "truncated: the declared header length is 100000000 bytes, 2 bytes follow"},
	{"header truncated", file(`{"a":` + entry + `}`)[:30], "truncated"},
	{"header of no bytes", file(""), "does not begin with '{'"},
	{"header is an array", file("[]"), "does not begin with '{'"},
	{"header begins with a space", file(" {}"), "does not begin with '{'"},
	{"header begins with a BOM", file("\xef\xbb\xbf{}"), "does not begin with '{'"},
	{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"), "git lfs pull"},
	{"Git LFS pointer with a size", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265146304\n"), "4.27 GB"},
	{"web page", []byte("\n<!doctype html><html>"), "web page"},
	{"JPEG", []byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00"), "JPEG image"},
	{"GGUF", []byte("GGUF\x03\x00\x00\x00\x01\x00\x00\x00"), "GGUF"},
	{"log", []byte("time=2026-01-01 msg=training\n"), "text file"},
	{"event file", []byte("\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7fK\"\tabcdefghi\x1a\rbrain.Event:2"), "TensorBoard"},
	{"zip archive", []byte("PK\x03\x04\x00\x00\x08\x08 archive/data.pkl"), "zip archive"},
	{"not UTF-8", file("{\"\xff\":"+entry+"}", 0, 0, 0, 0), "not UTF-8"},
	{"not closed", file(`{"a":`+entry, 0, 0, 0, 0), "want ',' or '}', got the end"},
	{"only a brace", file(`{`), "want a name in quotes, got the end"},
	{"trailing comma", file(`{"a":`+entry+`,}`, 0, 0, 0, 0), `want a name in quotes, got '}'`},
	{"trailing garbage in the header", file(`{}x`), `byte 2: want the end, got 'x'`},
	{"trailing zero in the header", file("{}\x00"), `want the end, got '\x00'`},
	{"trailing garbage in the data", file(`{"a":`+entry+`}`, 0, 0, 0, 0, 9), "the data section is 5 bytes long, the tensors end at 4"},
	{"data without tensors", file(`{}`, 0), "the data section is 1 bytes long, the tensors end at 0"},
	{"data truncated", file(`{"a":`+entry+`}`, 0, 0, 0), "end after the data, which is 3 bytes long: is the file truncated?"},
	{"duplicate tensor", file(`{"a":`+entry+`,"a":`+entry+`}`, 0, 0, 0, 0), "overlap"},
	{"duplicate tensor apart", file(`{"a":`+entry+`,"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 0, 0, 0, 0, 0, 0, 0, 0), `tensor "a" occurs twice`},
	{"duplicate empty tensor", file(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"\u0061":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`), `tensor "a" occurs twice`},
	{"duplicate metadata", file(`{"__metadata__":{},"__metadata__":{}}`), "__metadata__ occurs twice"},
	{"duplicate metadata key", file(`{"__metadata__":{"a":"1","a":"2"}}`), `metadata "a" occurs twice`},
	{"duplicate dtype", file(`{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), `tensor "a": byte 28: dtype occurs twice`},
	{"duplicate shape", file(`{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "shape occurs twice"},
	{"duplicate offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "data_offsets occurs twice"},
	{"metadata is null", file(`{"__metadata__":null}`), "want an object of strings as __metadata__, got 'n'"},
	{"metadata is a string", file(`{"__metadata__":"x"}`), "want an object of strings as __metadata__"},
	{"metadata holds a number", file(`{"__metadata__":{"epoch":3}}`), `want a string as metadata "epoch", got '3'`},
	{"metadata holds an object", file(`{"__metadata__":{"epoch":{}}}`), `want a string as metadata "epoch"`},
	{"entry is an array", file(`{"a":["F32",[1],[0,4]]}`, 0, 0, 0, 0), `tensor "a": byte 5: want an object, got '['`},
	{"entry is a number", file(`{"a":1}`), "want an object, got '1'"},
	{"no dtype", file(`{"a":{"shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), `tensor "a": dtype is missing`},
	{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 0, 0, 0, 0), "shape is missing"},
	{"no offsets", file(`{"a":{"dtype":"F32","shape":[1]}}`, 0, 0, 0, 0), "data_offsets is missing"},
	{"unknown field", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]}}`, 0, 0, 0, 0), `unknown field "strides"`},
	{"unknown dtype", file(`{"a":{"dtype":"F128","shape":[1],"data_offsets":[0,16]}}`, make([]byte, 16)...), `unknown dtype "F128"`},
	{"dtype in lower case", file(`{"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), `unknown dtype "f32"`},
	{"dtype is a number", file(`{"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "want a string as dtype"},
	{"wrong size for dtype", file(`{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "hold 4 bytes, shape [1] of F64 needs 8"},
	{"wrong size for shape", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "hold 4 bytes, shape [2] of F32 needs 8"},
	{"scalar without data", file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,0]}}`), "hold 0 bytes, shape [] of F32 needs 4"},
	{"empty tensor with data", file(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "hold 4 bytes, shape [0] of F32 needs 0"},
	{"half a byte", file(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, 0), "too large, or not a whole number of bytes"},
	{"shape overflows", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`), "too large, or not a whole number of bytes"},
	{"shape overflows in bytes", file(`{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}`), "too large, or not a whole number of bytes"},
	{"shape overflows before a zero", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}`), "too large, or not a whole number of bytes"},
	{"shape overflows after a zero", file(`{"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}`), "too large, or not a whole number of bytes"},
	{"dimension too large", file(`{"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}}`), "the number is too large"},
	{"dimension far too large", file(`{"a":{"dtype":"F32","shape":[` + strings.Repeat("9", 5000) + `],"data_offsets":[0,0]}}`), "the number is too large"},
	{"negative dimension", file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "want a non-negative integer, got '-'"},
	{"negative zero", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}`, 0, 0, 0, 0), "want a non-negative integer, got '-'"},
	{"fraction", file(`{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "want a non-negative integer, got '.'"},
	{"exponent", file(`{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "want a non-negative integer, got 'e'"},
	{"leading zero", file(`{"a":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "a number begins with 0"},
	{"dimension is a string", file(`{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "want a non-negative integer"},
	{"too many dimensions", file(`{"a":{"dtype":"F32","shape":[1`+strings.Repeat(",1", 64)+`],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "more than 64 numbers"},
	{"shape is a number", file(`{"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}}`, 0, 0, 0, 0), "want an array of dimensions, got '1'"},
	{"one offset", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}}`, 0, 0, 0, 0), "want two offsets"},
	{"three offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}`, 0, 0, 0, 0), "more than 2 numbers"},
	{"offsets out of order", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 0, 0, 0, 0), "data_offsets [4,0] are out of order"},
	{"offsets out of range", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 0, 0, 0, 0), "end after the data"},
	{"offsets near 2^63", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[9223372036854775803,9223372036854775807]}}`, 0, 0, 0, 0), "end after the data"},
	{"hole at the start", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, make([]byte, 8)...), `a gap from 0 to 4, before tensor "a"`},
	{"hole", file(`{"a":`+entry+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}`, make([]byte, 12)...), "a gap from 4 to 8"},
	{"overlap", file(`{"a":`+entry+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, make([]byte, 6)...), `tensor "b" begins at 2 and overlaps the data before it, which ends at 4`},
	{"empty tensor inside another", file(`{"a":`+entry+`,"b":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}}`, 0, 0, 0, 0), "overlap"},
	{"empty tensor outside", file(`{"a":`+entry+`,"b":{"dtype":"F32","shape":[0],"data_offsets":[9,9]}}`, 0, 0, 0, 0), "end after the data"},
	{"deep", file(`{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`), "want an object, got '['"},
	{"deep objects", file(strings.Repeat(`{"a":`, 100_000)), `unknown field "a"`},
	{"deep in an unknown field", file(`{"a":{"x":` + strings.Repeat("[", 100_000) + `}}`), `unknown field "x"`},
	{"control character in a name", file("{\"a\x01\":"+entry+"}", 0, 0, 0, 0), "control character 0x01"},
	{"control character after an escape", file("{\"\\n\n\":"+entry+"}", 0, 0, 0, 0), "control character 0x0a"},
	{"name not closed", file(`{"a`), "want a closing quote, got the end"},
	{"name not closed after an escape", file(`{"\n`), "want a closing quote, got the end"},
	{"unknown escape", file(`{"\x":`+entry+`}`, 0, 0, 0, 0), "broken escape"},
	{"escape at the end", file(`{"\`), "broken escape"},
	{"escape of three digits", file(`{"\u123":`+entry+`}`, 0, 0, 0, 0), "broken escape"},
	{"lone high surrogate", file(`{"\ud800":`+entry+`}`, 0, 0, 0, 0), "surrogate"},
	{"lone low surrogate", file(`{"\udc00":`+entry+`}`, 0, 0, 0, 0), "surrogate"},
	{"two high surrogates", file(`{"\ud800\ud800":`+entry+`}`, 0, 0, 0, 0), "surrogate"},
	{"name in single quotes", file(`{'a':`+entry+`}`, 0, 0, 0, 0), "want a name in quotes, got '\\''"},
	{"no colon", file(`{"a" `+entry+`}`, 0, 0, 0, 0), "want ':', got '{'"},
	{"no comma", file(`{"a":{"dtype":"F32" "shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "want ',' or '}'"},
	{"no comma in an array", file(`{"a":{"dtype":"F32","shape":[1 1],"data_offsets":[0,4]}}`, 0, 0, 0, 0), "want ',' or ']'"},
	{"comment", file(`{/* */}`), "want a name in quotes, got '/'"},
	{"long name", file(`{"` + strings.Repeat("n", 1<<20) + `":1}`), `nnn"... (1048576 bytes): byte`},
}

func TestHostile(t *testing.T) {
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse("evil.safetensors", c.data)
			require.Nil(t, f)
			var e *FormatError
			require.ErrorAs(t, err, &e)
			assert.Equal(t, "evil.safetensors", e.Path)
			assert.ErrorContains(t, err, "evil.safetensors: not a valid safetensors file: ")
			assert.ErrorContains(t, err, c.want)
			assert.Less(t, len(err.Error()), 600, "the error is not a line")
		})
	}
}

// Every prefix of a valid file, and every file with one byte more, is refused.
func TestTruncated(t *testing.T) {
	whole, err := os.ReadFile("testdata/types.safetensors")
	require.NoError(t, err)
	for n := range whole {
		_, err := Parse("x", whole[:n])
		require.Error(t, err, "the first %d of %d bytes", n, len(whole))
	}
	_, err = Parse("x", append(bytes.Clone(whole), 0))
	require.Error(t, err)
	_, err = Parse("x", whole)
	require.NoError(t, err)
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A refused file costs a small multiple of its own size at most, whatever sizes it claims. The factor 12 covers headers of
// nothing but tiny entries, and counts what a growing list leaves behind.
func TestHostileMemory(t *testing.T) {
	tiny := func(n int) string { // n empty tensors, the smallest valid entries
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	cases := append(hostile[:len(hostile):len(hostile)], []struct {
		name string
		data []byte
		want string
	}{
		{"many empty tensors", file(tiny(50_000), 0), ""},
		{"many empty tensors, then garbage", file(tiny(50_000) + "x"), ""},
		{"shapes of 64 dimensions", file(`{"a":{"shape":[` + strings.Repeat("1,", 1<<20) + `1]}}`), ""},
		{"escapes", file(`{"` + strings.Repeat(`\n`, 1<<20)), ""},
	}...)
	for _, c := range cases {
		got := allocated(func() {
			_, err := Parse("x", c.data)
			require.Error(t, err, c.name)
		})
		limit := uint64(12*len(c.data) + 16<<10)
		assert.Less(t, got, limit, c.name)
	}
}

// Sizes are checked against the file before anything is made of them, also when the file is really that large.
func TestOpenLargeAllocatesNothing(t *testing.T) {
	const size = 4 << 30
	path := filepath.Join(t.TempDir(), "large.safetensors")
	header := file(fmt.Sprintf(`{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}`, size/4, size))
	require.NoError(t, os.WriteFile(path, header, 0o644))
	if err := os.Truncate(path, int64(len(header))+size); err != nil {
		t.Skipf("no sparse file of 4 GiB here: %v", err)
	}
	got := allocated(func() {
		f, err := Open(path)
		require.NoError(t, err)
		a, ok := f.Tensor("a")
		assert.True(t, ok)
		assert.Len(t, a.Data, size)
		assert.Zero(t, a.Data[size-1])
		require.NoError(t, f.Close())
	})
	assert.Less(t, got, uint64(64<<10))

	require.NoError(t, os.WriteFile(path, binary.LittleEndian.AppendUint64(nil, maxHeader), 0o644))
	require.NoError(t, os.Truncate(path, 8+maxHeader)) // a header of 100 MB of zero bytes
	got = allocated(func() {
		_, err := Open(path)
		require.ErrorContains(t, err, "does not begin with '{'")
	})
	assert.Less(t, got, uint64(64<<10))
}

func TestParseAccepts(t *testing.T) {
	tests := []struct {
		name  string
		data  []byte
		names []string
	}{
		{"no tensors", file(`{}`), nil},
		{"white space", file("{ \"a\"\t:\n"+entry+"\r}  \n", 1, 2, 3, 4), []string{"a"}},
		{"any order of fields", file(`{"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}}`, 1, 2, 3, 4), []string{"a"}},
		{"entries against the data's order", file(`{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1, 2), []string{"a", "b"}},
		{"empty tensors at both ends", file(`{"a":`+entry+`,"z":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"y":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}}`, 1, 2, 3, 4), []string{"y", "a", "z"}},
		{"names", file(`{"":`+entry+`,"\u0000\/\ud83d\ude00\u00E9":{"dtype":"U8","shape":[],"data_offsets":[4,5]}}`, 1, 2, 3, 4, 5), []string{"", "\x00/😀é"}},
		{"metadata between", file(`{"a":`+entry+`,"__metadata__":{"k":"v"}}`, 1, 2, 3, 4), []string{"a"}},
		{"64 dimensions", file(`{"a":{"dtype":"F32","shape":[1`+strings.Repeat(",1", 63)+`],"data_offsets":[0,4]}}`, 1, 2, 3, 4), []string{"a"}},
		{"header of 640 bytes, which begins as a pickle does", file(fmt.Sprintf("%-640s", "{}")), nil},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse("x", c.data)
			require.NoError(t, err)
			var names []string
			for tensor := range f.Tensors() {
				names = append(names, tensor.Name)
				found, ok := f.Tensor(tensor.Name)
				assert.True(t, ok)
				assert.Equal(t, tensor, found)
			}
			assert.Equal(t, c.names, names)
			assert.Equal(t, len(c.names), f.Len())
			_, ok := f.Tensor("absent")
			assert.False(t, ok)
		})
	}
}

func TestAligned(t *testing.T) {
	memory := make([]byte, 256)
	for shift := range 8 { // the header is 56+8 bytes long, so that the address of the data moves with the file's
		data := memory[shift:][:copy(memory[shift:], file(fmt.Sprintf("%-56s", `{"a":`+entry+`}`), 1, 2, 3, 4))]
		f, err := Parse("x", data)
		require.NoError(t, err)
		a, _ := f.Tensor("a")
		assert.Equal(t, shift%4 == 0, a.Aligned(), "moved by %d", shift)
	}
	assert.True(t, Tensor{DType: F64}.Aligned(), "no data")
}
