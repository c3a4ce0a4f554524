package texttoimage_test

import (
	"context"
	"image"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
)

// given are a picture of slanted colours and a mask of its right half.
func given() (picture, mask image.Image) {
	p, m := image.NewNRGBA(image.Rect(0, 0, 64, 64)), image.NewGray(image.Rect(0, 0, 64, 64))
	for i := range 64 * 64 {
		p.SetNRGBA(i%64, i/64, color.NRGBA{uint8(4 * (i % 64)), uint8(4 * (i / 64)), uint8(2 * (i%64 + i/64)), 255})
		m.SetGray(i%64, i/64, color.Gray{uint8(255 * (i % 64 / 32))})
	}
	return p, m
}

// A picture that starts from another, or fills in a part of it, is the same alone, as one of several, and drawn together with others.
func TestGivenPicturesStandAlone(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(dir, "inpaint"), "inpaint"))
	nine, err := sd.Open(filepath.Join(dir, "inpaint"), sd.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, nine.Close()) })
	picture, mask := given()
	for name, d := range map[string]texttoimage.Pipeline{
		"picture":       {Model: openTiny(t, sd.Options{}), Init: picture, Strength: 0.7},
		"mask":          {Model: openTiny(t, sd.Options{}), Init: picture, Mask: mask},
		"mask, in part": {Model: openTiny(t, sd.Options{}), Init: picture, Mask: mask, Strength: 0.7},
		"nine channels": {Model: nine, Init: picture, Mask: mask},
	} {
		t.Run(name, func(t *testing.T) {
			d.Steps, d.Seed, d.N = 3, 5, 2
			two := images(t, d, "a cat")
			one := d
			one.N, one.Seed = 1, 6
			require.Zero(t, off(two[1], images(t, one, "a cat")[0]))
			require.Greater(t, off(two[0], two[1]), 10)
			d.Batch = 2
			for i, together := range images(t, d, "a cat") {
				require.LessOrEqual(t, off(two[i], together), 1)
			}
		})
	}
}

// A decoder alone cannot read a picture to start from; without one it draws.
func TestDecoderAlone(t *testing.T) {
	dir := t.TempDir()
	from, err := filepath.Abs("../../models/sd/testdata/taesd_decoder.pth")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(from, filepath.Join(dir, "taesd_decoder.pth")))
	m := openTiny(t, sd.Options{TinyVAE: dir, Tile: 128})
	picture, _ := given()
	_, err = texttoimage.Pipeline{Model: m, Init: picture}.Plan("a cat")
	require.EqualError(t, err, "the tiny autoencoder has only a decoder and cannot encode the input image: its encoder's file is needed too")
	d := texttoimage.Pipeline{Model: m, Steps: 1, Width: 192, Height: 64}
	tiles := images(t, d, "a cat")[0]
	m = openTiny(t, sd.Options{TinyVAE: dir})
	d.Model = m
	whole := images(t, d, "a cat")[0]
	require.Greater(t, off(whole, tiles), 2, "the option for tiles reaches the tiny autoencoder")
	require.Equal(t, torch.Float32, m.VAE.DType())
}

// No negative prompt is zeros for SDXL, unless an empty one is asked for; other models have no zeros.
func TestEmptyNegative(t *testing.T) {
	dir := t.TempDir()
	for kind, differ := range map[string]bool{"sdxl": true, "sd15": false} {
		require.NoError(t, tiny.Write(filepath.Join(dir, kind), kind))
		m, err := sd.Open(filepath.Join(dir, kind), sd.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, m.Close()) })
		d := texttoimage.Pipeline{Model: m, Steps: 2, Seed: 1, Guidance: 5}
		zeros := images(t, d, "a cat")[0]
		d.EmptyNegative = true
		require.Equal(t, differ, off(zeros, images(t, d, "a cat")[0]) > 1, kind)
		d.Negative = "a dog"
		plan, err := d.Plan("a cat")
		require.NoError(t, err)
		require.Contains(t, joinNotices(plan.Notices), "the option to encode an empty negative prompt has no effect: the negative prompt is not empty")
	}
}

// A ControlNet of another family is refused before anything is drawn.
func TestForeignControls(t *testing.T) {
	m := openTiny(t, sd.Options{})
	picture, _ := given()
	for want, change := range map[string]func(e *unet.Encoder){
		"": func(*unet.Encoder) {},
		"control 1: the ControlNet is for another model family: cross_attention_dim: want 16, got 32": func(e *unet.Encoder) {
			e.CrossAttentionDim = unet.Ints{32}
		},
		"block_out_channels: want [16 16], got [16 32]": func(e *unet.Encoder) { e.BlockOutChannels = unet.Ints{16, 32} },
		"layers_per_block: want 1, got 2":               func(e *unet.Encoder) { e.LayersPerBlock = unet.Ints{2} },
		"addition_embed_type: want none, got \"text_time\"": func(e *unet.Encoder) {
			e.AdditionEmbedType, e.AdditionTimeEmbedDim, e.ProjectionInputDim = "text_time", 8, 6*8+24
		},
	} {
		c := unet.ControlNetConfig{Encoder: m.UNet.Config().Encoder, EmbeddingChannels: unet.Ints{4, 4, 8, 8}}
		change(&c.Encoder)
		net, err := unet.ControlNetFrom(c, sdtest.Filled(unet.ControlNetShapes(c)), torch.CPU, torch.Float32)
		require.NoError(t, err)
		t.Cleanup(net.Close)
		_, err = texttoimage.Pipeline{Model: m, Controls: []texttoimage.Control{{Net: net, Image: picture}}}.Plan("a cat")
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
	}
}

// Weights that are not numbers end a drawing in its first step.
func TestBrokenWeights(t *testing.T) {
	for _, bad := range []float64{math.NaN(), math.Inf(1)} {
		m := openTiny(t, sd.Options{DType: torch.BFloat16})
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				for name, v := range m.UNet.Parameters() {
					if name == "conv_out.bias" {
						v.FillInPlace(s, bad)
					}
				}
				return nil
			})
		}))
		steps := 0
		for _, err := range (texttoimage.Pipeline{Model: m, Steps: 4}).Run(context.Background(), "a cat") {
			if steps++; steps > 1 {
				t.Fatal("it went on")
			}
			require.EqualError(t, err, "prompt 1: step 1: the network's prediction is not finite: its weights are corrupt, or overflow in bfloat16")
		}
		require.Equal(t, 1, steps)
	}
}
