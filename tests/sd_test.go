package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

const sdFolder = "testdata/sd"

// sdCase is a line of testdata/sd/cases.jsonl; scripts/golden/tests/sd_pipelines.py says what its keys mean.
type sdCase struct {
	Name, Model, Variant, VAE, Pipeline, DType string
	Sampler                                    *string
	Overrides                                  map[string]any
	Steps, Original, N, Width, Height          int
	Timesteps                                  []int
	Guidance, Rescale, Strength                float64
	Prompt                                     string
	Negative                                   *string
	ClipSkip                                   int `json:"clip_skip"`
	Seeds                                      []uint64
	Shared, Apart                              bool
	Init, Mask                                 string
	Controls                                   []struct {
		Net, Image        string
		Scale, Start, End float64
		Guess             bool
	}
	Size, Crop     []int
	Latents, Image string
	Every          int // which rows and columns of the image are there
}

func sdCases(t *testing.T) (all []sdCase) {
	t.Helper()
	f, err := os.Open(filepath.Join(sdFolder, "cases.jsonl"))
	require.NoError(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var c sdCase
		d := json.NewDecoder(strings.NewReader(lines.Text()))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&c))
		all = append(all, c)
	}
	require.NoError(t, lines.Err())
	require.NotEmpty(t, all)
	return all
}

// decoded is an autoencoder that keeps the latents it has decoded.
type decoded struct {
	vae.Autoencoder
	latents []float32
}

func (d *decoded) Decode(s *torch.Scope, latents *torch.Tensor) *torch.Tensor {
	d.latents = append(d.latents, torch.ToSlice[float32](latents.To(s, torch.Float32))...)
	return d.Autoencoder.Decode(s, latents)
}

var sdTypes = map[string]torch.DType{"float32": torch.Float32, "float16": torch.Float16, "bfloat16": torch.BFloat16}

// open opens the case's model with the scheduler's configuration that it wants.
func (c sdCase) open(t *testing.T) (*sd.Model, *decoded) {
	t.Helper()
	o := sd.Options{DType: sdTypes[c.DType], Variant: c.Variant}
	if c.VAE != "" {
		o.TinyVAE = filepath.Join(sdFolder, c.VAE)
	}
	m, err := sd.Open(filepath.Join(sdFolder, c.Model), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	seen := &decoded{Autoencoder: m.VAE}
	m.VAE = seen
	var config map[string]any
	require.NoError(t, json.Unmarshal(m.Scheduler, &config))
	maps.Copy(config, c.Overrides)
	m.Scheduler, err = json.Marshal(config)
	require.NoError(t, err)
	return m, seen
}

func (c sdCase) picture(t *testing.T, name string) image.Image {
	t.Helper()
	if name == "" {
		return nil
	}
	return readPNG(t, filepath.Join(sdFolder, name))
}

// drawing is what the case asks for.
func (c sdCase) drawing(t *testing.T, m *sd.Model) texttoimage.Pipeline {
	t.Helper()
	d := texttoimage.Pipeline{
		Model: m, Steps: c.Steps, Timesteps: c.Timesteps, OriginalSteps: c.Original, Guidance: c.Guidance, Rescale: c.Rescale,
		Plain: true, ClipSkip: c.ClipSkip, Width: c.Width, Height: c.Height,
		Seed: c.Seeds[0], N: c.N, SharedNoise: c.Shared,
		Init: c.picture(t, c.Init), Strength: c.Strength, Mask: c.picture(t, c.Mask),
		Shorten: c.Pipeline == "LatentConsistencyModelImg2ImgPipeline",
	}
	if c.Negative != nil {
		d.Negative, d.EmptyNegative = *c.Negative, *c.Negative == ""
	}
	for i, seed := range c.Seeds {
		require.Equal(t, c.Seeds[0]+uint64(i), seed, "seeds count up")
	}
	if c.Sampler != nil {
		var err error
		d.Method, err = scheduler.Named(*c.Sampler)
		require.NoError(t, err)
	}
	if c.Size != nil {
		d.OriginalSize, d.Crop = image.Pt(c.Size[0], c.Size[1]), image.Pt(c.Crop[0], c.Crop[1])
	}
	for _, k := range c.Controls {
		part, err := weights.OpenComponent(filepath.Join(sdFolder, k.Net), weights.Options{})
		require.NoError(t, err)
		config, err := unet.ParseControlNetConfig(part.Config)
		require.NoError(t, err)
		net, err := unet.ControlNetFrom(config, part, torch.CPU, m.DType())
		require.NoError(t, err)
		t.Cleanup(func() {
			net.Close()
			require.NoError(t, part.Close())
		})
		d.Controls = append(d.Controls,
			texttoimage.Control{Net: net, Image: c.picture(t, k.Image), Scale: k.Scale, Start: k.Start, End: k.End, Guess: k.Guess})
	}
	return d
}

// Models that diffusers writes give the pictures that its pipelines draw with them. In float32 both sides round differently: latents
// are within 1e-5 of their norm, and one level in one of a thousand values (in one value of images of which fewer are kept). In half precision they are within 3e-2 (bfloat16) and
// 5e-3, and pictures within 35 dB.
func TestDiffusersPipelines(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	golden, _ := torchtest.Golden(t, s, filepath.Join(sdFolder, "cases.safetensors"))
	for i, c := range sdCases(t) {
		if testing.Short() && i%8 != 0 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			m, seen := c.open(t)
			c.compare(t, golden, c.drawing(t, m), seen)
		})
	}
}

// compare draws and compares with the golden latents and pictures.
func (c sdCase) compare(t *testing.T, golden map[string]*torch.Tensor, draw texttoimage.Pipeline, seen *decoded) {
	t.Helper()
	wantLatents := torch.ToSlice[float32](golden[c.Latents])
	wantLevels := torch.ToSlice[uint8](golden[c.Image])
	var levels []uint8
	for p, err := range draw.Images(context.Background(), c.Prompt) {
		require.NoError(t, err)
		require.Equal(t, image.Rect(0, 0, c.Width, c.Height), p.Bounds())
		for y := 0; y < c.Height; y += c.Every {
			for x := 0; x < c.Width; x += c.Every {
				v := color.NRGBAModel.Convert(p.At(x, y)).(color.NRGBA)
				levels = append(levels, v.R, v.G, v.B)
			}
		}
	}
	off := distance(t, seen.latents, wantLatents)
	most, unequal, db := compareLevels(t, levels, wantLevels)
	what := fmt.Sprintf("latents differ by %.2g of their norm; of the levels %.4f by up to %d, %.1f dB", off, unequal, most, db)
	switch c.DType {
	case "float32":
		require.LessOrEqual(t, off, 1e-5, what)
		require.LessOrEqual(t, most, 1, what)
		require.LessOrEqual(t, unequal, max(1e-3, 1/float64(len(levels))), what)
	case "float16":
		require.LessOrEqual(t, off, 5e-3, what)
		require.GreaterOrEqual(t, db, 35., what)
	default:
		require.LessOrEqual(t, off, 3e-2, what)
		require.GreaterOrEqual(t, db, 35., what)
	}
	t.Log(what)
}

// distance is |a-b|/|b|.
func distance(t *testing.T, a, b []float32) float64 {
	t.Helper()
	require.Len(t, a, len(b))
	var d, n float64
	for i := range a {
		d += math.Pow(float64(a[i])-float64(b[i]), 2)
		n += math.Pow(float64(b[i]), 2)
	}
	return math.Sqrt(d / n)
}

// compareLevels returns the largest difference, the part of the values that differ, and the peak signal-to-noise ratio.
func compareLevels(t *testing.T, a, b []uint8) (most int, unequal, db float64) {
	t.Helper()
	require.Len(t, a, len(b))
	square := 0
	for i := range a {
		d := int(a[i]) - int(b[i])
		most = max(most, d, -d)
		square += d * d
		if d != 0 {
			unequal++
		}
	}
	n := float64(len(b))
	return most, unequal / n, 10 * math.Log10(255*255*n/float64(square))
}
