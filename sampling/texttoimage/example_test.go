package texttoimage_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// small opens a tiny Stable Diffusion model, whose images are noise, in a temporary directory.
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
	return m, dir, func() {
		_ = m.Close()
		_ = os.RemoveAll(dir)
	}
}

// A plan has the final settings. It is made once and can generate any number of times.
func ExamplePipeline_Plan() {
	m, _, done := small()
	defer done()
	p := texttoimage.Pipeline{Model: m, Seed: 7, Negative: "blurry"}
	plan, err := p.Plan("a cat", "a dog")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(plan.Method, plan.Timesteps, plan.Guidance, plan.Width, plan.Height)
	for _, notice := range plan.Notices {
		fmt.Println(notice)
	}
	for image, err := range plan.Images(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(image.Bounds().Size())
	}
	// Output:
	// lcm [999 759 499 259] 1 64 64
	// the negative prompt has no effect without guidance: use a guidance scale above 1
	// (64,64)
	// (64,64)
}

// Write images with their settings in A1111's format.
func ExamplePipeline_Results() {
	m, dir, done := small()
	defer done()
	draw := texttoimage.Pipeline{Model: m, Steps: 2, Guidance: 5, Negative: "blurry", Seed: 7}
	for r, err := range draw.Results(context.Background(), "a cat", "a dog") {
		if err != nil {
			log.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.png", r.Prompt))
		if err := vision.Write(path, r.Image, vision.WriteOptions{Texts: r.Texts}); err != nil {
			log.Fatal(err)
		}
		fmt.Println(r.Image.Bounds().Size(), r.Texts[0].Value)
	}
	// Output:
	// (64,64) a cat
	// Negative prompt: blurry
	// Steps: 2, Sampler: LCM, CFG scale: 5, Seed: 7, Size: 64x64, Model: model, RNG: CPU, Version: onestep
	// (64,64) a dog
	// Negative prompt: blurry
	// Steps: 2, Sampler: LCM, CFG scale: 5, Seed: 7, Size: 64x64, Model: model, RNG: CPU, Version: onestep
}

// Encode a prompt once and generate with several seeds.
func ExamplePipeline_Encode() {
	m, _, done := small()
	defer done()
	ctx := context.Background()
	draw := texttoimage.Pipeline{Model: m, Steps: 2, Guidance: 5}
	err := torch.Run(m.Device(), func(s *torch.Scope) error {
		embeds, err := draw.Encode(ctx, s, "a cat")
		if err != nil {
			return err
		}
		fmt.Println(embeds.Prompt.Shape(), embeds.Negative.Shape())
		draw.PromptEmbeds = []texttoimage.Embeds{embeds}
		for draw.Seed = range 3 {
			for image, err := range draw.Images(ctx) {
				if err != nil {
					return err
				}
				fmt.Println(draw.Seed, image.Bounds().Size())
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// [1 77 16] [1 77 16]
	// 0 (64,64)
	// 1 (64,64)
	// 2 (64,64)
}

// Start from given noise, keep the latents, and decode them later.
func ExamplePipeline_Decode() {
	m, _, done := small()
	defer done()
	ctx := context.Background()
	err := torch.Run(m.Device(), func(s *torch.Scope) error {
		noise := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 1, 4, 8, 8)
		draw := texttoimage.Pipeline{Model: m, Steps: 2, Latents: noise, LatentsOnly: true}
		var latents *torch.Tensor
		for st, err := range draw.Run(ctx, "a cat") {
			if err != nil {
				return err
			}
			if st.I == st.Steps {
				if latents, err = st.Latents(s); err != nil {
					return err
				}
			}
		}
		images, err := draw.Decode(ctx, latents)
		if err != nil {
			return err
		}
		fmt.Println(latents.Shape(), images[0].Bounds().Size())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// [1 4 8 8] (64,64)
}
