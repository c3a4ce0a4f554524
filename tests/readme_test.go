package tests

import (
	"image"
	"image/color"
	"image/draw"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
)

// workplace is a folder with what the commands of the README and of the help texts name: small models under the names of real ones.
func workplace(t *testing.T, onestep string) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	folder := func(names ...string) {
		for _, name := range names {
			require.NoError(t, os.MkdirAll(at(name), 0o777))
		}
	}
	same := func(name string, is ...string) {
		for _, other := range is {
			if st, err := os.Stat(at(name)); err == nil && st.IsDir() {
				require.NoError(t, os.CopyFS(at(other), os.DirFS(at(name))))
				continue
			}
			data, err := os.ReadFile(at(name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(at(other), data, 0o666))
		}
	}
	folder("bin", "photos/cat", "photos/dog", "loras", "embeddings", "data/onestep")
	require.NoError(t, os.Symlink(onestep, at("bin/onestep")))
	for i := range 16 {
		m := image.NewNRGBA(image.Rect(0, 0, 40, 40))
		for p := range 40 * 40 {
			m.Set(p%40, p/40, color.NRGBA{uint8(16 * i), uint8(p), uint8(p / 40), 255})
		}
		name := at("photos/" + []string{"cat", "dog"}[i%2] + "/" + string(rune('a'+i)))
		require.NoError(t, vision.Write(name+".png", m, vision.WriteOptions{}))
		require.NoError(t, os.WriteFile(name+".txt", []byte("image "+string(rune('a'+i))), 0o666))
	}
	same("photos", "style", "emoji", "captioned")
	require.NoError(t, os.WriteFile(at("prompts.txt"), []byte("a cat\n"), 0o666))
	require.NoError(t, os.WriteFile(at("keys.txt"), []byte("0123456789abcdef\n"), 0o600))
	writeExtractor(t, at("data/onestep/efficientnet_lite0.safetensors"))
	require.NoError(t, tinysd.Write(at("sd15"), "sd15"))
	require.NoError(t, tinysd.Write(at("LCM_Dreamshaper_v7"), "lcm15"))
	require.NoError(t, tinysd.Write(at("sdxl"), "sdxl"))
	same("LCM_Dreamshaper_v7", "lcm")
	same("sdxl/unet", "lcm-sdxl")
	same("sdxl/vae", "sdxl-vae-fp16-fix")
	same("sd15/vae", "taef2")
	same("sdxl/unet/diffusion_pytorch_model.safetensors", "sdxl_lightning_4step_unet.safetensors")
	m, err := weights.Open(at("sd15"), weights.Options{})
	require.NoError(t, err)
	require.NoError(t, weights.WriteSingle(at("sd15.safetensors"), m, weights.WriteOptions{}))
	require.NoError(t, m.Close())
	same("sd15.safetensors", "v1-5-pruned-emaonly.safetensors")

	model, err := sd.Open(at("sd15"), sd.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, model.Close()) }()
	a, err := lora.New(lora.Of(model), lora.Config{Rank: 2})
	require.NoError(t, err)
	defer a.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 3)
			for name, p := range a.Parameters() {
				if strings.HasSuffix(name, ".lora_B.weight") {
					p.NormalInPlace(s, 0, 0.2, g)
				}
			}
			return nil
		})
	}))
	require.NoError(t, a.Write(at("style.safetensors"), lora.WriteOptions{}))
	same("style.safetensors", "lcm-lora-sdv1-5.safetensors", "pytorch_lora_weights.safetensors", "loras/lcm.safetensors", "loras/ink.safetensors")

	run := func(args ...string) {
		t.Helper()
		cmd, _, errs := command(onestep, args...)
		cmd.Dir = dir
		require.NoError(t, cmd.Run(), errs)
	}
	run("lora", "merge", "--model", "sd15", "--lora", "style.safetensors", "--out", "tuned.safetensors")
	same("tuned.safetensors", "dreamshaper.safetensors")
	small := []string{"train", "--data", "photos", "--resolution", "8", "--channels", "8", "--mult", "1,2", "--blocks", "1", "--batch", "4", "--threads", "1", "--steps", "2",
		"--save-every", "1", "--sample-every", "0"}
	run(append(small, "--out", "runs/fashion", "--classes")...)
	run(append(small, "--out", "runs/emoji", "--widths", "0.05,0.1")...)
	same("runs/fashion/model-0000002.safetensors", "model.safetensors")
	run("sample", "--model", "runs/fashion", "--n", "1", "--out", "house.png", "--threads", "1")
	run("sample", "--model", "runs/fashion", "--n", "12", "--out", "samples/", "--threads", "1")
	same("photos/cat/a.png", "photo.png", "painting.png")
	openai, err := os.ReadFile("../models/checkpoint/testdata/consistency.pt")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("cd_imagenet64_l2.pt"), openai, 0o666))
	require.NoError(t, os.WriteFile(at("cd_imagenet64_l2.json"), []byte(`{"image_size": 8, "num_head_channels": 16}`), 0o666))
	run("convert", "--model", "cd_imagenet64_l2.pt", "--out", "diffusers-cd_imagenet64_l2")
	require.NoError(t, os.CopyFS(at("docs/editing"), os.DirFS("../docs/editing")))
	mask := image.NewGray(image.Rect(0, 0, 40, 40))
	draw.Draw(mask, image.Rect(0, 20, 40, 40), image.White, image.Point{}, draw.Src)
	require.NoError(t, vision.Write(at("mask.png"), mask, vision.WriteOptions{}))
	return dir
}

// writeExtractor writes random weights of the network whose features eval compares.
func writeExtractor(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		_, metadata := torchtest.Golden(t, s, "../models/efficientnet/testdata/golden.safetensors")
		g := torch.NewGenerator(s, 1)
		return torch.SaveSafetensors(path, torchtest.Drawn(t, metadata["layout"], func(_ string, dims []int) *torch.Tensor {
			if len(dims) != 4 {
				return torch.Ones(s, torch.Float32, dims...) // of norms
			}
			return torch.Randn(s, g, torch.Float32, dims...).MulScalar(s, math.Sqrt(2/float64(dims[1]*dims[2]*dims[3])))
		}), torch.SaveOptions{})
	}))
}

var (
	stepsOf = regexp.MustCompile(`--steps \d+`)
	outOf   = regexp.MustCompile(`--out (\S+)`)
	nOf     = regexp.MustCompile(`--n \d+`)
)

// The commands of the README and the examples of the help texts work as they are written, with small models under the names of the real
// ones. Training ends after two steps.
func TestReadmeCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("runs some forty commands")
	}
	onestep := tool(t)
	dir := workplace(t, onestep)
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	var all []string
	for _, line := range strings.Split(strings.ReplaceAll(string(text), "\\\n", " "), "\n") {
		if line, ok := strings.CutPrefix(line, "    bin/onestep "); ok {
			all = append(all, line)
		}
	}
	require.Greater(t, len(all), 15)
	help, err := filepath.Glob("../cmd/onestep/testdata/help/*.txt")
	require.NoError(t, err)
	for _, file := range help {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		_, examples, _ := strings.Cut(string(text), "Examples:\n")
		for _, line := range strings.Split(examples, "\n") {
			line, ok := strings.CutPrefix(line, "  onestep ")
			if !ok {
				break
			}
			all = append(all, line)
		}
	}
	seen := map[string]bool{} // the README and a help text may have the same example
	for _, line := range all {
		command, _, _ := strings.Cut(line, "  #")
		again := seen[strings.TrimSpace(command)]
		seen[strings.TrimSpace(command)] = true
		switch {
		case again:
			continue
		case strings.Contains(line, "cifar10") || strings.Contains(line, "fashion-mnist"): // which are not everywhere
			continue
		case strings.Contains(line, "--device cuda"), strings.Contains(line, ".ckpt"):
			continue
		}
		t.Run(line, func(t *testing.T) {
			if out := outOf.FindStringSubmatch(line); out != nil && out[1] != "sd15/" {
				require.NoError(t, os.RemoveAll(filepath.Join(dir, out[1]))) // of another example
			}
			if strings.HasPrefix(line, "train ") {
				line = stepsOf.ReplaceAllString(line, "") + " --steps 2 --batch 2 --channels 8"
			}
			if strings.HasPrefix(line, "lora convert ") { // which knows the published models alone by their adapters
				line += " --model sd15/"
			}
			line = strings.NewReplacer("model-0100000", "model-0000002", "taef2_encoder.safetensors", "taef2/", "--label 207", "--label 4",
				"--label 88,207", "--label 1,4").Replace(line)
			switch name, _, _ := strings.Cut(line, " "); {
			case name == "train-ldm": // in small
				line = stepsOf.ReplaceAllString(strings.ReplaceAll(line, " --size small", ""), "") + " --channels 32,32 --steps 2 --batch 1 --cache cache"
			case strings.HasPrefix(name, "train-l"):
				line = stepsOf.ReplaceAllString(line, "") + " --steps 2 --batch 1 --cache cache"
				if name == "train-lora" || strings.Contains(line, "--lora") {
					line += " --rank 4"
				}
			case name == "eval": // which takes seconds for each hundred images
				line = strings.ReplaceAll(nOf.ReplaceAllString(line, "--n 12"), "--data emoji ", "--data photos ") + " --no-cache --overwrite"
			}
			command, _, _ := strings.Cut(line, "  #")
			if args := strings.Fields(command); args[0] == "serve" { // on a port that is free
				s := startServe(t, dir, append(args[1:], "--addr", "127.0.0.1:0", "--threads", "1")...)
				code, _ := s.get(t, "/readyz")
				assert.Equal(t, 200, code)
				assert.Zero(t, s.end(syscall.SIGTERM), s.errs)
				return
			}
			cmd := exec.Command("sh", "-c", "bin/onestep "+command)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "XDG_DATA_HOME="+filepath.Join(dir, "data"))
			got, err := cmd.CombinedOutput()
			assert.NoError(t, err, string(got))
			if out := outOf.FindStringSubmatch(line); out != nil && !strings.Contains(line, "--dry-run") {
				_, err := os.Stat(filepath.Join(dir, out[1]))
				assert.NoError(t, err)
			}
		})
	}
}
