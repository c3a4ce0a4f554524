package texttoimage_test

import (
	"context"
	"image"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func openTiny(t *testing.T, o sd.Options) *sd.Model {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny")
	require.NoError(t, tiny.Write(dir, "sd15"))
	m, err := sd.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func images(t *testing.T, d texttoimage.Pipeline, texts ...string) (all []image.Image) {
	t.Helper()
	for m, err := range d.Images(context.Background(), texts...) {
		require.NoError(t, err)
		all = append(all, m)
	}
	return all
}

// off is the largest difference of two pictures in levels.
var off = torchtest.Levels

// A picture depends on its seed and text alone: not on how many are drawn, and but for rounding not on how many are drawn together. With
// shared noise it does.
func TestPicturesStandAlone(t *testing.T) {
	m := openTiny(t, sd.Options{})
	d := texttoimage.Pipeline{Model: m, Steps: 3, Seed: 5, N: 3}
	all := images(t, d, "a cat", "a dog")
	require.Len(t, all, 6)
	one := d
	one.N, one.Seed = 1, 6
	require.Zero(t, off(all[4], images(t, one, "a dog")[0]))
	require.Greater(t, off(all[1], all[4]), 2, "another text")
	require.Greater(t, off(all[0], all[1]), 10, "another seed")

	d.Batch = 3
	for i, together := range images(t, d, "a cat", "a dog") {
		require.LessOrEqual(t, off(all[i], together), 1)
	}
	d.SharedNoise = true
	shared := images(t, d, "a cat")
	require.Greater(t, off(shared[1], all[1]), 10)
}

// Several goroutines draw with one model, at several sizes, and get what one alone gets.
func TestSharedModel(t *testing.T) {
	m := openTiny(t, sd.Options{})
	sizes := []int{64, 72, 80, 64}
	want := make([]image.Image, len(sizes))
	draw := func(i int) texttoimage.Pipeline {
		return texttoimage.Pipeline{Model: m, Steps: 2, Seed: uint64(i), Width: sizes[i], Height: 64}
	}
	for i := range sizes {
		want[i] = images(t, draw(i), "a cat")[0]
	}
	var all sync.WaitGroup
	got := make([]image.Image, len(sizes))
	for i := range sizes {
		all.Go(func() {
			for m, err := range draw(i).Images(context.Background(), "a cat") {
				if err == nil {
					got[i] = m
				}
			}
		})
	}
	all.Wait()
	for i := range sizes {
		require.NotNil(t, got[i])
		require.LessOrEqual(t, off(want[i], got[i]), 1)
	}
}

// Steps come one by one, with previews; a cancelled context ends the drawing within one, and so does a loop that breaks.
func TestRun(t *testing.T) {
	m := openTiny(t, sd.Options{})
	d := texttoimage.Pipeline{Model: m, Steps: 4, Seed: 5}
	steps := 0
	for st, err := range d.Run(context.Background(), "a cat") {
		require.NoError(t, err)
		steps++
		require.Equal(t, steps, st.I)
		require.Equal(t, 4, st.Steps)
		require.Equal(t, []uint64{5}, st.Seeds)
		p, err := st.Preview(m.VAE)
		require.NoError(t, err)
		require.Equal(t, 64, p[0].Bounds().Dx())
		require.Equal(t, steps == 4, st.Images != nil)
		if st.Images != nil {
			require.Zero(t, off(p[0], st.Images[0]), "the last prediction is the picture")
		}
	}
	require.Equal(t, 4, steps)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last error
	steps = 0
	for _, err := range d.Run(ctx, "a cat") {
		if last = err; err == nil {
			steps++
			cancel()
		}
	}
	require.ErrorIs(t, last, context.Canceled)
	require.Equal(t, 1, steps)

	for range d.Run(context.Background(), "a cat") {
		break
	}
}

func TestPlan(t *testing.T) {
	m := openTiny(t, sd.Options{})
	p, err := texttoimage.Pipeline{Model: m}.Plan()
	require.NoError(t, err)
	require.Equal(t, []any{"lcm", 4, []float64{999, 759, 499, 259}, 4, 1.0, false, 64, 64, 0.0},
		[]any{p.Method, p.Steps, p.Timesteps, p.Evaluations, p.Guidance, p.Distilled, p.Width, p.Height, p.Strength})
	require.Empty(t, p.Notices)
	picture := image.NewNRGBA(image.Rect(0, 0, 70, 80))
	for _, c := range []struct {
		want string
		d    texttoimage.Pipeline
	}{
		{"the negative prompt has no effect without guidance", texttoimage.Pipeline{Negative: "x"}},
		{"a guidance scale of 0.5 is without guidance", texttoimage.Pipeline{Guidance: 0.5}},
		{"the input image is resized from 70×80 to 64×80 pixels", texttoimage.Pipeline{Init: picture}},
		{"timesteps [998 3] are not among the 50", texttoimage.Pipeline{Timesteps: []int{998, 3}}},
		{"guidance rescale has no effect", texttoimage.Pipeline{Rescale: 0.5}},
	} {
		c.d.Model = m
		p, err := c.d.Plan()
		require.NoError(t, err)
		require.Contains(t, joinNotices(p.Notices), c.want)
	}
	long := ""
	for range 80 {
		long += "cat "
	}
	p, err = texttoimage.Pipeline{Model: m, Plain: true}.Plan("short", long)
	require.NoError(t, err)
	require.Equal(t, []string{`prompt 2 is too long for one chunk of tokens and is truncated before "cat cat cat cat cat"`}, p.Notices)

	for want, d := range map[string]texttoimage.Pipeline{
		"a mask was given without an input image":                            {Mask: picture},
		"a strength was given without an input image":                        {Strength: 0.5},
		"width: want a multiple of 8 pixels, got 65: use 64 or 72":           {Width: 65},
		"height: want 8 to 16384 pixels, got 99999":                          {Height: 99999},
		"guidance: want a scale from 0 to 1000, got -1":                      {Guidance: -1},
		"variation strength: want 0 to 1, got 2":                             {VariationStrength: 2},
		"strength: want a number above 0 and up to 1, got 1.5":               {Init: picture, Strength: 1.5},
		"control 1: want a ControlNet and an image":                          {Controls: []texttoimage.Control{{}}},
		"want at least 1 image and a batch size of at least 1, got -1 and 0": {N: -1},
	} {
		d.Model = m
		_, err := d.Plan()
		require.EqualError(t, err, want)
		for _, err := range d.Images(context.Background(), "x") {
			require.EqualError(t, err, want)
		}
	}
	_, err = texttoimage.Pipeline{Model: m}.Plan("a", "b <lora:x:0.5>")
	require.EqualError(t, err, `prompt 2: it has a tag for the adapter "x": set Tagged to a function that loads it, or remove the tag`)
	_, err = texttoimage.Pipeline{Model: m}.Plan("a", "b <lyco:x:0.5>")
	require.ErrorContains(t, err, `prompt 2: it has a tag for the adapter "x"`)
	for _, tag := range []string{"<lora:x:much>", "<lora::1>", "<lora:x:nan>", "<lora:x:1:lbw=MIDD>", "<lora:x", "< LoRA:x:much>", "<lyco:x:y>", "<hypernet:x:1>", "<Hypernet:x>"} {
		_, err = texttoimage.Pipeline{Model: m}.Plan("a", "b "+tag)
		require.ErrorContains(t, err, "prompt 2: "+strconv.Quote(tag), tag)
		_, err = texttoimage.Pipeline{Model: m, Negative: tag, Guidance: 2}.Plan("a")
		require.ErrorContains(t, err, strconv.Quote(tag), tag)
		require.ErrorContains(t, err, "negative", tag)
		_, err = texttoimage.Pipeline{Model: m, Plain: true}.Plan("a", tag)
		require.NoError(t, err)
	}
	_, err = texttoimage.Pipeline{}.Plan()
	require.ErrorContains(t, err, "want a model, got nil")
}

// A tag of an unknown kind is read as words, and said.
func TestUnknownTags(t *testing.T) {
	m := openTiny(t, sd.Options{})
	plan, err := texttoimage.Pipeline{Model: m, Negative: "<neg:x:1>"}.Plan("a <segment:face:0.5> cat <3")
	require.NoError(t, err)
	require.Contains(t, joinNotices(plan.Notices), `"<segment:face:0.5>"`)
	require.Contains(t, joinNotices(plan.Notices), `"<neg:x:1>"`)
	require.NotContains(t, joinNotices(plan.Notices), "<3")
}

// Plain prompts have no tags: that one would have is said once, of any kind.
func TestTagsOfPlainPrompts(t *testing.T) {
	m := openTiny(t, sd.Options{})
	for _, tag := range []string{"<lora:one:1>", "<lyco:one>", "<hypernet:x:1>", "<segment:face>"} {
		plan, err := texttoimage.Pipeline{Model: m, Plain: true, Negative: tag, Guidance: 2}.Plan("a <3 cat", "a cat "+tag, tag)
		require.NoError(t, err)
		require.Len(t, plan.Notices, 1)
		require.Contains(t, plan.Notices[0], tag)
	}
	_, err := texttoimage.Pipeline{Model: m}.Plan("a cat <lora:one:1>")
	require.ErrorContains(t, err, `"one"`)
	require.NotContains(t, err.Error(), "--")
}

func joinNotices(all []string) (text string) {
	for _, n := range all {
		text += n + "\n"
	}
	return text
}

// ControlNets change the picture by as much as their scale says, in the steps that they act in.
func TestControls(t *testing.T) {
	m := openTiny(t, sd.Options{})
	c := unet.ControlNetConfig{Encoder: m.UNet.Config().Encoder, EmbeddingChannels: unet.Ints{4, 4, 8, 8}}
	net, err := unet.ControlNetFrom(c, sdtest.Filled(unet.ControlNetShapes(c)), torch.CPU, torch.Float32)
	require.NoError(t, err)
	defer net.Close()
	seen := image.NewGray(image.Rect(0, 0, 64, 64))
	for i := range seen.Pix {
		seen.Pix[i] = uint8(i)
	}
	draw := func(k ...texttoimage.Control) image.Image {
		return images(t, texttoimage.Pipeline{Model: m, Steps: 2, Seed: 1, Guidance: 3, Controls: k}, "a cat")[0]
	}
	none := draw()
	whole := draw(texttoimage.Control{Net: net, Image: seen})
	require.Greater(t, off(none, whole), 10)
	require.Greater(t, off(whole, draw(texttoimage.Control{Net: net, Image: seen, Scale: 0.5})), 2)
	require.Greater(t, off(whole, draw(texttoimage.Control{Net: net, Image: seen, Guess: true})), 2)
	require.Greater(t, off(whole, draw(texttoimage.Control{Net: net, Image: seen, End: 0.5})), 2)
	half := texttoimage.Control{Net: net, Image: seen, Scale: 0.5}
	require.LessOrEqual(t, off(whole, draw(half, half)), 1, "two halves are a whole")
}

// Methods, types and autoencoders of all kinds draw.
func TestMethods(t *testing.T) {
	m := openTiny(t, sd.Options{DType: torch.BFloat16})
	for _, name := range scheduler.Names() {
		method, err := scheduler.Named(name)
		require.NoError(t, err)
		images(t, texttoimage.Pipeline{Model: m, Method: method, Steps: 2, Seed: 1}, "a cat")
	}
	small, err := vae.NewTiny(vae.TAESD(), torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	defer small.Close()
	for st, err := range (texttoimage.Pipeline{Model: m, Steps: 1}).Run(context.Background(), "a cat") {
		require.NoError(t, err)
		p, err := st.Preview(small)
		require.NoError(t, err)
		require.Equal(t, 64, p[0].Bounds().Dy())
	}
}

// A GPU draws the same pictures, but for rounding: the noise is the CPU's.
func TestPicturesOnCUDA(t *testing.T) {
	picture := image.NewNRGBA(image.Rect(0, 0, 64, 64))
	for i := range picture.Pix {
		picture.Pix[i] = uint8(i)
	}
	draw := func(dev torch.Device, graphs bool) []image.Image {
		m := openTiny(t, sd.Options{Device: dev})
		if graphs {
			m.UseGraphs(func(err error) { t.Error(err) })
		}
		all := images(t, texttoimage.Pipeline{Model: m, Steps: 4, Seed: 5, N: 2, Guidance: 3, Negative: "x"}, "a (cat:1.2)")
		adapters := nn.Adapters{}
		st, err := nn.NewStore(torch.CPU, torch.Float32, 3)
		require.NoError(t, err)
		defer st.Close()
		moved := torch.NewScope(dev)
		defer moved.Close()
		for name, w := range m.UNet.Store().Tensors() {
			if shape := w.Shape(); len(shape) == 2 {
				down, up := nn.NewLinear(st.Root().Sub("down").Sub(name), shape[1], 2), nn.NewLinear(st.Root().Sub("up").Sub(name), 2, shape[0])
				down.Weight, up.Weight = down.Weight.ToDevice(moved, dev), up.Weight.ToDevice(moved, dev)
				adapters[w] = []nn.Adapter{nn.LowRank{Down: down, Up: up, Scale: 0.5}}
			}
		}
		adapted := images(t, texttoimage.Pipeline{Model: m, Steps: 4, Seed: 5, Adapters: adapters}, "a cat")
		require.Positive(t, off(adapted[0], images(t, texttoimage.Pipeline{Model: m, Steps: 4, Seed: 5}, "a cat")[0]))
		all = append(all, adapted...)
		return append(all, images(t, texttoimage.Pipeline{Model: m, Init: picture, Mask: picture, Strength: 0.7}, "a dog")...)
	}
	ours := draw(torch.CPU, false)
	torchtest.SkipIfNoCUDA(t)
	theirs, replayed := draw(torch.CUDA(0), false), draw(torch.CUDA(0), true)
	for i := range ours {
		require.LessOrEqual(t, off(ours[i], theirs[i]), 3)
		require.LessOrEqual(t, off(theirs[i], replayed[i]), 1)
	}
}

// Stages are told in their order: the prompt once, then for each batch the input image, if there is one, the steps and the decoding.
func TestStages(t *testing.T) {
	m := openTiny(t, sd.Options{})
	var got []texttoimage.Stage
	d := texttoimage.Pipeline{Model: m, Steps: 2, N: 2, Seed: 1, Began: func(s texttoimage.Stage) { got = append(got, s) }}
	images(t, d, "a cat", "a dog")
	batch := []texttoimage.Stage{texttoimage.Sampling, texttoimage.Decoding}
	one := append(append([]texttoimage.Stage{texttoimage.EncodingText}, batch...), batch...)
	require.Equal(t, append(append([]texttoimage.Stage{}, one...), one...), got)

	got = nil
	d.N, d.Init = 1, image.NewRGBA(image.Rect(0, 0, 64, 64))
	images(t, d, "a cat")
	require.Equal(t, []texttoimage.Stage{texttoimage.EncodingText, texttoimage.EncodingImage, texttoimage.Sampling, texttoimage.Decoding}, got)
}
