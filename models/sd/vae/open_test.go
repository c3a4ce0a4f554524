package vae

import (
	"encoding/json"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/torch"
)

// tensors returns the names and shapes of the weights of diffusers' class with the config.json of that folder, as "name [1,2]".
func tensors(t *testing.T, python, class, dir string) []string {
	t.Helper()
	out, err := exec.Command(python, "-c", `import sys, json, diffusers
c = getattr(diffusers, sys.argv[1])
m = c.from_config(c.load_config(sys.argv[2]))
print(json.dumps([k + " " + json.dumps(list(v.shape), separators=(",", ":")) for k, v in m.state_dict().items()]))`, class, dir).Output()
	require.NoError(t, err)
	var names []string
	require.NoError(t, json.Unmarshal(out, &names))
	return names
}

// save writes weights under other names; "" leaves one out.
func save(t *testing.T, path string, src sdtest.Filled, rename func(name string) string) {
	t.Helper()
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	var all iter.Seq2[string, *torch.Tensor] = func(yield func(string, *torch.Tensor) bool) {
		for name := range src.Names() {
			v, err := src.Get(s, name)
			require.NoError(t, err)
			if name = rename(name); name != "" && !yield(name, v) {
				return
			}
		}
	}
	require.NoError(t, torch.SaveSafetensors(path, all, torch.SaveOptions{}))
}

// same is a renaming.
func same(name string) string { return name }

// originalName is the name of a tensor in the author's files.
func originalName(name, encoder, decoder string) string {
	if rest, ok := strings.CutPrefix(name, "encoder.layers."); ok {
		if encoder == "-" {
			return ""
		}
		return encoder + rest
	}
	rest := strings.TrimPrefix(name, "decoder.layers.")
	number, tail, _ := strings.Cut(rest, ".")
	n, _ := strconv.Atoi(number)
	if decoder == "-" {
		return ""
	}
	return decoder + strconv.Itoa(n+1) + "." + tail
}

// The same weights in every layout give the same autoencoder, with the configuration found from their shapes.
func TestOpenTiny(t *testing.T) {
	for _, want := range []TinyConfig{TAESD(), {LatentChannels: 7, Pool: true}} {
		want = want.WithDefaults()
		dir := t.TempDir()
		src := sdtest.Filled(TinyShapes(want))
		at := func(name string) string { return filepath.Join(dir, name) }
		require.NoError(t, os.Mkdir(at("folder"), 0o755))
		config, err := json.Marshal(want)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(at("folder/config.json"), config, 0o644))
		save(t, at("folder/diffusion_pytorch_model.safetensors"), src, same)
		save(t, at("whole.safetensors"), src, same)
		save(t, at("taesd_encoder.safetensors"), src, func(name string) string { return originalName(name, "", "-") })
		save(t, at("taesd_decoder.safetensors"), src, func(name string) string { return originalName(name, "-", "") })
		save(t, at("plain.safetensors"), src, func(name string) string { return originalName(name, "encoder.", "decoder.") })
		save(t, at("comfy.safetensors"), append(src, sdtest.Filled{{Name: "vae_scale"}, {Name: "vae_shift"}}...), func(name string) string {
			if strings.HasPrefix(name, "vae_") {
				return name
			}
			return originalName(name, "taesd_encoder.", "taesd_decoder.")
		})

		s := torch.NewScope(torch.CPU)
		defer s.Close()
		x := torch.Rand(s, torch.NewGenerator(s, 1), torch.Float32, 1, 3, 16, 16)
		reference, err := TinyFrom(want, src, torch.CPU, torch.Float32)
		require.NoError(t, err)
		defer reference.Close()
		for _, name := range []string{"folder", "whole.safetensors", "taesd_encoder.safetensors", "taesd_decoder.safetensors",
			"plain.safetensors", "comfy.safetensors"} {
			tiny, err := OpenTiny(at(name), torch.CPU, torch.Float32)
			require.NoError(t, err, name)
			require.Equal(t, want, tiny.Config(), name)
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				z := tiny.Encode(s, x, nil)
				require.Zero(t, distance(s, reference.Encode(s, x, nil), z), name)
				require.Zero(t, distance(s, reference.Decode(s, z), tiny.Decode(s, z)), name)
				return nil
			}))
			tiny.Close()
		}
	}
}

// What is missing or foreign is told, and nothing stays open.
func TestOpenTinyRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	src := sdtest.Filled(TinyShapes(TAESD()))
	save(t, at("foreign.safetensors"), sdtest.Filled{{Name: "conv.weight", Dims: []int{1, 2}}}, same)
	save(t, at("flat.safetensors"), sdtest.Filled{{Name: "decoder.layers.0.weight", Dims: []int{1, 2}}}, same)
	save(t, at("lone_encoder.safetensors"), src, func(name string) string { return originalName(name, "", "-") })
	save(t, at("less.safetensors"), src, func(name string) string {
		switch name {
		case "encoder.layers.0.bias":
			return ""
		case "decoder.layers.3.conv.0.bias":
			return "head.bias"
		}
		return name
	})
	save(t, at("twice.safetensors"), sdtest.Filled{
		{Name: "decoder.1.weight", Dims: []int{1, 2}}, {Name: "decoder.layers.0.weight", Dims: []int{1}},
	}, same)
	require.NoError(t, os.MkdirAll(at("empty"), 0o755))
	require.NoError(t, os.MkdirAll(at("odd"), 0o755))
	save(t, at("odd/diffusion_pytorch_model.safetensors"), src, same)
	require.NoError(t, os.WriteFile(at("odd/config.json"), []byte(`{"act_fn": "gelu"}`), 0o644))
	for name, want := range map[string]string{
		"nothing.safetensors":      "no such file",
		"foreign.safetensors":      "want the weights of a tiny autoencoder: the decoder's first convolution",
		"flat.safetensors":         "does not have 4 dimensions",
		"lone_encoder.safetensors": "lone_decoder.safetensors: no such file",
		"less.safetensors":         "encoder.layers.0.bias",
		"twice.safetensors":        "want one tensor for decoder.layers.0.weight",
		"empty":                    "diffusion_pytorch_model.safetensors",
		"odd":                      `act_fn: only "relu" is supported`,
	} {
		_, err := OpenTiny(at(name), torch.CPU, torch.Float32)
		require.ErrorContains(t, err, want, name)
		require.ErrorContains(t, err, dir)
	}
	_, err := OpenTiny(at("less.safetensors"), torch.CPU, torch.Float32)
	require.ErrorContains(t, err, "head.bias")
	require.ErrorContains(t, err, "decoder.layers.3.conv.0.bias")
	_, _, err = OriginalTiny()
	require.ErrorContains(t, err, "one file with both, got 0 files")
}
