package tfevents_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/training/tfevents"
)

// Scalars of two steps go into a file that TensorBoard finds in the directory.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	w, err := tfevents.Create(dir)
	if err != nil {
		log.Fatal(err)
	}
	for step, loss := range []float64{0.5, 0.25} {
		if err := w.Scalars(int64(step), map[string]float64{"loss": loss, "lr": 1e-3}); err != nil {
			log.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	fmt.Println(len(files), err)
	// Output: 1 <nil>
}
