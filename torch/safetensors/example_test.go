package safetensors_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/torch/safetensors"
)

// A file is written and mapped back into memory. No tensors of package torch are made: elements are bytes.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "model.safetensors")
	tensors := []safetensors.Source{
		{Name: "mask", DType: safetensors.U8, Shape: []int{2, 3}, Data: safetensors.Bytes([]byte{1, 0, 1, 0, 1, 0})},
	}
	if err := safetensors.Write(path, tensors, safetensors.Options{Metadata: map[string]string{"format": "pt"}}); err != nil {
		log.Fatal(err)
	}

	f, err := safetensors.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	for t := range f.Tensors() {
		fmt.Println(t.Name, t.DType, t.Shape, t.Data)
	}
	fmt.Println(f.Metadata())
	// Output:
	// mask U8 [2 3] [1 0 1 0 1 0]
	// map[format:pt]
}
