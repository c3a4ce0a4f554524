package captioned_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/training/captioned"
)

// A directory of images with text files is read in batches of one size.
func Example() {
	dir, err := os.MkdirTemp("", "captioned")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"cat", "dog", "owl"} {
		var img bytes.Buffer
		if err := png.Encode(&img, image.NewGray(image.Rect(0, 0, 64, 64))); err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".png"), img.Bytes(), 0o600); err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".txt"), []byte("a photo of the "+name), 0o600); err != nil {
			log.Fatal(err)
		}
	}

	set, err := captioned.Open(context.Background(), dir, captioned.Options{Resolution: 64})
	if err != nil {
		log.Fatal(err)
	}
	defer set.Close()
	fmt.Println(set.Summary())

	order := set.Order(captioned.OrderOptions{Seed: 1, Batch: 2})
	for batch := range order.From(0) {
		for _, item := range batch {
			img, err := set.Read(item)
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(item.Position, item.Caption, img.Bounds().Size())
		}
		if batch[0].Position >= 4 {
			break
		}
	}
	// Output:
	// 3 images
	// all with captions
	// 64×64: 3 images
	// 0 a photo of the dog (64,64)
	// 1 a photo of the owl (64,64)
	// 2 a photo of the cat (64,64)
	// 3 a photo of the cat (64,64)
	// 4 a photo of the dog (64,64)
	// 5 a photo of the owl (64,64)
}
