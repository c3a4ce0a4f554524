package lora

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// floats is a tensor of values that count up.
func floats(name string, shape ...int) safetensors.Source {
	data := make([]byte, 4*product(shape))
	for i := range product(shape) {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(float32(i+1)/64))
	}
	return safetensors.Source{Name: name, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(data)}
}

// factorsOf are a LoRA's two weights under a stem, in kohya's names.
func factorsOf(stem string, rank, out, in int) []safetensors.Source {
	return []safetensors.Source{floats(stem+".lora_down.weight", rank, in), floats(stem+".lora_up.weight", out, rank)}
}

const toQ = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"

// What is harmless beside a good adapter is no error, and said: embeddings that are bundled, alphas without factors, tensors for a text
// encoder that no model has. The rest is applied as it is without.
func TestHarmlessTensors(t *testing.T) {
	m := openTiny(t, "sdxl")
	dir := t.TempDir()
	write := func(name string, all ...safetensors.Source) string {
		path := filepath.Join(dir, name)
		require.NoError(t, safetensors.Write(path, all, safetensors.Options{}))
		return path
	}
	width := 0
	for name, w := range m.UNet.Store().Tensors() {
		if name == "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight" {
			width = w.Dim(0)
		}
	}
	require.NotZero(t, width)
	const stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
	good := factorsOf(stem, 2, width, width)
	bare, err := Load(m, write("bare", good...), Options{})
	require.NoError(t, err)
	defer bare.Close()
	require.Empty(t, bare.Notices())
	require.Empty(t, bare.Embeddings())
	want := deltas(t, Of(m), bare.At(1))

	full := write("full", append(good,
		floats("bundle_emb.word.clip_g", 2, 3), floats("bundle_emb.word.clip_l", 2, 4), floats("bundle_emb.other.string_to_param.*", 1, 4),
		floats("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_k.alpha", 1),
		floats("text_encoders.t5xxl.transformer.encoder.block.0.x.lora_up.weight", 2, 1))...)
	a, err := Load(m, full, Options{})
	require.NoError(t, err)
	defer a.Close()
	require.Equal(t, want, deltas(t, Of(m), a.At(1)))
	require.Len(t, a.Modules, 1)
	notices := a.Notices()
	require.Len(t, notices, 2)
	require.Contains(t, notices[0], "attn1_to_k.alpha")
	require.Contains(t, notices[1], "T5")
	words := map[string][]string{}
	for _, e := range a.Embeddings() {
		words[e.Name] = e.Keys
	}
	require.Equal(t, map[string][]string{"word": {"clip_g", "clip_l"}, "other": {"string_to_param.*"}}, words)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, e := range a.Embeddings() {
			if e.Name == "word" {
				v, err := e.Get(s, "clip_l")
				require.NoError(t, err)
				require.Equal(t, []int{2, 4}, v.Shape())
			}
		}
		return nil
	}))

	for name, c := range map[string]struct {
		tensors []safetensors.Source
		want    string
	}{
		"embedding": {[]safetensors.Source{floats("bundle_emb.word.clip_l", 2, 4)}, "word"},
		"alpha":     {[]safetensors.Source{floats(stem+".alpha", 1)}, stem + ".alpha"},
		"no key":    {append(good[:2:2], floats("bundle_emb.word", 2, 4)), "bundle_emb.word"},
		"nothing":   {append(good[:2:2], floats("bundle_emb..x", 2, 4)), "bundle_emb..x"},
	} {
		_, err := Open(write(name, c.tensors...))
		require.ErrorContains(t, err, c.want, name)
	}
}

// ComfyUI's names of layers are those of its own model objects.
func TestComfyUINames(t *testing.T) {
	m := openTiny(t, "sdxl")
	n := Of(m)
	ours := filled(t, n, Config{Rank: 2, Targets: []string{"q_proj", "fc1", "attn1.to_q"}})
	var tensors []safetensors.Source
	for _, module := range ours.Modules {
		for part, theirs := range map[string]string{"unet.": "diffusion_model.", "text_encoder.": "text_encoders.clip_l.transformer.", "text_encoder_2.": "text_encoders.clip_g.transformer."} {
			if len(module.Name) > len(part) && module.Name[:len(part)] == part {
				for _, f := range []struct{ from, to string }{{".lora_A.weight", ".lora_down.weight"}, {".lora_B.weight", ".lora_up.weight"}} {
					for name, p := range ours.Parameters() {
						if name == module.Name+f.from {
							tensors = append(tensors, safetensors.Source{
								Name: theirs + module.Name[len(part):] + f.to, DType: safetensors.F32, Shape: p.Shape(), Data: safetensors.Bytes(p.Bytes()),
							})
						}
					}
				}
			}
		}
	}
	require.Len(t, tensors, 2*len(ours.Modules))
	path := filepath.Join(t.TempDir(), "comfy.safetensors")
	require.NoError(t, safetensors.Write(path, tensors, safetensors.Options{}))
	requireDeltas(t, deltas(t, n, ours.At(1)), n, path, 0)
}

// An adapter of which some modules have no layer is applied in part where that is asked for, loaded and baked, and says what is left out.
func TestPartial(t *testing.T) {
	m := openTiny(t, "sd15")
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, safetensors.Write(path, append(factorsOf(toQ, 2, 16, 16), factorsOf("lora_unet_nowhere", 2, 16, 16)...), safetensors.Options{}))
	_, err := Load(m, path, Options{})
	var fit *FitError
	require.ErrorAs(t, err, &fit)
	require.True(t, fit.Partly())
	a, err := Load(m, path, Options{Partial: true})
	require.NoError(t, err)
	defer a.Close()
	require.Len(t, a.Modules, 1)
	require.Len(t, a.Notices(), 1)
	require.Contains(t, a.Notices()[0], "nowhere")

	require.NoError(t, safetensors.Write(path+"2", factorsOf(toQ, 2, 15, 16), safetensors.Options{}))
	_, err = Load(m, path+"2", Options{})
	require.ErrorAs(t, err, &fit)
	require.False(t, fit.Partly())
}

// Ranks and sizes that no adapter has are refused before anything is read; large ones on large layers are let pass.
func TestLargeRanks(t *testing.T) {
	sparse := func(rank, out, in, modules int) string {
		t.Helper()
		header, at := "{", 0
		tensor := func(name string, a, b int) {
			if at > 0 {
				header += ","
			}
			header += `"` + name + `":{"dtype":"F16","shape":[` + strconv.Itoa(a) + "," + strconv.Itoa(b) + `],"data_offsets":[` + strconv.Itoa(at) + "," + strconv.Itoa(at+2*a*b) + "]}"
			at += 2 * a * b
		}
		for i := range modules {
			tensor("lora_unet_x"+strconv.Itoa(i)+".lora_down.weight", rank, in)
			tensor("lora_unet_x"+strconv.Itoa(i)+".lora_up.weight", out, rank)
		}
		header += "}"
		path := filepath.Join(t.TempDir(), "sparse.safetensors")
		data := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
		require.NoError(t, os.WriteFile(path, data, 0o666))
		require.NoError(t, os.Truncate(path, int64(len(data)+at)))
		return path
	}
	began := time.Now()
	for want, path := range map[string]string{"rank 65536": sparse(1<<16, 320, 768, 40), "at most 16 GiB": sparse(4096, 8192, 8192, 160)} {
		_, err := Open(path)
		require.ErrorContains(t, err, want)
	}
	t.Log(time.Since(began))
	f, err := Open(sparse(4096, 320, 320, 2))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	f, err = Open(sparse(5000, 10240, 5120, 1))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}
