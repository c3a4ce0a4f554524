package main

import (
	"bytes"
	"encoding/json"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// rewrite replaces a file of weights by what change makes of its tensors, which it gets by name.
func rewrite(t *testing.T, from, to string, change func(s *torch.Scope, all map[string]*torch.Tensor)) {
	t.Helper()
	w, err := torch.OpenWeights(from)
	require.NoError(t, err)
	s := torch.NewScope(torch.CPU)
	defer func() {
		s.Close()
		require.NoError(t, w.Close())
	}()
	all := map[string]*torch.Tensor{}
	for name := range w.Names() {
		v, err := w.Get(s, name)
		require.NoError(t, err)
		all[name] = v.Clone(s)
	}
	change(s, all)
	require.NoError(t, torch.SaveSafetensors(to, iter.Seq2[string, *torch.Tensor](maps.All(all)), torch.SaveOptions{Metadata: w.File().Metadata(), Overwrite: true}))
}

// All that is wrong with a model, in any part, is told in a line before anything is written or drawn.
func TestConvertChecks(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	weights := func(part string) string { return filepath.Join(model, part, "diffusion_pytorch_model.safetensors") }
	rewrite(t, weights("unet"), weights("unet"), func(s *torch.Scope, all map[string]*torch.Tensor) {
		delete(all, "conv_out.bias")
		all["stranger.weight"] = torch.Zeros(s, torch.Float32, 3)
	})
	rewrite(t, weights("vae"), weights("vae"), func(s *torch.Scope, all map[string]*torch.Tensor) {
		all["decoder.conv_out.bias"] = torch.Zeros(s, torch.Float32, 4)
	})
	wants := []string{
		"unet: weights do not fit the network: 1 missing: conv_out.bias; 1 unexpected: stranger.weight",
		"vae: weights do not fit the network: 1 shape mismatch: decoder.conv_out.bias (want [3], got [4])",
	}
	for _, args := range [][]string{
		{"convert", "--model", model, "--out", at("a.safetensors")}, {"convert", "--model", model, "--out", at("a")},
		{"generate", "--model", model, "--prompt", "x", "--out", at("a.png")},
	} {
		code, _, errs := try(args...)
		require.Equal(t, exitFailure, code)
		require.Equal(t, 1, strings.Count(errs, "\n"), errs)
		for _, want := range wants {
			require.Contains(t, errs, want)
		}
	}
	left, err := filepath.Glob(at("*a*"))
	require.NoError(t, err)
	require.Empty(t, left)
	code, _, errs := try("convert", "--model", model, "--out", at("b"), "--unchecked")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "1 missing: conv_out.bias")
	_, err = os.Stat(at("b/model_index.json"))
	require.NoError(t, err)
}

// --ema takes the EMA weights that a file has; without it they are left out, which is told.
func TestAverages(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	code, _, errs := try("convert", "--model", model, "--out", at("plain.safetensors"))
	require.Zero(t, code, errs)
	n := 0
	rewrite(t, at("plain.safetensors"), at("both.safetensors"), func(s *torch.Scope, all map[string]*torch.Tensor) {
		for name, v := range maps.Clone(all) {
			if short, ok := strings.CutPrefix(name, "model."); ok {
				all["model_ema."+strings.ReplaceAll(short, ".", "")] = v.MulScalar(s, 0.9)
				n++
			}
		}
	})
	draw := func(model, out string, flags ...string) []byte {
		code, _, errs := try(append([]string{"generate", "--model", model, "--prompt", "x", "--seed", "1", "--steps", "1", "--threads", "1", "--out", at(out)}, flags...)...)
		require.Zero(t, code, errs)
		return pixelsOf(t, at(out))
	}
	last := draw(at("plain.safetensors"), "a.png")
	require.Equal(t, last, draw(at("both.safetensors"), "b.png"))
	average := draw(at("both.safetensors"), "c.png", "--ema")
	require.NotEqual(t, last, average)
	code, _, errs = try("generate", "--from", at("c.png"), "--threads", "1", "--out", at("again.png"))
	require.Zero(t, code, errs)
	require.Equal(t, average, pixelsOf(t, at("again.png")), "the picture says so")

	for _, flags := range [][]string{nil, {"--ema"}} {
		code, out, errs := try(append([]string{"convert", "--model", at("both.safetensors"), "--out", at("folder"), "--overwrite", "--json"}, flags...)...)
		require.Zero(t, code, errs)
		require.Contains(t, errs, "tensors of no component of the model, such as model")
		var got struct{ Ignored []string }
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.Len(t, got.Ignored, n)
		want := last
		if flags != nil {
			want = average
		}
		require.Equal(t, want, draw(at("folder"), "d.png", "--overwrite"))
	}
	code, out, errs := try("info", at("both.safetensors"))
	require.Zero(t, code, errs)
	require.Contains(t, out, "  unused ")

	for want, args := range map[string][]string{
		"want EMA weights (model_ema.)": {"generate", "--model", at("plain.safetensors"), "--prompt", "x", "--ema", "--out", at("no.png")},
		"only for single files":         {"convert", "--model", model, "--ema", "--out", at("no")},
	} {
		code, _, errs := try(args...)
		require.Equal(t, exitFailure, code)
		require.Contains(t, errs, want)
	}
}

// --mixed-variant reads parts that do not have the variant without it.
func TestMixedVariant(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	unet := filepath.Join(model, "unet", "diffusion_pytorch_model.safetensors")
	rewrite(t, unet, strings.Replace(unet, ".safetensors", ".fp16.safetensors", 1), func(s *torch.Scope, all map[string]*torch.Tensor) {
		for name, v := range all {
			all[name] = v.MulScalar(s, 0.9).To(s, torch.Float16)
		}
	})
	base := []string{"generate", "--model", model, "--prompt", "x", "--seed", "1", "--steps", "1", "--threads", "1"}
	code, _, errs := try(append(base, "--out", at("plain.png"))...)
	require.Zero(t, code, errs)
	code, _, errs = try(append(base, "--variant", "fp16", "--mixed-variant", "--out", at("mixed.png"))...)
	require.Zero(t, code, errs)
	require.NotEqual(t, pixelsOf(t, at("plain.png")), pixelsOf(t, at("mixed.png")))
	code, _, errs = try("generate", "--from", at("mixed.png"), "--threads", "1", "--out", at("again.png"))
	require.Zero(t, code, errs)
	require.Equal(t, pixelsOf(t, at("mixed.png")), pixelsOf(t, at("again.png")))
	code, _, errs = try("convert", "--model", model, "--variant", "fp16", "--mixed-variant", "--out", at("mixed.safetensors"))
	require.Zero(t, code, errs)
	code, out, errs := try("info", at("mixed.safetensors"))
	require.Zero(t, code, errs)
	require.Regexp(t, `unet .* f16\)\n  vae .* f32\)`, out)
	code, out, errs = try("info", model, "--variant", "fp16")
	require.Zero(t, code, errs)
	require.Regexp(t, `unet .* f16\)\n  vae .* f32\)`, out)

	code, _, errs = try(append(base, "--variant", "fp16", "--out", at("no.png"))...)
	require.Equal(t, exitFailure, code)
	require.Regexp(t, `--variant fp16: .*--mixed-variant.*leave the option out`, errs)
	code, _, errs = try(append(base, "--variant", "ema", "--out", at("no.png"))...)
	require.Equal(t, exitFailure, code)
	require.Regexp(t, `--variant ema: `+regexp.QuoteMeta(model)+` .*leave the option out`, errs)
	for _, part := range []string{"text_encoder", "vae"} { // with the variant fp16 everywhere, and nothing else
		files, err := filepath.Glob(filepath.Join(model, part, "*.safetensors"))
		require.NoError(t, err)
		for _, file := range files {
			require.NoError(t, os.Rename(file, strings.TrimSuffix(file, ".safetensors")+".fp16.safetensors"))
		}
	}
	require.NoError(t, os.Remove(unet))
	code, _, errs = try(append(base, "--out", at("no.png"))...)
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "pass --variant fp16")
	code, _, errs = try("info", model, "--variant", "fp32")
	require.Equal(t, exitFailure, code)
	require.Regexp(t, `--variant fp32: .*pass --variant fp16`, errs)
	require.NotContains(t, errs, "leave")
	for _, args := range [][]string{append(base, "--mixed-variant", "--out", at("no.png")), {"convert", "--model", model, "--mixed-variant", "--out", at("no")}} {
		code, _, errs = try(args...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, "--mixed-variant")
	}
}

// info tells of whatever is a part of a model or goes with one.
func TestInfoTiny(t *testing.T) {
	for _, name := range []string{"taesd_decoder.pth", "taesd_encoder.pth"} {
		code, out, errs := try("info", filepath.Join("../../models/sd/testdata", name))
		require.Zero(t, code, errs)
		require.Contains(t, out, "Stable Diffusion, taesd\n  all             67 tensors, ")
	}
}

// Parts alone are converted, too: ControlNets and autoencoders, from folders and to them.
func TestConvertParts(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tiny.WriteControlNet(at("control"), "sd15"))
	for name, from := range map[string]string{"control": at("control"), "vae": filepath.Join(model, "vae")} {
		for _, args := range [][]string{
			{"--model", from, "--out", at(name + ".safetensors")},
			{"--model", at(name + ".safetensors"), "--out", at(name + "-back")},
			{"--model", from, "--out", at(name + "-half"), "--dtype", "bf16"},
		} {
			code, _, errs := try(append([]string{"convert"}, args...)...)
			require.Zero(t, code, errs)
		}
		const weights = "diffusion_pytorch_model.safetensors"
		want, err := os.ReadFile(filepath.Join(from, weights))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(at(name+"-back"), weights))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), name)
		code, out, errs := try("info", at(name+"-half"))
		require.Zero(t, code, errs)
		require.Contains(t, out, " bf16)")
	}
	for want, args := range map[string][]string{
		"--unet":                              {"convert", "--model", filepath.Join(model, "unet"), "--out", at("no")},
		"--control-model":                     {"generate", "--model", at("control"), "--prompt", "x", "--out", at("no.png")},
		"--out: want FILE.safetensors or DIR": {"convert", "--model", model, "--out", at("no.PT")},
	} {
		code, _, errs := try(args...)
		require.NotZero(t, code)
		require.Contains(t, errs, want)
	}
}

// A model's own tokenizer does not go into a single file, which is told, and how the file is used.
func TestConvertTokenizer(t *testing.T) {
	out := filepath.Join(t.TempDir(), "x.safetensors")
	const model = "../../tests/testdata/sd/sd15"
	code, _, errs := try("convert", "--model", model, "--out", out)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "use it with --model-config "+model)
	code, _, errs = try("convert", "--model", out, "--model-config", model, "--out", out, "--overwrite", "--dtype", "f32")
	require.Zero(t, code, errs)
	require.Contains(t, errs, "use it with --model-config "+model, "not the file that was replaced")
	code, _, errs = try("generate", "--model", out, "--model-config", model, "--prompt", "x", "--steps", "1", "--out", out+".png")
	require.Zero(t, code, errs)
}

// A model with a tiny autoencoder is written without its encoder, and still generates.
func TestConvertDecoderOnly(t *testing.T) {
	dir, model := tinyModel(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	small := vae.TinyConfig{EncoderWidths: []int{4, 4, 4, 4}, DecoderWidths: []int{4, 4, 4, 4}}.WithDefaults()
	a, err := vae.NewTiny(small, torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer a.Close()
	config, err := json.Marshal(small)
	require.NoError(t, err)
	require.NoError(t, weights.WriteFolder(at("tiny-vae"), &weights.Model{VAE: &weights.Component{Config: config, Source: nn.Stored{Store: a.Store()}}}, weights.WriteOptions{}))
	taesd := []string{"--vae", at("tiny-vae")}
	sizes := map[string]int64{}
	for name, more := range map[string][]string{"both": nil, "half": {"--decoder-only"}} {
		code, _, errs := try(slices.Concat([]string{"convert", "--model", model, "--out", at(name)}, taesd, more)...)
		require.Zero(t, code, errs)
		st, err := os.Stat(filepath.Join(at(name), "vae", "diffusion_pytorch_model.safetensors"))
		require.NoError(t, err)
		sizes[name] = st.Size()
	}
	require.InDelta(t, 0.5, float64(sizes["half"])/float64(sizes["both"]), 0.02)
	draw := func(model, out string, more ...string) (int, string) {
		code, _, errs := try(slices.Concat([]string{"generate", "--model", at(model), "--prompt", "x", "--steps", "1", "--seed", "1", "--out", at(out)}, more)...)
		return code, errs
	}
	for _, name := range []string{"both", "half"} {
		code, errs := draw(name, name+".png")
		require.Zero(t, code, errs)
	}
	code, errs := draw("half", "again.png", "--init-image", at("half.png"), "--strength", "1")
	require.NotZero(t, code, errs)
	require.Contains(t, errs, "encoder")
	require.Equal(t, pixelsOf(t, at("both.png")), pixelsOf(t, at("half.png")))
	for _, args := range [][]string{{"--out", at("none")}, {"--out", at("x.safetensors")}} {
		code, _, errs := try(slices.Concat([]string{"convert", "--model", model, "--decoder-only"}, args)...)
		require.NotZero(t, code, errs)
		require.Contains(t, errs, "tiny autoencoder")
	}
}
