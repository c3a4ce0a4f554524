package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// The benchmark of a GPU runs on a CPU at its smallest sizes; images with both sides, if there is diffusers.
func TestEveryWork(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers")
	dir := t.TempDir()
	model := filepath.Join(dir, "tiny")
	require.NoError(t, tiny.Write(model, "sd15"))
	at := []string{"--device", "cpu", "--tiny", "--python", python, "--scripts", ".", "--model", model, "--size", "64",
		"--json", filepath.Join(dir, "got.json"), "--text", filepath.Join(dir, "got.txt")}
	var out, errs bytes.Buffer
	require.NoError(t, gpu(at, &out, &errs))
	var got struct {
		Rows  []gpuRow
		Works []gpuWork
	}
	text, err := os.ReadFile(filepath.Join(dir, "got.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &got))
	works := map[string]gpuWork{}
	for _, w := range got.Works {
		works[w.Name] = w
	}
	for name, key := range map[string]string{
		"roof": "tflops", "train": "ms_per_step", "1,000 steps": "ms_per_step", "image": "image", "image eager": "image",
		"image channels-last": "image", "8 images": "image", "8 images eager": "image",
	} {
		require.Empty(t, works[name].Error, name)
		require.Positive(t, works[name].Figures[key], "%s: %s", name, errs.String())
	}
	require.NotEmpty(t, got.Rows)
	require.Contains(t, out.String(), "8 images together, beside diffusers")
	table, err := os.ReadFile(filepath.Join(dir, "got.txt"))
	require.NoError(t, err)
	require.Equal(t, out.String(), string(table))
}

// A work that fails or takes too long does not end the others, and says why.
func TestWorkFails(t *testing.T) {
	for _, c := range []struct {
		command []string
		want    string
	}{
		{[]string{"sh", "-c", "echo first >&2; echo no such GPU >&2; exit 3"}, "exit status 3: no such GPU"},
		{[]string{"sh", "-c", "exec sleep 20"}, "stopped after 200ms"},
		{[]string{"sh", "-c", "echo nothing"}, "invalid character"},
		{[]string{"/nothing/there"}, "no such file"},
	} {
		w := gpuWork{Name: "x", Command: c.command}
		w.run(200 * time.Millisecond)
		require.Contains(t, w.Error, c.want)
	}
}
