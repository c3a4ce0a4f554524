package checkpoint_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
)

// Save a consistency function to one file. Open rebuilds it from the file's description.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "points.safetensors")

	net, err := mlp.New(mlp.Config{Width: 16}, torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	d, err := checkpoint.Describe(&models.Consistency{Net: net, SigmaData: 1})
	if err != nil {
		log.Fatal(err)
	}
	if err := checkpoint.Save(path, d, net.Tensors(), checkpoint.SaveOptions{DType: torch.Float16}); err != nil {
		log.Fatal(err)
	}

	m, err := checkpoint.Open(path, torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Description.Kind, m.Description.Form.Type, m.Description.SigmaData, m.Shape())
	// Output: consistency edm 1 [2]
}
