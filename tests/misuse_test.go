package tests

import (
	"context"
	"image"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	pixelunet "github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// openSmall opens a tiny model of Stable Diffusion, which the test closes.
func openSmall(t *testing.T) *sd.Model {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "small")
	require.NoError(t, tinysd.Write(dir, "sd15"))
	m, err := sd.Open(dir, sd.Options{})
	require.NoError(t, err)
	return m
}

// within runs f without gradients and returns the error of an operator's panic.
func within(f func(s *torch.Scope)) error {
	return torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error { f(s); return nil })
	})
}

// drawn draws to the end.
func drawn(d texttoimage.Pipeline, prompts ...string) error {
	for _, err := range d.Images(context.Background(), prompts...) {
		if err != nil {
			return err
		}
	}
	return nil
}

// What was closed says so by name, wherever it is used, and closing twice does nothing.
func TestUseAfterClose(t *testing.T) {
	closed := func(what, want string, err error) {
		t.Helper()
		require.ErrorIs(t, err, torch.ErrFreed, what)
		require.ErrorContains(t, err, "was closed", what)
		require.ErrorContains(t, err, want, what)
		require.NotContains(t, err.Error(), "operand", what)
	}
	m := openSmall(t)
	d := texttoimage.Pipeline{Model: m, Steps: 3}

	adapter, err := lora.New(lora.Of(m), lora.Config{Rank: 2})
	require.NoError(t, err)
	with := d
	with.Adapters = adapter.At(1)
	require.NoError(t, drawn(with, "a cat"))
	for range 2 {
		require.NoError(t, adapter.Close())
	}
	closed("adapter", "adapter", drawn(with, "a cat"))
	closed("adapter's network", "adapter", within(func(s *torch.Scope) {
		m.UNet.Forward(s, torch.Ones(s, torch.Float32, 1, 4, 8, 8), torch.Ones(s, torch.Float32, 1), models.Cond{Text: torch.Ones(s, torch.Float32, 1, 77, 16), Adapters: with.Adapters})
	}))
	closed("merge", "adapter", lora.Merge(m, with.Adapters))

	control, err := unet.ControlNetFrom(unet.ControlNetConfig{Encoder: m.UNet.Config().Encoder, EmbeddingChannels: unet.Ints{4, 4, 8, 8}},
		sdtest.Filled(unet.ControlNetShapes(unet.ControlNetConfig{Encoder: m.UNet.Config().Encoder, EmbeddingChannels: unet.Ints{4, 4, 8, 8}})), torch.CPU, torch.Float32)
	require.NoError(t, err)
	control.Close()
	control.Close()
	with = d
	with.Controls = []texttoimage.Control{{Net: control, Image: image.NewGray(image.Rect(0, 0, 64, 64))}}
	closed("control", "control 1", drawn(with, "a cat"))

	amid := error(nil)
	for st, err := range d.Run(context.Background(), "a cat") {
		if amid = err; st.I == 1 {
			require.NoError(t, m.Close())
		}
	}
	closed("amid the steps", "unet", amid)
	require.NoError(t, m.Close())
	closed("model", `"small"`, drawn(d, "a cat"))
	_, err = d.Plan("a cat")
	closed("plan", `"small"`, err)
	closed("embed", `"small"`, within(func(s *torch.Scope) { m.Embed(s, nil, sd.Text{Prompt: "a cat"}) }))
	closed("unet", "unet", within(func(s *torch.Scope) { m.UNet.Forward(s, torch.Ones(s, torch.Float32, 1, 4, 8, 8), nil, models.Cond{}) }))
	closed("vae", "vae", within(func(s *torch.Scope) { m.VAE.Decode(s, torch.Ones(s, torch.Float32, 1, 4, 8, 8)) }))
	closed("vae encoder", "vae", within(func(s *torch.Scope) { m.VAE.Encode(s, torch.Ones(s, torch.Float32, 1, 3, 64, 64), nil) }))
	closed("text encoder", "clip", within(func(s *torch.Scope) { m.Texts[0].Forward(s, torch.Ones(s, torch.Int64, 1, 77), clip.Options{}) }))
	_, err = lora.New(lora.Of(m), lora.Config{Rank: 2})
	closed("lora", "text_encoder", err)

	path := filepath.Join(t.TempDir(), "weights.safetensors")
	for name, net := range pixelNetworks(t) {
		net.Close()
		net.Close()
		_, err := models.NewEMA(net.Parameters(), net.Parameters())
		closed(name, "EMA", err)
		err = torch.SaveSafetensors(path, net.Parameters(), torch.SaveOptions{})
		require.ErrorIs(t, err, torch.ErrFreed)
		require.ErrorContains(t, err, "the tensor ")
		require.NoFileExists(t, path)
		f := &models.Consistency{Net: net}
		closed(name, name, within(func(s *torch.Scope) {
			f.Origin(s, torch.Ones(s, torch.Float32, append([]int{2}, net.shape...)...), torch.Ones(s, torch.Float32, 2), models.Cond{})
		}))
		closed(name, name, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Ones(s, torch.Float32, append([]int{1}, net.shape...)...)
			_, err := sampling.Multistep{}.Sample(context.Background(), s, f, x, sampling.Options{Levels: sampling.Levels(80, 1)})
			return err
		}))
	}
}

type pixelNetwork struct {
	models.Network
	Close func()
	shape []int
}

func pixelNetworks(t *testing.T) map[string]pixelNetwork {
	t.Helper()
	u, err := pixelunet.New(pixelunet.DDPMPP(16, 3, 32, []int{1, 2}, 1, 8), torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	p, err := mlp.New(mlp.Config{Classes: 3}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	d, err := dit.New(dit.Config{Resolution: 16, Patch: 4, Width: 32, Depth: 1, Heads: 2}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	return map[string]pixelNetwork{"unet": {u, u.Close, []int{3, 16, 16}}, "mlp": {p, p.Close, []int{2}}, "dit": {d, d.Close, []int{3, 16, 16}}}
}

// Weights of files that were closed, and into networks that were, are refused.
func TestWeightsAfterClose(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "small")
	require.NoError(t, tinysd.Write(dir, "sd15"))
	part, err := weights.OpenComponent(filepath.Join(dir, "vae"), weights.Options{})
	require.NoError(t, err)
	c, err := vae.ParseConfig(part.Config)
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, part.Close())
	}
	_, err = vae.From(c, part, torch.CPU, torch.Float32)
	require.ErrorIs(t, err, torch.ErrFreed)
	require.ErrorContains(t, err, "files were closed")

	open, err := mlp.New(mlp.Config{}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer open.Close()
	shut, err := mlp.New(mlp.Config{}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	shut.Close()
	require.ErrorContains(t, shut.Load(open.Tensors()), "load weights: the network was closed")
	require.ErrorIs(t, open.Load(shut.Tensors()), torch.ErrFreed)
	require.ErrorContains(t, torch.Catch(func() { shut.Store().SetRequiresGrad(false) }), "the network was closed")
}

// A preview after its step, and one with the wrong autoencoder, are errors that say when to ask for it.
func TestPreviewTooLate(t *testing.T) {
	m := openSmall(t)
	defer m.Close()
	tiny, err := vae.NewTiny(vae.TAESD(), torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	narrow, err := vae.NewTiny(vae.TinyConfig{LatentChannels: 16}, torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer narrow.Close()
	late := func(st texttoimage.Progress) {
		t.Helper()
		_, err := st.Preview(tiny)
		require.ErrorIs(t, err, torch.ErrFreed)
		require.ErrorContains(t, err, "inside the loop")
	}
	late(texttoimage.Progress{})
	var kept []texttoimage.Progress
	for st, err := range (texttoimage.Pipeline{Model: m, Steps: 3}).Run(context.Background(), "a cat") {
		require.NoError(t, err)
		for _, old := range kept {
			late(old)
		}
		kept = append(kept, st)
		images, err := st.Preview(tiny)
		require.NoError(t, err)
		require.Len(t, images, 1)
		_, err = st.Preview(nil)
		require.ErrorContains(t, err, "want an autoencoder")
		_, err = st.Preview(narrow)
		require.ErrorContains(t, err, "have 16 channels")
		if st.I == 3 {
			tiny.Close()
			_, err = st.Preview(tiny)
			require.ErrorContains(t, err, "vae: the network was closed")
		}
	}
	require.Len(t, kept, 3)
	late(kept[2])
}

// Tensors of the wrong type, rank, number of channels or range are refused by what they are, with what to do, and never by an operator
// inside of the network.
func TestForeignInputs(t *testing.T) {
	m := openSmall(t)
	defer m.Close()
	tiny, err := vae.NewTiny(vae.TAESD(), torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer tiny.Close()
	ones := func(s *torch.Scope, d torch.DType, shape ...int) *torch.Tensor {
		return torch.Ones(s, torch.Float32, shape...).To(s, d)
	}
	f32 := torch.Float32
	for _, d := range []torch.DType{torch.Float16, torch.BFloat16, torch.Float64, torch.Int64, torch.Uint8, torch.Float8E4M3} {
		for what, f := range map[string]func(s *torch.Scope){
			"unet: the latents": func(s *torch.Scope) {
				m.UNet.Forward(s, ones(s, d, 1, 4, 8, 8), ones(s, f32, 1), models.Cond{Text: ones(s, f32, 1, 77, 16)})
			},
			"unet: the prompt embeddings (Cond.Text)": func(s *torch.Scope) {
				m.UNet.Forward(s, ones(s, f32, 1, 4, 8, 8), ones(s, f32, 1), models.Cond{Text: ones(s, d, 1, 77, 16)})
			},
			"vae: the images":   func(s *torch.Scope) { m.VAE.Encode(s, ones(s, d, 1, 3, 64, 64), nil) },
			"vae: the latents":  func(s *torch.Scope) { m.VAE.Decode(s, ones(s, d, 1, 4, 8, 8)) },
			"vae: the latents ": func(s *torch.Scope) { tiny.Decode(s, ones(s, d, 1, 4, 8, 8)) },
			"vae: the images ":  func(s *torch.Scope) { tiny.Encode(s, ones(s, d, 1, 3, 64, 64), nil) },
		} {
			refused(t, within(f), what[:len(what)-1], "want float32", "got "+d.String(), "To(s, torch.Float32)")
		}
		if d != torch.Int64 {
			refused(t, within(func(s *torch.Scope) { m.Texts[0].Forward(s, ones(s, d, 1, 77), clip.Options{}) }), "clip: the tokens", "want int64", "got "+d.String())
		}
	}
	for what, f := range map[string]func(s *torch.Scope){
		"unet: want latents of shape [n, 4, h, w], got [4 8 8]": func(s *torch.Scope) { m.UNet.Forward(s, ones(s, f32, 4, 8, 8), ones(s, f32, 1), models.Cond{}) },
		"vae: want latents [n, 4, H, W], got [1 3 8 8]":         func(s *torch.Scope) { m.VAE.Decode(s, ones(s, f32, 1, 3, 8, 8)) },
		"vae: want latents [n, 4, H, W], got [4 8 8]":           func(s *torch.Scope) { tiny.Decode(s, ones(s, f32, 4, 8, 8)) },
		"vae: the latents: want a tensor, got nil":              func(s *torch.Scope) { m.VAE.Decode(s, nil) },
		"vae: the images: the tensor was freed": func(s *torch.Scope) {
			x := ones(s, f32, 1, 3, 64, 64)
			x.Free()
			m.VAE.Encode(s, x, nil)
		},
		"clip: the tokens: want numbers from 0 to 49407, got -1 to -1": func(s *torch.Scope) { m.Texts[0].Forward(s, torch.Full(s, -1, torch.Int64, 1, 77), clip.Options{}) },
	} {
		refused(t, within(f), what)
	}
	for name, net := range pixelNetworks(t) {
		defer net.Close()
		batch := append([]int{2}, net.shape...)
		label := func(s *torch.Scope) models.Cond {
			if name == "mlp" {
				return models.Cond{Class: torch.Zeros(s, torch.Int64, 2)}
			}
			return models.Cond{}
		}
		for _, d := range []torch.DType{torch.Float16, torch.Float64} {
			for _, f := range []func(s *torch.Scope){
				func(s *torch.Scope) { net.Forward(s, ones(s, d, batch...), ones(s, f32, 2), label(s)) },
				func(s *torch.Scope) {
					(&models.Consistency{Net: net}).Origin(s, ones(s, d, batch...), ones(s, f32, 2), label(s))
				},
				func(s *torch.Scope) {
					(&models.Flow{Net: net}).Denoise(s, ones(s, d, batch...), ones(s, f32, 2), label(s))
				},
			} {
				refused(t, within(f), name, "want float32", "got "+d.String(), "To(s, torch.Float32)")
			}
		}
		refused(t, within(func(s *torch.Scope) { net.Forward(s, ones(s, f32, 2, 5), ones(s, f32, 2), label(s)) }), name, "got [2 5]")
		refused(t, within(func(s *torch.Scope) { net.Forward(s, ones(s, f32, batch...), ones(s, f32, 3), label(s)) }), name, "noise labels", "[3]")
		refused(t, within(func(s *torch.Scope) { net.Forward(s, nil, nil, label(s)) }), name, "nil")
		for _, f := range []func(s *torch.Scope, x, t *torch.Tensor){
			func(s *torch.Scope, x, t *torch.Tensor) { (&models.EDM{Net: net}).Denoise(s, x, t, label(s)) },
			func(s *torch.Scope, x, t *torch.Tensor) { (&models.Consistency{Net: net}).Origin(s, x, t, label(s)) },
			func(s *torch.Scope, x, t *torch.Tensor) { (&models.TrigFlow{Net: net}).Denoise(s, x, t, label(s)) },
			func(s *torch.Scope, x, t *torch.Tensor) { (&models.MeanFlow{Net: net}).Denoise(s, x, t, label(s)) },
			func(s *torch.Scope, x, t *torch.Tensor) { (&models.Trajectory{Net: net}).Jump(s, x, t, t, label(s)) },
		} {
			refused(t, within(func(s *torch.Scope) { f(s, ones(s, f32, batch...), ones(s, f32, 3)) }), "noise level", "[3]")
			refused(t, within(func(s *torch.Scope) { f(s, ones(s, f32, batch...), ones(s, f32, 2, 1)) }), "noise level", "[2 1]")
			refused(t, within(func(s *torch.Scope) { f(s, ones(s, torch.Int64, batch...), ones(s, f32, 2)) }), "floating-point", "int64")
			refused(t, within(func(s *torch.Scope) { f(s, ones(s, f32, batch...), nil) }), "nil")
		}
		if name == "mlp" {
			refused(t, within(func(s *torch.Scope) {
				net.Forward(s, ones(s, f32, batch...), ones(s, f32, 2), models.Cond{Class: torch.Full(s, 9, torch.Int64, 2)})
			}), "classes", "from 0 to 3", "9")
			refused(t, within(func(s *torch.Scope) {
				net.Forward(s, ones(s, f32, batch...), ones(s, f32, 2), models.Cond{Class: torch.Zeros(s, torch.Float32, 2)})
			}), "classes", "want int64, got float32")
		}
	}
	refused(t, drawn(texttoimage.Pipeline{}, "a cat"), "want a model, got nil")
	refused(t, drawn(texttoimage.Pipeline{Model: &sd.Model{}}, "a cat"), "no networks")
}

// refused checks an error's facts, and that no operator's message is among them.
func refused(t *testing.T, err error, facts ...string) {
	t.Helper()
	for _, f := range facts {
		require.ErrorContains(t, err, f)
	}
	for _, raw := range []string{"mat1", "Half", "operand", "size of tensor", "conv2d", "linear"} {
		require.NotContains(t, err.Error(), raw)
	}
}

// A tensor on another device than the network is refused by both devices' names.
func TestForeignDevice(t *testing.T) {
	torchtest.SkipIfNoCUDA(t)
	tiny, err := vae.NewTiny(vae.TAESD(), torch.CUDA(0), torch.Float32, 1)
	require.NoError(t, err)
	defer tiny.Close()
	refused(t, within(func(s *torch.Scope) { tiny.Decode(s, torch.Ones(s, torch.Float32, 1, 4, 8, 8)) }), "vae: the latents", "on cuda:0", "on cpu", "ToDevice")
}
