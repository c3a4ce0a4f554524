package finetune_test

import (
	"context"
	"fmt"
	"image"
	"image/png"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/training/finetune"
)

// An LCM-LoRA is distilled from a model, here a tiny one on a single image, and loaded as any adapter is.
func Example() {
	dir, err := os.MkdirTemp("", "finetune")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	model, data := filepath.Join(dir, "sd15"), filepath.Join(dir, "photos")
	if err := tiny.Write(model, "sd15"); err != nil {
		log.Fatal(err)
	}
	if err := writePhoto(data); err != nil {
		log.Fatal(err)
	}

	run := finetune.LCM{
		LoRA: true, Adapter: finetune.Adapter{Rank: 4},
		Run: finetune.Run{Model: model, Data: data, Steps: 2, Batch: 1, Cache: "none", Out: filepath.Join(dir, "run"), Adapters: lora.Adapters{}},
	}
	result, err := run.Train(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Step, filepath.Base(result.Snapshot))

	m, err := sd.Open(model, sd.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	adapter, err := lora.Load(m, result.Snapshot, lora.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer adapter.Close()
	fmt.Println(len(adapter.Modules), "modules")
	// Output:
	// 2 model-0000002.safetensors
	// 78 modules
}

// writePhoto makes a directory of an image with its caption.
func writePhoto(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "a.png"))
	if err != nil {
		return err
	}
	if err := png.Encode(f, image.NewNRGBA(image.Rect(0, 0, 64, 64))); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "a.txt"), []byte("a cat"), 0o600)
}
