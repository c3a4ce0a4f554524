package tests

import (
	"go/format"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch/vision"
)

// captionedImages writes images of 64×64 pixels with captions.
func captionedImages(t *testing.T, dir string, captions ...string) {
	t.Helper()
	require.NoError(t, os.Mkdir(dir, 0o755))
	for i, caption := range captions {
		img := image.NewNRGBA(image.Rect(0, 0, 64, 64))
		for p := range 64 * 64 {
			img.SetNRGBA(p%64, p/64, color.NRGBA{uint8(p%64*4 + 50*i), uint8(p / 16), uint8(90 * i), 255})
		}
		name := filepath.Join(dir, string(rune('a'+i)))
		require.NoError(t, vision.Write(name+".png", img, vision.WriteOptions{}))
		require.NoError(t, os.WriteFile(name+".txt", []byte(caption), 0o644))
	}
}

// The program of docs/lcm-lora.md, at most 40 lines of another module, trains an LCM-LoRA on captioned images and generates with it, here with a
// tiny model and few steps: the same adapter and the same image as the command line's, to the bit.
func TestLCMLoRAProgram(t *testing.T) {
	root := source(t)
	text, err := os.ReadFile(filepath.Join(root, "docs", "lcm-lora.md"))
	require.NoError(t, err)
	_, program, ok := strings.Cut(string(text), "```go\n")
	require.True(t, ok)
	program, _, ok = strings.Cut(program, "```\n")
	require.True(t, ok)
	require.LessOrEqual(t, strings.Count(program, "\n"), 40)
	formatted, err := format.Source([]byte(program))
	require.NoError(t, err)
	require.Equal(t, string(formatted), program)

	const steps, adapter = "Steps: 1000,", "LoRA: true,"
	require.Contains(t, program, steps)
	require.Contains(t, program, adapter)
	short := strings.ReplaceAll(program, steps, `Steps: 3, Batch: 2, LR: 0.01, Cache: "cache",`) // whose image shows that it was trained
	short = strings.ReplaceAll(short, adapter, adapter+" Adapter: finetune.Adapter{Rank: 4},")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("main.go"), []byte(short), 0o644))
	module(t, dir, root)
	require.NoError(t, tinysd.Write(at("sd15"), "sd15"))
	captionedImages(t, at("photos"), "a cat", "a dog", "a red cat")
	runIn(t, dir, "go", "build", "-mod=mod", "-o", "user", ".")
	runIn(t, dir, at("user"))

	onestep := tool(t)
	run := func(args string, more ...string) {
		t.Helper()
		runIn(t, dir, onestep, append(append(strings.Fields(args), "--threads", "1"), more...)...)
	}
	run("train-lcm --lora --rank 4 --model sd15 --data photos --steps 3 --batch 2 --lr 0.01 --cache cache --out runs/tool")
	require.Equal(t, weightsOf(t, at("runs/tool/best.safetensors")), weightsOf(t, at("runs/go/best.safetensors")))
	run("train-lcm --lora --out runs/go --resume --steps 4")
	require.FileExists(t, at("runs/go/model-0000004.safetensors"), "the command line resumes the program's run")
	run("generate --model sd15 --lora runs/tool/best.safetensors --sampler lcm --steps 4 --seed 0 --out tool.png", "--prompt", "a cat")
	run("generate --model sd15 --sampler lcm --steps 4 --seed 0 --out plain.png", "--prompt", "a cat")
	ours := readPNG(t, at("cat.png"))
	require.True(t, reflect.DeepEqual(readPNG(t, at("tool.png")), ours))
	require.False(t, reflect.DeepEqual(readPNG(t, at("plain.png")), ours))
}
