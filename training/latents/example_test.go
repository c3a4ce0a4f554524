package latents_test

import (
	"context"
	"fmt"
	"image"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/latents"
)

// The encoders are loaded, everything is encoded into the cache, and they are closed: training then reads the cache, beside the U-Net alone.
func Example() {
	dir, err := os.MkdirTemp("", "latents")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	model, data := filepath.Join(dir, "model"), filepath.Join(dir, "data")
	if err := files(model, data); err != nil { // a tiny model, and two images with captions
		log.Fatal(err)
	}

	set, err := captioned.Open(context.Background(), data, captioned.Options{Resolution: 64})
	if err != nil {
		log.Fatal(err)
	}
	defer set.Close()
	encoders, err := sd.Open(model, sd.Options{Without: sd.Components{UNet: true}})
	if err != nil {
		log.Fatal(err)
	}
	source, err := latents.Open(context.Background(), latents.Config{
		Set: set, Model: encoders, Batch: 2, Seed: 1, Cache: filepath.Join(dir, "cache"),
		Progress: func(p latents.Progress) { fmt.Printf("%s: %d of %d\n", p.Stage, p.Done, p.All) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	if source.Complete() {
		if err := encoders.Close(); err != nil {
			log.Fatal(err)
		}
	}

	err = torch.Run(torch.CPU, func(s *torch.Scope) error { // as training.Trainer does with its Data
		for batch, err := range source.Batches(context.Background(), 0) {
			if err != nil {
				return err
			}
			b := batch(s)
			fmt.Println("latents", b.X.Shape(), "text", b.Cond.Text.Shape(), "empty prompt", source.Null(s).Text.Shape())
			break
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// latents: 1 of 2
	// latents: 2 of 2
	// text features: 1 of 2
	// text features: 2 of 2
	// latents [2 4 8 8] text [2 77 16] empty prompt [1 77 16]
}

// files writes a tiny Stable Diffusion model with random weights, and two images with captions.
func files(model, data string) error {
	if err := tiny.Write(model, "sd15"); err != nil {
		return err
	}
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	for i, caption := range []string{"a black square", "a grey square"} {
		path := filepath.Join(data, fmt.Sprint(i))
		img := image.NewGray(image.Rect(0, 0, 64, 64))
		for p := range img.Pix {
			img.Pix[p] = byte(100 * i)
		}
		if err := vision.Write(path+".png", img, vision.WriteOptions{}); err != nil {
			return err
		}
		if err := os.WriteFile(path+".txt", []byte(caption), 0o644); err != nil {
			return err
		}
	}
	return nil
}
