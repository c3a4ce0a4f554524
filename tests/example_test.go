package tests

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/recipe"
)

// README: train
func train(ctx context.Context, out string, steps int) error {
	run := recipe.Run{Method: &recipe.ICT{S1: 40}, Data: "emoji", Resolution: 16, Batch: 32, Steps: steps, Out: out, Resume: true}
	_, err := run.Train(ctx) // a cancelled run is saved, and resumes from there
	return err
}

// README: sample
func sample(ctx context.Context, path string, prompts ...string) error {
	m, err := generate.Open(path, sd.Options{})
	if err != nil {
		return err
	}
	defer m.Close()
	for img, err := range m.Images(ctx, generate.Request{N: 4, Seed: 42, Prompts: prompts}) { // as they are finished; break stops
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%d-%d.png", img.Prompt, img.Seed)
		if err := vision.Write(name, img.Image, vision.WriteOptions{Texts: img.Texts}); err != nil { // with the settings, as A1111 writes them
			return err
		}
	}
	return nil
}

// README: trainParts
func trainParts(ctx context.Context, dev torch.Device, dir string, steps int) error {
	data, err := dataset.Open("emoji", dataset.Options{Resolution: 16})
	if err != nil {
		return err
	}
	net, err := unet.New(unet.DDPMPP(16, 3, 32, []int{1, 2}, 2, 8), dev, torch.Float32, 1)
	if err != nil {
		return err
	}
	defer net.Close()
	opt, err := optim.RAdam{LR: 1e-3}.New(net.Parameters())
	if err != nil {
		return err
	}
	defer opt.Close()
	t := training.Trainer{
		Objective: &training.CT{Model: &models.Consistency{Net: net}, Schedule: training.Doubling{S1: 40, Steps: steps},
			Index: training.LogNormal{}, Weight: training.InverseGap},
		Model: net, Optimizer: opt, Data: training.Images{Loader: &dataset.Loader{Dataset: data, Batch: 32, Seed: 1}},
		Dir: dir, Device: dev, Seed: 1, Steps: steps, // resumes from dir, if a run is there
	}
	_, err = t.Train(ctx)
	return err
}

// README: sampleParts
func sampleParts(ctx context.Context, path string, w io.Writer) error {
	f, err := checkpoint.Open(path, torch.CPU)
	if err != nil {
		return err
	}
	defer f.Close()
	return torch.Run(torch.CPU, func(s *torch.Scope) error {
		streams := noise.NewStreams(s, 42, 43, 44, 45)       // one image per seed
		levels := sampling.Levels(f.Description.SigmaMax, 1) // one step, to 0
		x := streams.Randn(s, torch.Float32, f.Shape()...).MulScalar(s, levels[0])
		x, err := sampling.Multistep{}.Sample(ctx, s, f, x, sampling.Options{Levels: levels, Streams: streams})
		if err != nil {
			return err
		}
		images, err := vision.ToImages(x)
		if err != nil {
			return err
		}
		grid, err := vision.Grid(images, 2)
		if err != nil {
			return err
		}
		return png.Encode(w, grid)
	})
}

// README: withAdapter
func withAdapter(ctx context.Context, m *sd.Model, adapter, prompt string) (image.Image, error) {
	lcm, err := lora.Load(m, adapter, lora.Options{})
	if err != nil {
		return nil, err
	}
	defer lcm.Close()
	p := texttoimage.Pipeline{Model: m, Method: scheduler.LCM{}, Steps: 4, Adapters: lcm.At(1)} // lcm.At(1).And(style.At(0.8))
	for img, err := range p.Images(ctx, prompt) {
		return img, err
	}
	return nil, ctx.Err()
}

// The README's programs are these functions, word for word; they work, and are as short as it says.
func TestREADMEPrograms(t *testing.T) {
	require.NoError(t, torch.SetThreads(1))
	ctx, dir := context.Background(), t.TempDir()
	run, parts, model := filepath.Join(dir, "run"), filepath.Join(dir, "parts"), filepath.Join(dir, "tiny")
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	adapter, err := filepath.Abs(filepath.Join(loraFolder, "full-kohya.safetensors"))
	require.NoError(t, err)
	m, err := sd.Open(filepath.Join(sdFolder, "sd15"), sd.Options{})
	require.NoError(t, err)
	defer m.Close()

	require.NoError(t, trainParts(ctx, torch.CPU, parts, 2))
	var b bytes.Buffer
	require.NoError(t, sampleParts(ctx, parts, &b))
	grid, err := png.Decode(&b)
	require.NoError(t, err)
	require.Equal(t, 2*(16+2)+2, grid.Bounds().Dx())
	img, err := withAdapter(ctx, m, adapter, "a cat")
	require.NoError(t, err)
	require.Equal(t, 64, img.Bounds().Dx())

	require.NoError(t, tinysd.Write(model, "sd15"))
	t.Chdir(t.TempDir())
	require.NoError(t, train(ctx, run, 2))
	require.NoError(t, train(ctx, run, 2)) // which resumes, and has nothing left to do
	require.NoError(t, sample(ctx, run))
	require.FileExists(t, "0-45.png")
	require.NoError(t, os.Remove("0-42.png"))
	require.NoError(t, os.Remove("0-43.png"))
	require.NoError(t, os.Remove("0-44.png"))
	require.NoError(t, os.Remove("0-45.png"))
	require.NoError(t, sample(ctx, model, "a cat", "a dog"))
	require.FileExists(t, "1-45.png")

	for line := range strings.Lines(string(source)) {
		if path, ok := strings.CutPrefix(line, "\t\"github.com/onestep-go/onestep/"); ok {
			require.Contains(t, string(readme), "`"+strings.TrimSuffix(path, "\"\n")+"`", "the README's import paths")
		}
	}
	for _, name := range []string{"train", "sample", "trainParts", "sampleParts", "withAdapter"} {
		_, rest, ok := strings.Cut(string(source), "// README: "+name+"\n")
		require.True(t, ok)
		program, _, _ := strings.Cut(rest, "\n}\n")
		program += "\n}\n"
		require.LessOrEqual(t, strings.Count(program, "\n"), 25, name)
		require.Contains(t, string(readme), program, "the README's program %q", name)
	}
}
