package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
)

// adapters writes a model of a kind, and two adapters for it into a folder beside it.
func adapters(t *testing.T, kind string) (model, dir string) {
	t.Helper()
	model, dir = filepath.Join(t.TempDir(), kind), t.TempDir()
	require.NoError(t, tiny.Write(model, kind))
	m, err := sd.Open(model, sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	for name, targets := range map[string][]string{"one": nil, "two": {"q_proj", "fc1"}} {
		a, err := lora.New(lora.Of(m), lora.Config{Rank: 2, Targets: targets})
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
		require.NoError(t, a.Write(filepath.Join(dir, name+".safetensors"), lora.WriteOptions{}))
	}
	return model, dir
}

// Adapters change pictures, by flags and by tags, at run time and merged, alike; the PNG says so, and repeats it to the byte.
func TestGenerateWithAdapters(t *testing.T) {
	model, dir := adapters(t, "sd15")
	out := func(name string) string { return filepath.Join(dir, name+".png") }
	draw := func(name, prompt string, more ...string) []byte {
		t.Helper()
		args := append([]string{"generate", "--model", model, "--prompt", prompt, "--steps", "2", "--seed", "3", "--threads", "1", "--out", out(name)}, more...)
		code, _, errs := try(args...)
		require.Zero(t, code, errs)
		return pixelsOf(t, out(name))
	}
	one, two := filepath.Join(dir, "one.safetensors"), filepath.Join(dir, "two.safetensors")
	bare := draw("bare", "a cat")
	with := draw("with", "a cat", "--lora", one+"=0.8", "--lora", two)
	require.NotEqual(t, bare, with)
	require.Equal(t, with, draw("tags", "a cat<lora:one:0.8><lora:two>", "--lora-dir", dir))
	require.Equal(t, with, draw("alias", "a cat<lyco:one:0.8>< LORA:two>", "--lora-dir", dir))
	require.Equal(t, with, draw("mixed", "a cat<lora:two>", "--lora-dir", dir, "--lora", one+"=0.8"))
	merged := draw("merged", "a cat", "--lora", one+"=0.8", "--lora", two, "--lora-apply", "merge")
	require.InDeltaSlice(t, with, merged, 1)
	require.Equal(t, bare, draw("off", "a cat", "--lora", one+"=0"))
	require.Equal(t, draw("half", "a cat", "--lora", two), draw("blocks", "a cat", "--lora", one+"=0", "--lora", two+"=-1,text_encoder:1"))
	require.NotEqual(t, bare, draw("unet", "a cat", "--lora", one+"=1,unet.down_blocks:0"))

	lcm := filepath.Join(dir, "LCM-lora.safetensors")
	require.NoError(t, os.Link(one, lcm))
	for sampler, remark := range map[string]bool{"lcm": false, "ddim": true} {
		code, text, errs := try("generate", "--model", model, "--prompt", "a cat", "--steps", "2", "--sampler", sampler, "--lora", lcm, "--threads", "1", "--json",
			"--out", out("sampler-"+sampler))
		require.Zero(t, code, errs)
		require.Equal(t, remark, strings.Contains(errs, "seems to be made for --sampler lcm"), errs)
		var got struct{ Adapters map[string]int }
		require.NoError(t, json.Unmarshal([]byte(text), &got))
		require.Greater(t, got.Adapters[lcm], 10)
	}

	code, text, errs := try("info", out("with"))
	require.Zero(t, code, errs)
	require.Contains(t, text, `Lora hashes: "one: `)
	require.Contains(t, text, "<lora:one:0.8>")
	for _, name := range []string{"with", "tags", "merged"} {
		code, _, errs = try("generate", "--from", out(name), "--threads", "1", "--out", out(name+"-again"))
		require.Zero(t, code, errs)
		a, err := os.ReadFile(out(name))
		require.NoError(t, err)
		b, err := os.ReadFile(out(name + "-again"))
		require.NoError(t, err)
		require.Equal(t, a, b, name)
	}
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(folder, 0o777))
	data, err := os.ReadFile(one)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "pytorch_lora_weights.safetensors"), data, 0o666))
	draw("folder", "a cat", "--lora", folder)
	_, text, _ = try("info", out("folder"))
	require.Regexp(t, `Lora hashes: "folder: [0-9a-f]{12}"`, text)
	require.NoError(t, os.Rename(two, one)) // another adapter under the name
	code, _, errs = try("generate", "--from", out("with"), "--lora", one, "--threads", "1", "--out", out("changed"))
	require.Zero(t, code, errs)
	require.Contains(t, errs, "has changed since")
	code, _, errs = try("generate", "--from", out("with"), "--lora", "", "--threads", "1", "--out", out("none"))
	require.Zero(t, code, errs)
	require.Contains(t, errs, "is not used")
}

// What cannot work is refused, in a line, before anything is drawn.
func TestGenerateRefusesAdapters(t *testing.T) {
	model, dir := adapters(t, "sd15")
	other, others := adapters(t, "sdxl")
	one := filepath.Join(dir, "one.safetensors")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o777))
	data, err := os.ReadFile(one)
	require.NoError(t, err)
	for _, name := range []string{"sub/twice.safetensors", "sub/twice.pt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--lora", filepath.Join(dir, "nothing")}, "no such file"},
		{[]string{"--lora", one + "=x"}, "want FILE, FILE=WEIGHT or"},
		{[]string{"--lora", one + "=NaN"}, "want FILE, FILE=WEIGHT or"},
		{[]string{"--lora", ""}, "got an empty name"},
		{[]string{"--lora", "=1"}, "want FILE or FILE=WEIGHT"},
		{[]string{"--lora", one + "=1,unet:1,unet:0"}, "the block unet has two weights"},
		{[]string{"--lora", one + "=1,:0.5"}, "want a block before each colon"},
		{[]string{"--prompt", "a cat <lora:one:1>"}, "pass --lora-dir"},
		{[]string{"--lora-dir", filepath.Join(dir, "nothing")}, "no such directory; wanted a directory of adapters"},
		{[]string{"--lora-dir", one}, "is a file; wanted a directory of adapters"},
		{[]string{"--prompt", "a cat <lora:one:much>", "--lora-dir", dir}, "<lora:one:much>"},
		{[]string{"--lora", one + "=1,unet.nothing:2"}, "no adapted layer has the prefix"},
		{[]string{"--lora", one, "--lora-apply", "later"}, "want runtime or merge"},
		{[]string{"--lora", model}, "adapter"},
		{[]string{"--lora", filepath.Join(model, "unet", "diffusion_pytorch_model.safetensors")}, "want an adapter (LoRA, LoHa, LoKr, OFT)"},
		{[]string{"--lora", filepath.Join(others, "one.safetensors")}, "text features of width 32), and the model takes width 16"},
		{[]string{"--prompt", "<lora:nothing>", "--lora-dir", dir}, "there is no adapter"},
		{[]string{"--prompt", "<lora:../one>", "--lora-dir", dir}, "want the name of a file in"},
		{[]string{"--prompt", "<lora:twice>", "--lora-dir", dir}, "twice.pt"},
		{[]string{"--negative", "<lora:one>", "--lora-dir", dir}, "negative prompt has a tag for the adapter"},
	} {
		out := filepath.Join(t.TempDir(), "a.png")
		args := append([]string{"generate", "--model", model, "--threads", "1", "--out", out, "--seed", "1"}, c.args...)
		if c.args[0] != "--prompt" {
			args = append(args, "--prompt", "a cat")
		}
		code, stdout, errs := try(args...)
		require.NotZero(t, code, c.args)
		require.Empty(t, stdout)
		require.Contains(t, errs, c.want)
		require.Equal(t, 1, strings.Count(strings.TrimSpace(errs), "\n")+1, errs)
		require.NoFileExists(t, out)
	}
	code, _, errs := try("lora", "merge", "--model", other, "--lora", one, "--out", filepath.Join(t.TempDir(), "x"))
	require.NotZero(t, code)
	require.Contains(t, errs, "the adapter is for another model")
}

// An adapter is described, converted there and back, merged into a model and extracted from it again.
func TestLoRACommands(t *testing.T) {
	model, dir := adapters(t, "sdxl")
	one := filepath.Join(dir, "one.safetensors")
	run := func(args ...string) string {
		t.Helper()
		code, out, errs := try(append([]string{"lora"}, args...)...)
		require.Zero(t, code, errs)
		return out
	}
	var info struct {
		Kinds, Layouts, Parts, Ranks map[string]int
		Base                         []string
		Fits                         *bool
		Modules                      []struct{ Name string }
	}
	require.NoError(t, json.Unmarshal([]byte(run("info", one, "--model", model, "--json")), &info))
	require.True(t, *info.Fits)
	require.Equal(t, map[string]int{"LoRA": len(info.Modules)}, info.Kinds)
	require.Equal(t, map[string]int{"kohya": len(info.Modules)}, info.Layouts)
	require.Equal(t, map[string]int{"2": len(info.Modules)}, info.Ranks)
	require.Empty(t, info.Base)
	require.Contains(t, run("info", one, "--model", model, "--modules"), "every module fits")
	code, text, errs := try("info", one)
	require.Zero(t, code, errs)
	require.Equal(t, run("info", one), text)
	small := filepath.Join(t.TempDir(), "sd15")
	require.NoError(t, tiny.Write(small, "sd15"))
	require.Contains(t, run("info", one, "--model", small), "the adapter is for another model")

	at := func(name string) string { return filepath.Join(dir, name) }
	require.Equal(t, at("peft.safetensors")+"\n", run("convert", one, "--to", "peft", "--model", model, "--out", at("peft.safetensors")))
	run("convert", at("peft.safetensors"), "--to", "diffusers", "--out", at("diffusers.safetensors"))
	run("convert", at("diffusers.safetensors"), "--to", "kohya", "--model", model, "--out", at("back.safetensors"))
	a, err := os.ReadFile(one)
	require.NoError(t, err)
	b, err := os.ReadFile(at("back.safetensors"))
	require.NoError(t, err)
	require.Equal(t, a, b)
	run("convert", one, "--to", "kohya", "--dtype", "f16", "--out", at("half.safetensors"))
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"convert", one, "--to", "kohya", "--out", at("back.safetensors")}, "exists", 1},
		{[]string{"convert", one, "--to", "peft", "--out", at("x.safetensors")}, "; pass it as --model", 1},
		{[]string{"convert", one, "--to", "other", "--out", at("x.safetensors")}, "--to: want", 2},
		{[]string{"convert", one, "--to", "peft", "--out", at("x")}, "want FILE.safetensors", 2},
		{[]string{"convert", "--to", "peft"}, "adapter", 2},
		{[]string{"merge", "--model", model, "--out", at("x")}, "--lora is missing", 2},
		{[]string{"extract", "--base", model, "--out", at("x.safetensors")}, "--base and --tuned", 2},
		{[]string{"extract", "--base", model, "--tuned", small, "--out", at("x.safetensors")}, "the tuned model has no text_encoder_2", 1},
		{[]string{"extract", "--base", model, "--tuned", model, "--out", at("x.safetensors")}, "nothing to extract", 1},
		{[]string{"nothing"}, "unknown command", 2},
	} {
		code, out, errs := try(append([]string{"lora"}, c.args...)...)
		require.Equal(t, c.code, code, "%q: %s", c.args, errs)
		require.Empty(t, out)
		require.Contains(t, errs, c.want)
		require.NoFileExists(t, at("x.safetensors"))
	}

	run("merge", "--model", model, "--lora", one+"=0.5", "--out", at("merged.safetensors"))
	text = run("extract", "--base", model, "--tuned", at("merged.safetensors"), "--rank", "2", "--dtype", "f32", "--out", at("again.safetensors"))
	require.Contains(t, text, "they represent 100.0%")
	pictures := map[string][]byte{}
	for name, args := range map[string][]string{
		"lora": {"--model", model, "--lora", one + "=0.5"}, "merged": {"--model", at("merged.safetensors")}, "extracted": {"--model", model, "--lora", at("again.safetensors")},
	} {
		code, _, errs := try(append([]string{"generate", "--prompt", "a cat", "--steps", "2", "--seed", "3", "--threads", "1", "--out", at(name + ".png")}, args...)...)
		require.Zero(t, code, errs)
		pictures[name] = pixelsOf(t, at(name+".png"))
	}
	require.InDeltaSlice(t, pictures["lora"], pictures["merged"], 1)
	require.InDeltaSlice(t, pictures["lora"], pictures["extracted"], 1)
}

// An interrupted conversion ends before the next tensor, and leaves nothing.
func TestConvertInterrupted(t *testing.T) {
	model, dir := adapters(t, "sd15")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, out := range []string{filepath.Join(dir, "out"), filepath.Join(dir, "out.safetensors")} {
		for _, args := range [][]string{{"convert"}, {"lora", "merge", "--lora", filepath.Join(dir, "one.safetensors")}} {
			var stdout, stderr bytes.Buffer
			code := run(ctx, append(args, "--model", model, "--out", out), &stdout, &stderr)
			require.Equal(t, 130, code, stderr.String())
			require.Empty(t, stdout.String())
			require.NoFileExists(t, out)
			require.NoDirExists(t, out)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
