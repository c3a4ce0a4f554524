package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParse looks for input that crashes the parser, or that it accepts though it is inconsistent. What is accepted must
// survive being written and read again.
func FuzzParse(f *testing.F) {
	goldens, err := filepath.Glob("testdata/*.safetensors")
	if err != nil || len(goldens) == 0 {
		f.Fatalf("no goldens: %v", err)
	}
	for _, path := range goldens {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, c := range hostile {
		if len(c.data) < 1<<10 {
			f.Add(c.data)
		}
	}
	f.Fuzz(checkParse)
}

// FuzzHeader is FuzzParse with the length of the header always right, so that changes of the header reach its parser.
func FuzzHeader(f *testing.F) {
	for _, c := range hostile {
		if len(c.data) < 1<<10 && len(c.data) >= 8 && binary.LittleEndian.Uint64(c.data) <= uint64(len(c.data)-8) {
			n := binary.LittleEndian.Uint64(c.data)
			f.Add(c.data[8:8+n], uint16(len(c.data)-8-int(n)))
		}
	}
	f.Fuzz(func(t *testing.T, header []byte, size uint16) {
		checkParse(t, file(string(header), make([]byte, size)...))
	})
}

// checkParse checks that a file is refused with a sound error, or is consistent.
func checkParse(t *testing.T, b []byte) {
	before := bytes.Clone(b)
	file, err := Parse("fuzz", b)
	if !bytes.Equal(before, b) {
		t.Fatal("the input was changed")
	}
	if err != nil {
		var e *FormatError
		if !errors.As(err, &e) || e.Path != "fuzz" || len(err.Error()) > 2000 || strings.ContainsAny(err.Error(), "\n\x00\x1b") {
			t.Fatalf("%T: %q", err, err)
		}
		return
	}
	names := map[string]bool{}
	var sources []Source
	var data []byte
	for v := range file.Tensors() {
		n := v.DType.Bits()
		for _, d := range v.Shape {
			if d < 0 {
				t.Fatalf("%q: shape %v", v.Name, v.Shape)
			}
			n *= d
		}
		if n != 8*len(v.Data) || names[v.Name] || v.Name == metadataKey {
			t.Fatalf("%q: %d bytes for %v of %s", v.Name, len(v.Data), v.Shape, v.DType)
		}
		names[v.Name] = true
		data = append(data, v.Data...)
		sources = append(sources, source(v.Name, v.DType, v.Data, v.Shape...))
	}
	if !bytes.HasSuffix(b, data) || len(data) > len(b)-10 {
		t.Fatalf("the tensors hold %d bytes, which are not the file's last", len(data))
	}

	sorted, header, err := plan(sources, file.Metadata())
	if err != nil {
		t.Fatalf("cannot be written again: %v", err)
	}
	for _, v := range sorted {
		b, _ := v.Data()
		header = append(header, b...)
	}
	again, err := Parse("again", header)
	if err != nil {
		t.Fatalf("cannot be read again: %v", err)
	}
	requireTensors(t, again, sources)
	if len(file.Metadata()) != len(again.Metadata()) {
		t.Fatalf("metadata %v became %v", file.Metadata(), again.Metadata())
	}
	for k, v := range file.Metadata() {
		if again.Metadata()[k] != v {
			t.Fatalf("metadata %q: %q became %q", k, v, again.Metadata()[k])
		}
	}
}

// FuzzIndex looks for indexes that crash the parser, or whose shards are not beside it.
func FuzzIndex(f *testing.F) {
	for _, s := range []string{
		`{"metadata": {"total_size": 24}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}`,
		`{"weight_map":{"a":"../a.safetensors"}}`,
		`{"weight_map":{"a":"a\u0000.safetensors"}}`,
		`{"weight_map":{"a":"a\u002f.safetensors"}}`,
		`{"weight_map":{"a":".safetensors","a":".."}}`,
		`{"weight_map":{},"weight_map":{"\ud83d\ude00":"😀.safetensors"}}`,
		`{"metadata":[1,-0.5e+9,true,false,null,{"":[{}]}],"weight_map":{"a":"a.safetensors"}}`,
		`{"metadata":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		weights, err := parseIndex(b)
		if err != nil {
			if weights != nil || len(err.Error()) > 2000 {
				t.Fatalf("%v, %q", weights, err)
			}
			return
		}
		if len(weights) == 0 {
			t.Fatal("an empty set")
		}
		for name, file := range weights {
			joined := filepath.Join("/folder", file)
			if filepath.Dir(joined) != "/folder" || filepath.Base(joined) != file || !filepath.IsLocal(file) || !strings.HasSuffix(file, suffix) {
				t.Fatalf("%q is in %q", name, file)
			}
		}
	})
}
