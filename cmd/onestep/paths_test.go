package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A path that is missing, or is a folder where a file is wanted, is named with its flag and with what was wanted, for all commands and flags
// that read.
func TestMissingPaths(t *testing.T) {
	dir := t.TempDir()
	none, file := filepath.Join(dir, "none"), filepath.Join(dir, "file.txt")
	require.NoError(t, os.WriteFile(file, []byte("a text\n"), 0o600))
	dangling := filepath.Join(dir, "link.safetensors")
	require.NoError(t, os.Symlink(none, dangling))
	sd, adapter := "../../tests/testdata/sd/sd15", "../../tests/testdata/lora/attn-kohya.safetensors"
	generate := "generate --model " + sd + " --prompt x --out " + dir + "/x.png "
	for _, c := range []struct {
		line string
		want []string
	}{
		{"generate --model NONE --prompt x", []string{"--model NONE: no such file or directory; wanted a Stable Diffusion"}},
		{"generate --model LINK --prompt x", []string{"--model LINK: ", "symbolic link", "wanted a Stable Diffusion"}},
		{"generate --model FILE/x --prompt x", []string{"--model FILE/x: no such file or directory"}},
		{"generate --model owner/model-1.5 --prompt x", []string{"--model owner/model-1.5: no such file or directory", "hf download owner/model-1.5"}},
		{"generate --model " + sd + " --prompts NONE", []string{"--prompts NONE: no such file; wanted a text file"}},
		{"generate --model " + sd + " --prompts DIR", []string{"--prompts DIR: is a directory; wanted a text file"}},
		{generate + "--vae NONE", []string{"--vae NONE: no such file or directory; wanted an autoencoder"}},
		{generate + "--unet NONE", []string{"--unet NONE: no such file or directory; wanted a U-Net"}},
		{generate + "--text-encoder NONE", []string{"--text-encoder NONE: no such file or directory; wanted a text encoder"}},
		{generate + "--text-encoder-2 NONE", []string{"--text-encoder-2 NONE: no such file or directory; wanted a text encoder"}},
		{generate + "--tiny-vae NONE", []string{"--tiny-vae NONE: no such file or directory; wanted a tiny autoencoder"}},
		{generate + "--model-config NONE", []string{"--model-config NONE: no such directory; wanted a diffusers directory"}},
		{generate + "--model-config FILE", []string{"--model-config FILE: is a file; wanted a diffusers directory"}},
		{generate + "--init-image NONE", []string{"--init-image NONE: no such file; wanted an image"}},
		{generate + "--init-image DIR", []string{"--init-image DIR: is a directory; wanted an image"}},
		{generate + "--init-image FILE --mask NONE", []string{"--mask NONE: no such file; wanted an image"}},
		{generate + "--control-model NONE --control-image FILE", []string{"--control-model NONE: no such file or directory; wanted a ControlNet"}},
		{generate + "--control-model DIR --control-image NONE", []string{"--control-image NONE: no such file; wanted an image"}},
		{generate + "--lora NONE", []string{"--lora NONE: no such file or directory; wanted an adapter"}},
		{generate + "--lora NONE=0.5", []string{"--lora NONE: no such file or directory; wanted an adapter"}},
		{generate + "--lora-dir NONE", []string{"--lora-dir NONE: no such directory; wanted a directory of adapters"}},
		{generate + "--lora-dir FILE", []string{"--lora-dir FILE: is a file; wanted a directory of adapters"}},
		{generate + "--embedding NONE=word", []string{"--embedding NONE: no such file; wanted a textual inversion"}},
		{generate + "--embedding-dir NONE", []string{"--embedding-dir NONE: no such directory; wanted a directory of textual inversion"}},
		{generate + "--from NONE", []string{"--from NONE: no such file; wanted an image"}},
		{"sample --model NONE --out DIR/x.png", []string{"--model NONE: no such file or directory; wanted a model file"}},
		{"inspect --model NONE --out DIR/x.png", []string{"--model NONE: no such file or directory; wanted a model file"}},
		{"inspect --model builtin --teacher NONE --out DIR/x.png", []string{"--teacher NONE: no such file or directory; wanted a denoiser"}},
		{"train --data NONE --out DIR/r", []string{"--data NONE: no such file or directory; wanted a directory of images", "fashion-mnist"}},
		{"train --data NONE/*.tar --out DIR/r", []string{"--data: NONE/*.tar: no such files"}},
		{"train --data cifar10 --data-dir NONE --out DIR/r", []string{"--data-dir NONE: no such directory; wanted a directory that holds cifar10"}},
		{"train --data emoji --config NONE --out DIR/r", []string{"--config NONE: no such file; wanted a JSON file"}},
		{"train --data emoji --method cd --teacher NONE --out DIR/r", []string{"--teacher NONE: no such file or directory; wanted a denoiser"}},
		{"train --data emoji --init NONE --out DIR/r", []string{"--init NONE: no such file or directory; wanted a model file"}},
		{"train --data emoji --distance lpips --lpips NONE --out DIR/r", []string{"--lpips: ", "NONE", "not exist"}},
		{"average NONE --width 0.1 --out DIR/a.safetensors", []string{"NONE", "no such", "run"}},
		{"average FILE --width 0.1 --out DIR/a.safetensors", []string{"FILE", "is a file", "run"}},
		{"info NONE", []string{"NONE: no such file or directory; wanted a model"}},
		{"lora info NONE", []string{"NONE: no such file or directory; wanted an adapter"}},
		{"lora info FILE --model NONE", []string{"--model NONE: no such file or directory; wanted a Stable Diffusion"}},
		{"lora merge --model " + sd + " --lora NONE --out DIR/m", []string{"--lora NONE: no such file or directory; wanted an adapter"}},
		{"lora merge --model NONE --lora " + adapter + " --out DIR/m", []string{"--model NONE: no such file or directory; wanted a Stable Diffusion"}},
		{"lora convert NONE --to kohya --out DIR/m.safetensors", []string{"NONE: no such file or directory; wanted an adapter"}},
		{"lora convert FILE --model NONE --to kohya --out DIR/m.safetensors", []string{"--model NONE: no such file or directory; wanted a Stable Diffusion"}},
		{"lora extract --base NONE --tuned DIR --out DIR/m.safetensors", []string{"--base NONE: no such file or directory; wanted a Stable Diffusion"}},
		{"lora extract --base DIR --tuned NONE --out DIR/m.safetensors", []string{"--tuned NONE: no such file or directory; wanted a Stable Diffusion"}},
		{"convert --model NONE --out DIR/m", []string{"--model NONE: no such file or directory; wanted a Stable Diffusion", "or a model file, a run directory"}},
		{"convert --model " + sd + " --unet NONE --out DIR/m", []string{"--unet NONE: no such file or directory; wanted a U-Net"}},
		{"convert --model " + sd + " --model-config NONE --out DIR/m", []string{"--model-config NONE: no such directory; wanted a diffusers directory"}},
	} {
		put := strings.NewReplacer("NONE", none, "FILE", file, "DIR", dir, "LINK", dangling)
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(put.Replace(c.line)), &stdout, &stderr)
		require.Equal(t, exitFailure, code, "%s: %s", c.line, &stderr)
		require.Empty(t, stdout.String(), c.line)
		for _, want := range c.want {
			require.Contains(t, stderr.String(), put.Replace(want), c.line)
		}
		require.Equal(t, 1, strings.Count(stderr.String(), "\n"), "%s: %s", c.line, &stderr)
	}
}

// sample and generate name each other, with the command, when they get the other's model; and what a file that is part of a model is for.
func TestOtherCommand(t *testing.T) {
	dir := t.TempDir()
	sd, adapter := "../../tests/testdata/sd/sd15", "../../tests/testdata/lora/attn-kohya.safetensors"
	ours, embedding := "../../models/builtin/emoji.safetensors", "../../tests/testdata/embeddings/kohya.safetensors"
	single := filepath.Join(dir, "single file.safetensors")
	var stdout, stderr bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"convert", "--model", sd, "--out", single}, &stdout, &stderr), stderr.String())
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"generate", "--prompt", "x", "--model", "builtin"}, []string{"onestep sample --model builtin"}},
		{[]string{"generate", "--prompt", "x", "--model", ours}, []string{"consistency model", "onestep sample --model " + ours}},
		{[]string{"generate", "--prompt", "x", "--model", adapter}, []string{"adapter", "--lora"}},
		{[]string{"generate", "--prompt", "x", "--model", embedding}, []string{"textual inversion", "--embedding"}},
		{[]string{"sample", "--out", dir + "/x.png", "--model", sd}, []string{"--model " + sd, "Stable Diffusion", "onestep generate --model " + sd + " --prompt"}},
		{[]string{"sample", "--out", dir + "/x.png", "--model", single}, []string{"Stable Diffusion 1", "onestep generate --model '" + single + "' --prompt"}},
		{[]string{"sample", "--out", dir + "/x.png", "--model", adapter}, []string{"adapter", "onestep generate --model BASE --lora " + adapter}},
		{[]string{"sample", "--out", dir + "/x.png", "--model", embedding}, []string{"textual inversion", "--embedding " + embedding}},
		{[]string{"inspect", "--out", dir + "/x.png", "--model", sd}, []string{"onestep generate --model " + sd}},
		{[]string{"train", "--method", "cd", "--data", "emoji", "--out", dir + "/r", "--teacher", sd}, []string{"--teacher " + sd, "onestep generate"}},
		{[]string{"train", "--data", "emoji", "--out", dir + "/r", "--init", single}, []string{"--init ", "Stable Diffusion 1", "onestep generate"}},
	} {
		stdout.Reset()
		stderr.Reset()
		require.Equal(t, exitUsage, run(t.Context(), c.args, &stdout, &stderr), "%q: %s", c.args, &stderr)
		for _, want := range c.want {
			require.Contains(t, stderr.String(), want, "%q", c.args)
		}
	}
}
