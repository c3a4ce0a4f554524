package main

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// captionedImages writes images of 64×64 pixels with captions.
func captionedImages(t *testing.T, dir string, n int) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for i := range n {
		img := image.NewNRGBA(image.Rect(0, 0, 64, 64))
		for p := range 64 * 64 {
			img.SetNRGBA(p%64, p/64, color.NRGBA{uint8(p%64*4 + i), uint8(p / 16), uint8(30 * i), 255})
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d.png", i)))
		require.NoError(t, err)
		require.NoError(t, png.Encode(f, img))
		require.NoError(t, f.Close())
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.txt", i)), []byte("a cat"), 0o644))
	}
}

// train-lcm and train-lora train adapters that generate uses, say what a run would be without starting it, and resume.
func TestFinetune(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tiny.Write(at("sd15"), "sd15"))
	captionedImages(t, at("photos"), 3)
	require.NoError(t, os.WriteFile(at("prompts.txt"), []byte("a cat\n"), 0o644))
	for _, command := range []string{"train-lcm --lora", "train-lora"} {
		out := at("runs/" + strings.Fields(command)[0])
		words := strings.Fields(command + " --model " + at("sd15") + " --data " + at("photos") + " --out " + out + " --rank 4 --batch 2 --steps 4 --save-every 2 --lr 0.01 --val-steps 2 --val-prompts " +
			at("prompts.txt") + " --cache " + at("cache") + " --json")
		code, stdout, stderr := try(append(words, "--dry-run")...)
		require.Zero(t, code, stderr)
		var plan struct {
			Modules, Parameters, Images, Captioned int
			Memory                                 float64
			Options                                map[string]any
		}
		require.NoError(t, json.Unmarshal([]byte(stdout), &plan))
		require.Equal(t, 78, plan.Modules)
		require.Equal(t, []int{3, 3}, []int{plan.Images, plan.Captioned})
		require.Positive(t, plan.Memory)
		require.InDelta(t, 4, plan.Options["steps"], 0)
		require.NoDirExists(t, out)

		code, stdout, stderr = try(words...)
		require.Zero(t, code, stderr)
		var got finetuned
		require.NoError(t, json.Unmarshal([]byte(stdout), &got))
		require.Equal(t, 4, got.Step)
		require.True(t, got.Finished)
		require.FileExists(t, got.Best)
		require.FileExists(t, filepath.Join(out, "samples-0000004.png"))
		logged, err := os.ReadFile(filepath.Join(out, "log.txt"))
		require.NoError(t, err)
		require.Contains(t, string(logged), "val_loss=")
		require.Contains(t, string(logged), "model-0000004.safetensors")
		f, err := safetensors.Open(got.Snapshot)
		require.NoError(t, err)
		values := 0
		for x := range f.Tensors() {
			if strings.HasSuffix(x.Name, "lora_up.weight") {
				values += x.Shape[0] * x.Shape[1]
			} else if strings.HasSuffix(x.Name, "lora_down.weight") {
				n := 1
				for _, d := range x.Shape {
					n *= d
				}
				values += n
			}
		}
		require.Equal(t, plan.Parameters, values, "what the dry run counted")
		require.NoError(t, f.Close())

		code, _, stderr = try(words...)
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "--resume")
		code, stdout, stderr = try(strings.Fields(command + " --out " + out + " --resume --steps 6 --json")...)
		require.Zero(t, code, stderr)
		require.NoError(t, json.Unmarshal([]byte(stdout), &got))
		require.Equal(t, 6, got.Step, "with a constant learning rate a run may be made longer")
		text, err := os.ReadFile(filepath.Join(out, "options.json"))
		require.NoError(t, err)
		var kept struct{ Steps int }
		require.NoError(t, json.Unmarshal(text, &kept))
		require.Equal(t, 6, kept.Steps, "which --resume alone then resumes to")
		code, stdout, stderr = try(strings.Fields(command + " --out " + out + " --resume --json")...)
		require.Zero(t, code, stderr)
		require.NoError(t, json.Unmarshal([]byte(stdout), &got))
		require.True(t, got.Finished, "and resumes to its new end")
		code, _, stderr = try(strings.Fields(command + " --out " + out + " --resume --lr 0.5")...)
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "lr was 0.01")

		code, _, stderr = try(strings.Fields("generate --model " + at("sd15") + " --lora " + got.Snapshot + " --sampler lcm --steps 2 --seed 1 --prompt cat --out " + at("with.png"))...)
		require.Zero(t, code, stderr)
		require.NoError(t, os.Remove(at("with.png")))
	}

	code, stdout, stderr := try("train-lora", "--model", at("sd15"), "--data", at("photos"), "--out", at("r"), "--rank", "4", "--batch", "1", "--steps", "4000", "--dry-run")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, " 1333 epochs\n")

	for args, want := range map[string][]string{
		"train-lcm --lora": {"2", "--model is required"},
		"train-lcm --lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 17":                         {"2", "--rank"},
		"train-lcm --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4":                                 {"2", "pass --lora"},
		"train-lcm --lora --model DIR/nothing --data DIR/photos --out DIR/r --rank 4":                       {"1", "--model DIR/nothing"},
		"train-lcm --lora --model DIR/sd15 --data DIR/nothing --out DIR/r --rank 4":                         {"1", "--data"},
		"train-lcm --lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --lr-warmup 1.5":          {"2", "--lr-warmup"},
		"train-lcm --lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --batch 60000":            {"3", "--batch"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --text-lr 0.1":                  {"2", "--text-encoder"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --match 3":                      {"2", "pass --few-step"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --match 30":                     {"2", "pass --few-step"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --val-steps 25":                 {"2", "pass --val-prompts"},
		"train-lcm --model DIR/sd15 --data DIR/photos --out DIR/r --rank 64":                                {"2", "pass --lora"},
		"train-lcm --lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --target-ema 0.95":        {"2", "--target-ema"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --few-step DIR/x.safetensors":   {"1", "--few-step DIR/x.safetensors: no such file"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --few-step DIR/prompts.txt=0.8": {"1", "takes no scale: --few-step DIR/prompts.txt"},
		"train-lcm --lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --loss l2 --huber-c 0.1":  {"2", "--loss l2"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --init DIR/x.safetensors":       {"2", "--init"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/runs/train-lcm --rank 4":                   {"1", "pass --resume"},
		"train-lora --out DIR/nothere --resume":                                                             {"2", "there is no run in DIR/nothere"},
		"train-lora --out DIR/runs/train-lcm --resume":                                                      {"2", "train-lora"},
		"train-lora --model DIR/sd15 --data DIR/photos --out DIR/r --rank 4 --val-prompts DIR/nothing.txt":  {"1", "--val-prompts"},
	} {
		code, stdout, stderr := try(strings.Fields(strings.ReplaceAll(args, "DIR", dir))...)
		require.Equal(t, want[0], fmt.Sprint(code), "%s: %s", args, stderr)
		require.Empty(t, stdout)
		require.Contains(t, stderr, strings.ReplaceAll(want[1], "DIR", dir), args)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		require.NoDirExists(t, at("r"))
	}
}

// info, generate and lora merge take runs: that of a full model by its directory of diffusers, that of an adapter by its best snapshot.
func TestRunsOfFinetune(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "sd15"), "sd15"))
	captionedImages(t, filepath.Join(dir, "photos"), 2)
	do := func(want int, line string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := try(strings.Fields(strings.ReplaceAll(line, "DIR", dir))...)
		require.Equal(t, want, code, "%s: %s", line, stderr)
		return stdout, stderr
	}
	const train = " --model DIR/sd15 --data DIR/photos --cache DIR/cache --batch 1 --steps 2 --save-every 1 --lr 0.01"
	do(0, "train-lcm --out DIR/runs/full --val-batches 0"+train)
	do(0, "train-lcm --lora --rank 2 --out DIR/runs/lcm"+train)

	out, _ := do(0, "info DIR/runs/full")
	require.Contains(t, out, "2 snapshots, the last after step 2")
	require.NotRegexp(t, `(?m)^  (rank|layout) `, out)
	out, _ = do(0, "info DIR/runs/lcm")
	require.Regexp(t, `(?m)^  rank +2$`, out)
	require.NotContains(t, out, "target_ema")
	out, _ = do(0, "info DIR/runs")
	require.Regexp(t, `(?m)/full +train-lcm on .*step 2$`, out)

	_, notes := do(0, "generate --model DIR/runs/full --steps 1 --prompt cat --out DIR/full.png")
	require.Contains(t, notes, "model-0000002")
	_, notes = do(0, "generate --model DIR/sd15 --lora DIR/runs/lcm=0.5 --sampler lcm --steps 1 --prompt cat --out DIR/lcm.png")
	require.Contains(t, notes, "best.safetensors")
	_, notes = do(0, "lora merge --model DIR/sd15 --lora DIR/runs/lcm --out DIR/merged")
	require.Contains(t, notes, "best.safetensors")
	// Its tag is the run's name, and finds it.
	out, _ = do(0, "info DIR/lcm.png")
	require.Contains(t, out, "<lora:lcm:0.5>")
	do(0, "generate --model DIR/sd15 --lora-dir DIR/runs --sampler lcm --steps 1 --seed 1 --prompt cat<lora:lcm:0.5> --out DIR/tag.png")
	do(0, "generate --model DIR/sd15 --lora DIR/runs/lcm=0.5 --sampler lcm --steps 1 --seed 1 --prompt cat --out DIR/flag.png")
	require.Equal(t, pixelsOf(t, filepath.Join(dir, "flag.png")), pixelsOf(t, filepath.Join(dir, "tag.png")))
	// Other commands take runs, too.
	_, notes = do(0, "convert --model DIR/runs/full --out DIR/converted")
	require.Contains(t, notes, "model-0000002")
	out, notes = do(0, "lora info DIR/runs/lcm")
	require.Contains(t, notes, "best.safetensors")
	require.Contains(t, out, "kohya")
	_, notes = do(0, "train-lora --out DIR/again --init DIR/runs/lcm --dry-run"+train)
	require.Contains(t, notes, "best.safetensors")
	_, notes = do(1, "train-lora --rank 2 --out DIR/again --dry-run"+strings.Replace(train, "DIR/sd15", "DIR/runs/full", 1))
	require.Contains(t, notes, "model-0000002", "a latent consistency model is no teacher, but it was found")
	_, notes = do(2, "generate --model DIR/runs/lcm --prompt cat --out DIR/no.png")
	require.Contains(t, notes, "--lora "+dir+"/runs/lcm/best.safetensors")
	_, notes = do(2, "generate --model DIR/sd15 --lora DIR/runs/full --prompt cat --out DIR/no.png")
	require.Contains(t, notes, "--model "+dir+"/runs/full")
}

// Errors about data name the flag that helps, or the one whose file or directory is at fault; what is ignored or skipped is said.
func TestFlagsOfDataErrors(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "sd15"), "sd15"))
	captionedImages(t, filepath.Join(dir, "photos"), 2)
	captionedImages(t, filepath.Join(dir, "bare"), 1)
	require.NoError(t, os.Remove(filepath.Join(dir, "bare", "0.txt")))
	captionedImages(t, filepath.Join(dir, "column"), 1)
	put := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	put("column/metadata.jsonl", `{"file_name": "0.png", "words": "a cat"}`)
	put("file", "x")
	captionedImages(t, filepath.Join(dir, "gone"), 1)
	put("gone/metadata.jsonl", `{"file_name": "0.png", "text": "a cat"}`+"\n"+`{"file_name": "nowhere.png", "text": "a dog"}`)
	captionedImages(t, filepath.Join(dir, "half"), 2)
	whole, err := os.ReadFile(filepath.Join(dir, "half", "0.png"))
	require.NoError(t, err)
	put("half/0.png", string(whole[:len(whole)/2]))
	do := func(more string) (int, string) {
		code, _, stderr := try(strings.Fields(strings.ReplaceAll("train-lora --model DIR/sd15 --rank 2 --steps 1 --batch 1 --val-batches 0 --out DIR/r "+more, "DIR", dir))...)
		return code, stderr
	}
	for more, want := range map[string]string{
		"--data DIR/bare --cache none": "--allow-uncaptioned", "--data DIR/column --cache none": "--caption-column", "--data DIR/photos --cache none --buckets --resolution 64": "--resolution",
		"--data DIR/photos --cache DIR/file": "--cache: ", "--data DIR/photos --cache none --reg-data DIR/file": "--reg-data: ", "--data DIR/photos --cache none --reg-data DIR/none": "--reg-data: ",
		"--data DIR/gone --cache none": "nowhere.png",
	} {
		code, stderr := do(more)
		require.NotZero(t, code, more)
		require.Contains(t, stderr, want)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		require.NoDirExists(t, filepath.Join(dir, "r"))
	}
	for more, want := range map[string][]string{
		"--data DIR/column --caption-column words --cache none": {"images=1"}, "--data DIR/gone --corrupt skip --cache none": {"nowhere.png", "corrupt=1"},
		"--data DIR/half --corrupt skip --cache DIR/cache": {"corrupt=1"}, "--data DIR/photos --reg-data DIR/half --corrupt skip --cache DIR/cache --prior-weight 0.5": {"images=4"},
		"--data DIR/photos --cache none --prior-weight 0.5": {"prior loss weight has no effect"},
	} {
		code, stderr := do(more)
		require.Zero(t, code, stderr)
		for _, want := range want {
			require.Contains(t, stderr, want, more)
		}
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "r")))
	}
}

// What a --config has beside options is said, one of another command is refused, and types may have PyTorch's names.
func TestConfigOfFinetune(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "sd15"), "sd15"))
	captionedImages(t, filepath.Join(dir, "photos"), 2)
	put := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "c.json"), []byte(text), 0o600))
	}
	args := strings.Fields(strings.ReplaceAll("train-lcm --lora --model DIR/sd15 --data DIR/photos --rank 4 --out DIR/r --dry-run --json --dtype torch.bfloat16 --save-dtype fp16 --skip 30 --config DIR/c.json", "DIR", dir))
	put(`{"run": "train-lcm", "onestep": "1", "threads": 3, "model_holds": "x", "lr": 0.5}`)
	code, out, errs := try(args...)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "model_holds")
	require.NotContains(t, errs, "threads", "which is one of the command's own")
	var plan struct {
		Options map[string]any
		Notices []string
	}
	require.NoError(t, json.Unmarshal([]byte(out), &plan))
	require.Equal(t, []any{0.5, "bf16", "f16"}, []any{plan.Options["lr"], plan.Options["dtype"], plan.Options["save_dtype"]})
	require.Contains(t, strings.Join(plan.Notices, "\n"), "step 30 does not divide the 1000 timesteps")
	put(`{"run": "train-lora"}`)
	code, _, errs = try(args...)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "train-lora")
}

// A dry run refuses what the run refuses.
func TestDryRunRefuses(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "sd15"), "sd15"))
	captionedImages(t, filepath.Join(dir, "photos"), 2)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "full"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "full", "mine.txt"), nil, 0o600))
	for more, want := range map[string]string{
		"--out DIR/r --resolution 100": "--resolution", "--out DIR/r --clip-skip 11": "--clip-skip", "--out DIR/r --targets to_q,nowhere": "--targets",
		"--out DIR/full": "DIR/full", "--out DIR/r --val-data DIR/nothing": "--val-data", "--out DIR/r --device cuda:99": "cuda:99",
	} {
		args := strings.Fields(strings.ReplaceAll("train-lcm --lora --model DIR/sd15 --data DIR/photos --rank 4 --dry-run "+more, "DIR", dir))
		code, stdout, stderr := try(args...)
		require.NotZero(t, code, more)
		require.Empty(t, stdout)
		require.Contains(t, stderr, strings.ReplaceAll(want, "DIR", dir))
	}
}

// Ctrl-C saves; the same command with --resume continues.
func TestFinetuneIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "sd15"), "sd15"))
	captionedImages(t, filepath.Join(dir, "photos"), 2)
	ctx, stop := context.WithCancel(t.Context())
	args := strings.Fields(strings.ReplaceAll("train-lcm --lora --model DIR/sd15 --data DIR/photos --out DIR/run --rank 4 --batch 1 --steps 100000 --cache DIR/cache --save-every 100000 --val-batches 0", "DIR", dir))
	var out, errs strings.Builder
	done := make(chan int)
	go func() { done <- run(ctx, args, &out, &errs) }()
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "run", "stats.jsonl"))
		return err == nil && len(text) > 0
	}, 5*time.Minute, 10*time.Millisecond)
	stop()
	require.Equal(t, exitInterrupted, <-done)
	require.Contains(t, errs.String(), "--resume continues")
	states, err := filepath.Glob(filepath.Join(dir, "run", "state-*"))
	require.NoError(t, err)
	require.Len(t, states, 1)

	// So does one whose time is over, and other threads than before are said.
	code, result, stderr := try(strings.Fields(strings.ReplaceAll("train-lcm --lora --out DIR/run --resume --duration 1ns --threads 1 --json", "DIR", dir))...)
	require.Zero(t, code, stderr)
	require.Contains(t, stderr, "of 100000; the same command with --resume continues\n")
	require.Equal(t, runtime.NumCPU() != 1, strings.Contains(stderr, "--threads"), stderr)
	var got finetuned
	require.NoError(t, json.Unmarshal([]byte(result), &got))
	require.False(t, got.Finished)
	code, _, stderr = try(strings.Fields(strings.ReplaceAll("train-lcm --lora --out DIR/run --resume --duration 1ns --json", "DIR", dir))...)
	require.Zero(t, code, stderr)
	require.NotContains(t, stderr, "--threads", "it has the run's number")
	was, err := os.ReadFile(filepath.Join(dir, "run", "options.json"))
	require.NoError(t, err)
	require.Regexp(t, `"threads": 1\b`, string(was))
}

// The commands of docs/lcm-lora.md work in their order, here with a tiny model and few steps.
func TestLCMLoRADocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/lcm-lora.md")
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	require.NoError(t, tiny.Write("sd15", "sd15"))
	captionedImages(t, "photos", 2)
	captionedImages(t, "cats", 2)
	require.NoError(t, os.WriteFile("prompts.txt", []byte("a cat\n"), 0o644))
	_, dataset, ok := strings.Cut(string(text), "```toml\n")
	require.True(t, ok)
	dataset, _, _ = strings.Cut(dataset, "```")
	require.NoError(t, os.WriteFile("dataset.toml", []byte(dataset), 0o644))
	n := 0
	for line := range strings.Lines(string(text)) {
		command, ok := strings.CutPrefix(line, "    bin/onestep ")
		if !ok {
			continue
		}
		n++
		args := strings.Fields(strings.NewReplacer(`"a cat"`, "cat", "model-0001000", "model-0000002").Replace(command))
		if strings.HasPrefix(args[0], "train") && !strings.Contains(command, "--resume") {
			args = append(args, "--batch", "1", "--cache", "cache", "--steps", "2")
			if strings.Contains(command, "--val-prompts") {
				args = append(args, "--val-steps", "1")
			}
			if (args[0] == "train-lora" || strings.Contains(command, "--lora")) && !strings.Contains(command, "--init") {
				args = append(args, "--rank", "4")
			}
		}
		code, _, stderr := try(args...)
		require.Zero(t, code, "%s: %s", command, stderr)
	}
	require.Equal(t, 11, n)
	for _, name := range []string{"cat.png", "styled.png", "full.png"} {
		require.FileExists(t, name)
	}
}
