package lora_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// small opens a tiny Stable Diffusion model, with an adapter for it in a directory, ink.safetensors.
func small() (m *sd.Model, dir string, done func()) {
	dir, err := os.MkdirTemp("", "example-")
	if err == nil {
		err = tiny.Write(filepath.Join(dir, "model"), "sd15")
	}
	if err == nil {
		m, err = sd.Open(filepath.Join(dir, "model"), sd.Options{})
	}
	if err != nil {
		log.Fatal(err)
	}
	a, err := lora.New(lora.Of(m), lora.Config{Rank: 4, Targets: []string{"to_q", "to_v"}})
	if err == nil {
		err = a.Write(filepath.Join(dir, "ink.safetensors"), lora.WriteOptions{})
	}
	if err != nil {
		log.Fatal(err)
	}
	_ = a.Close()
	return m, dir, func() {
		_ = m.Close()
		_ = os.RemoveAll(dir)
	}
}

// Load an adapter for a model and scale it; the model itself is not modified.
func ExampleLoad() {
	m, dir, done := small()
	defer done()
	ink, err := lora.Load(m, filepath.Join(dir, "ink.safetensors"), lora.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer ink.Close()
	fmt.Println(len(ink.Modules), "modules, the first:", ink.Modules[0].Name, ink.Modules[0].Kind, ink.Modules[0].Rank)

	p := texttoimage.Pipeline{Model: m, Steps: 2, Seed: 7, Adapters: ink.At(0.8)}
	for image, err := range p.Images(context.Background(), "a cat") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(image.Bounds().Size())
	}
	p.Adapters = ink.By(lora.Weights{"": 1, "unet.mid_block": 0}) // by block; nil is none
	for image, err := range p.Images(context.Background(), "a cat") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(image.Bounds().Size())
	}
	// Output:
	// 16 modules, the first: unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q LoRA 4
	// (64,64)
	// (64,64)
}

// A new adapter has a zero delta until it is trained. Write it in the layout of other programs.
func ExampleNew() {
	m, dir, done := small()
	defer done()
	a, err := lora.New(lora.Of(m), lora.Config{Rank: 8, Alpha: 4, Targets: []string{"to_q", "to_k", "to_v", "to_out.0"}, Seed: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	path := filepath.Join(dir, "new.safetensors")
	if err := a.Write(path, lora.WriteOptions{Layout: lora.PEFT}); err != nil {
		log.Fatal(err)
	}
	f, err := lora.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Println(f.Modules[0].Layout, f.Modules[0].Rank, f.Modules[0].Alpha, f.Modules[0].Scale)
	// Output:
	// peft 8 4 0.5
}

// Find adapters in a directory by a prompt's tags. They stay loaded as long as images are generated with them.
func ExampleCache() {
	m, dir, done := small()
	defer done()
	ctx := context.Background()
	cache := lora.NewCache(m, lora.CacheOptions{Dir: dir})
	defer cache.Close()

	var releases []func()
	p := texttoimage.Pipeline{Model: m, Steps: 2, Seed: 7}
	p.Tagged = func(tags []prompt.LoRA) (sd.Adaptation, error) {
		all, release, err := cache.Tagged(ctx, tags)
		if err == nil {
			releases = append(releases, release)
		}
		return all, err
	}
	for image, err := range p.Images(ctx, "a cat <lora:ink:0.8>") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(image.Bounds().Size())
	}
	for _, release := range releases {
		release()
	}
	// Output:
	// (64,64)
}
