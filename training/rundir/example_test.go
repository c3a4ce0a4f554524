package rundir_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/training/rundir"
)

// A run writes its options and statistics. It can be opened again with the same options, to resume; other options are an error.
func Example() {
	parent, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)
	path := filepath.Join(parent, "run")
	d, err := rundir.Open(path, map[string]any{"method": "ict", "batch": 64}, false)
	if err != nil {
		log.Fatal(err)
	}
	if err := d.Record(map[string]any{"step": 1, "loss": 0.25}); err != nil {
		log.Fatal(err)
	}
	if err := d.Close(); err != nil {
		log.Fatal(err)
	}
	stats, err := os.ReadFile(filepath.Join(path, "stats.jsonl"))
	fmt.Print(string(stats), err, "\n")
	_, err = rundir.Open(path, map[string]any{"method": "ict", "batch": 32}, true)
	fmt.Println(err != nil)
	// Output:
	// {"loss":0.25,"step":1}
	// <nil>
	// true
}
