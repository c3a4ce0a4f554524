package main

import (
	"bytes"
	"image"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Work that cannot fit into memory is refused before it starts, with an exit code of its own and both numbers, and leaves nothing: whichever
// flag or file asks for it.
func TestMemory(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tiny.WriteControlNet(at("control"), "sd15"))
	require.NoError(t, vision.Write(at("white.png"), image.NewNRGBA(image.Rect(0, 0, 64, 64)), vision.WriteOptions{}))
	require.NoError(t, vision.Write(at("a1111.png"), image.NewNRGBA(image.Rect(0, 0, 8, 8)), vision.WriteOptions{Texts: []vision.Text{{Keyword: "parameters",
		Value: "cat\nSteps: 1, Sampler: Euler, CFG scale: 1, Seed: 1, Size: 16384x16384"}}}))
	require.NoError(t, tiny.Write(at("large"), "sd15"))
	config := filepath.Join(at("large"), "unet", "config.json")
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	require.Contains(t, string(text), `"sample_size"`)
	require.NoError(t, os.WriteFile(config, bytes.Replace(text, []byte(`"sample_size":`), []byte(`"sample_size": 8192, "_":`), 1), 0o666))
	snapshot := snapshotOf(t, at("large.safetensors"), 4096)

	for _, line := range []string{
		"generate --model " + model + " --prompt cat --width 16384 --height 16384 --out DIR/a.png",
		"generate --model " + model + " --prompt cat --width 2048 --height 2048 --n 4096 --batch 1048576 --out DIR/s/",
		"generate --model " + model + " --prompt cat --width 2048 --height 2048 --n 4096 --shared-noise --out DIR/s/",
		"generate --model " + model + " --prompt cat --width 16384 --height 16384 --control-model DIR/control --control-image DIR/white.png --out DIR/a.png",
		"generate --model " + model + " --from DIR/a1111.png --out DIR/a.png",
		"generate --model DIR/large --prompt cat --out DIR/a.png",
		"sample --model builtin --n 1000000 --batch 1048576 --out DIR/s/",
		"sample --model " + snapshot + " --n 4096 --batch 4096 --out DIR/s/",
		"inspect --model " + snapshot + " --n 32 --out DIR/a.png",
		"train --data emoji --out DIR/r --batch 1048576",
		"train --data emoji --out DIR/r --batch 64 --resolution 1024",
		"train --data emoji --out DIR/r --batch 1048576 --resolution 1024",
		"train --data emoji --out DIR/r --method ict --resolution 1024 --batch 4096 --init " + snapshotOf(t, at("smaller.safetensors"), 1024),
	} {
		code, _, errs := try(strings.Fields(strings.ReplaceAll(line, "DIR", dir))...)
		require.Equal(t, exitMemory, code, "%s: %s", line, errs)
		require.Equal(t, 2, strings.Count(errs, "iB"), errs)
		require.Contains(t, errs, "--force", errs)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
	}
	for _, name := range []string{"a.png", "s", "r"} {
		require.NoFileExists(t, at(name))
		require.NoDirExists(t, at(name))
	}
	code, _, errs := try("generate", "--model", model, "--prompt", "cat", "--steps", "1", "--force", "--threads", "4096", "--out", at("b.png"))
	require.Zero(t, code, errs)
	require.Contains(t, errs, "4096")
}

// snapshotOf writes a model for images of that many pixels on a side.
func snapshotOf(t *testing.T, path string, side int) string {
	t.Helper()
	c := unet.Config{Resolution: side, Channels: 32, Mult: []int{1}, Blocks: 1, NoMidAttention: true}.WithDefaults()
	net, err := unet.New(c, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer net.Close()
	d, err := checkpoint.Describe(&models.Consistency{Net: net, Boundary: models.AtZero, Noise: models.ScaledLog, SigmaData: 0.5})
	require.NoError(t, err)
	d.SigmaMax = 80
	require.NoError(t, checkpoint.Save(path, d, net.Tensors(), checkpoint.SaveOptions{}))
	return path
}
