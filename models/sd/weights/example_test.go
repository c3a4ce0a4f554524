package weights_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// Write a diffusers directory as a single file, and identify the file by its tensors.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	folder, file := filepath.Join(dir, "sd15"), filepath.Join(dir, "sd15.safetensors")
	if err := tinysd.Write(folder, "sd15"); err != nil {
		log.Fatal(err)
	}
	m, err := weights.Open(folder, weights.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	if err := weights.WriteSingle(file, m, weights.WriteOptions{}); err != nil {
		log.Fatal(err)
	}
	kind, err := weights.SniffFile(file)
	fmt.Println(kind, err)
	// Output: sd15 <nil>
}
