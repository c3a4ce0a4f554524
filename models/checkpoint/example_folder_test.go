package checkpoint_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/unet2d"
	"github.com/onestep-go/onestep/torch"
)

// Write a consistency model as a directory of diffusers, whose ConsistencyModelPipeline can open it, and open such a directory: one of
// huggingface.co's is opened in the same way.
func ExampleSaveFolder() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "consistency")

	net, err := unet2d.New(unet2d.Config{Height: 8, Channels: []int{8, 8}, Layers: 1, NormGroups: 4}, torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	d, err := checkpoint.Describe(&models.Consistency{Net: net, Noise: models.ScaledLog})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := checkpoint.SaveFolder(path, d, net.Tensors(), checkpoint.SaveOptions{}); err != nil {
		log.Fatal(err)
	}

	m, err := checkpoint.Open(path, torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	grid, _ := m.Description.Grid()
	fmt.Println(m.Description.Kind, m.Shape(), m.Description.SchedulerClass(), grid.Steps)
	// Output: consistency [3 8 8] CMStochasticIterativeScheduler 40
}
