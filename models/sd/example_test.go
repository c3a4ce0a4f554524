package sd_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
)

// Open a model and encode a prompt. This is a tiny model with random weights; the path may be any diffusers directory or single file.
func ExampleOpen() {
	path := filepath.Join(os.TempDir(), "onestep-example-sd15")
	defer os.RemoveAll(path)
	if err := tinysd.Write(path, "sd15"); err != nil {
		log.Fatal(err)
	}
	m, err := sd.Open(path, sd.Options{DType: torch.BFloat16})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Kind, m.DType())
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		text := m.Embed(s, nil, sd.Text{Prompt: "a (red:1.3) cat"})[0].Text
		fmt.Println(text.Shape()[:2])
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// sd15 bfloat16
	// [1 77]
}
