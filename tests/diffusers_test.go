package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
)

// Models that onestep writes, folders and single files in every type, load in diffusers and give the same picture there.
func TestDiffusersReadsOurModels(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors")
	script, err := filepath.Abs("testdata/diffusers_draw.py")
	require.NoError(t, err)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, tinysd.Write(at("folder"), "sd15"))
	onestep := tool(t)
	run := func(args ...string) {
		t.Helper()
		cmd, _, errs := command(onestep, args...)
		require.NoError(t, cmd.Run(), errs)
	}
	run("convert", "--model", at("folder"), "--out", at("single.safetensors"))
	run("convert", "--model", at("single.safetensors"), "--out", at("back"))
	run("convert", "--model", at("folder"), "--dtype", "f16", "--out", at("half"))
	run("convert", "--model", at("folder"), "--dtype", "f16", "--out", at("half.safetensors"))
	names := []string{"folder", "single.safetensors", "back", "half", "half.safetensors"}
	args := []string{script, at("folder")}
	for _, name := range names {
		run("generate", "--model", at(name), "--sampler", "lcm", "--prompt", "a red cat", "--plain", "--steps", "3", "--seed", "11", "--threads", "1", "--out", at(name+".ours.png"))
		args = append(args, at(name), at(name+".theirs.png"))
	}
	runScript(t, python, dir, args...)
	for _, name := range names {
		same(t, name, at(name+".ours.png"), at(name+".theirs.png"))
	}
}

// pair is a drawing on both sides.
type pair struct {
	Name      string         `json:"name"`
	Pipeline  string         `json:"pipeline"`
	Model     string         `json:"model"`
	Controls  []string       `json:"controls,omitempty"`
	Scheduler string         `json:"scheduler"`
	Config    map[string]any `json:"config,omitempty"`
	Eta       *float64       `json:"eta,omitempty"`
	Args      map[string]any `json:"args"`
	Seeds     []uint64       `json:"seeds"`
	Shared    bool           `json:"shared,omitempty"`
	DType     string         `json:"dtype,omitempty"`

	kind  string
	ours  texttoimage.Pipeline
	loose bool // half precision: levels may differ, but not the picture
}

// Pictures of diffusers' pipelines and of texttoimage are the same: text to image by every scheduler, all families, guidance of both
// kinds, image to image by both rules, inpainting of both kinds, ControlNets, one and several generators.
func TestPicturesAreDiffusers(t *testing.T) {
	python := torchtest.Python(t, "torch", "diffusers", "transformers", "safetensors", "PIL")
	script, err := filepath.Abs("testdata/diffusers_cases.py")
	require.NoError(t, err)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, kind := range tinysd.Kinds {
		require.NoError(t, tinysd.Write(at(kind), kind))
	}
	require.NoError(t, tinysd.WriteControlNet(at("control"), "sd15"))
	picture, mask := image.NewNRGBA(image.Rect(0, 0, 64, 64)), image.NewNRGBA(image.Rect(0, 0, 64, 64))
	for y := range 64 {
		for x := range 64 {
			picture.SetNRGBA(x, y, color.NRGBA{uint8(4 * x), uint8(4 * y), uint8(x * y), 255})
			white := uint8(255 * (x / 24 % 2))
			mask.SetNRGBA(x, y, color.NRGBA{white, white, white, 255})
		}
	}
	require.NoError(t, vision.Write(at("picture.png"), picture, vision.WriteOptions{}))
	require.NoError(t, vision.Write(at("mask.png"), mask, vision.WriteOptions{}))

	f := func(v float64) *float64 { return &v }
	text := func(name, kind, class string, method scheduler.Method, steps int, g float64) pair {
		return pair{Name: name, kind: kind, Pipeline: "StableDiffusionPipeline", Scheduler: class, Seeds: []uint64{5},
			Args: map[string]any{"prompt": "a red cat, sitting", "num_inference_steps": steps, "guidance_scale": g, "width": 64, "height": 64},
			ours: texttoimage.Pipeline{Method: method, Steps: steps, Guidance: g, Seed: 5, Width: 64, Height: 64}}
	}
	with := func(p pair, pipeline string, change func(p *pair)) pair {
		if pipeline != "" {
			p.Pipeline = pipeline
		}
		change(&p)
		return p
	}
	sized := func(p *pair) { delete(p.Args, "width"); delete(p.Args, "height") }
	started := func(strength float64, shorten bool) func(p *pair) {
		return func(p *pair) {
			sized(p)
			p.Args["image"], p.Args["strength"] = at("picture.png"), strength
			p.ours.Init, p.ours.Strength, p.ours.Shorten = picture, strength, shorten
		}
	}
	masked := func(strength float64) func(p *pair) {
		return func(p *pair) {
			p.Args["image"], p.Args["mask_image"], p.Args["strength"] = at("picture.png"), at("mask.png"), strength
			p.ours.Init, p.ours.Mask, p.ours.Strength = picture, mask, strength
		}
	}
	negative := func(p *pair) { p.Args["negative_prompt"] = "blurry"; p.ours.Negative = "blurry" }
	xl := "StableDiffusionXLPipeline"
	lcm, ddim, euler := scheduler.LCM{}, scheduler.DDIM{}, scheduler.Euler{}
	cases := []pair{
		text("lcm1", "sd15", "LCMScheduler", lcm, 1, 1), text("lcm4", "sd15", "LCMScheduler", lcm, 4, 1), text("lcm8", "sd15", "LCMScheduler", lcm, 8, 1.5),
		with(text("ddim", "sd15", "DDIMScheduler", ddim, 5, 7.5), "", negative),
		with(text("ddim_eta", "sd15", "DDIMScheduler", scheduler.DDIM{Eta: 0.6}, 5, 7.5), "", func(p *pair) { p.Eta = f(0.6) }),
		with(text("tcd", "sd15", "TCDScheduler", scheduler.TCD{Eta: 0.3}, 4, 1), "", func(p *pair) { p.Eta = f(0.3) }),
		text("euler", "sd15", "EulerDiscreteScheduler", euler, 5, 7.5), text("euler_a", "sd15", "EulerAncestralDiscreteScheduler", scheduler.EulerAncestral{}, 5, 7.5),
		text("heun", "sd15", "HeunDiscreteScheduler", scheduler.Heun{}, 4, 7.5), text("dpmpp", "sd15", "DPMSolverMultistepScheduler", scheduler.DPMPP2M{}, 6, 7.5),
		with(text("dpmpp_karras", "sd15", "DPMSolverMultistepScheduler", scheduler.DPMPP2M{Karras: true}, 6, 7.5), "", func(p *pair) {
			p.Config = map[string]any{"use_karras_sigmas": true}
		}),
		text("unipc", "sd15", "UniPCMultistepScheduler", scheduler.UniPC{}, 6, 7.5),
		with(text("timesteps", "sd15", "LCMScheduler", lcm, 0, 1), "", func(p *pair) {
			delete(p.Args, "num_inference_steps")
			p.Args["timesteps"], p.ours.Timesteps = []int{999, 749, 499, 249}, []int{999, 749, 499, 249}
		}),
		with(text("clip_skip", "sd15", "DDIMScheduler", ddim, 3, 7.5), "", func(p *pair) { p.Args["clip_skip"], p.ours.ClipSkip = 1, 1 }),
		with(text("rescale", "sd15", "DDIMScheduler", ddim, 3, 7.5), "", func(p *pair) { p.Args["guidance_rescale"], p.ours.Rescale = 0.7, 0.7 }),
		with(text("wide", "sd15", "LCMScheduler", lcm, 2, 1), "", func(p *pair) { p.Args["width"], p.ours.Width = 88, 88 }),
		with(text("two", "sd15", "LCMScheduler", lcm, 3, 1), "", func(p *pair) { p.Seeds, p.ours.N = []uint64{5, 6}, 2 }),
		with(text("shared", "sd15", "LCMScheduler", lcm, 3, 1), "", func(p *pair) {
			p.Seeds, p.Shared, p.ours.N, p.ours.SharedNoise = []uint64{5, 6}, true, 2, true
		}),
		with(text("bf16", "sd15", "LCMScheduler", lcm, 4, 1), "", func(p *pair) { p.DType, p.loose = "bfloat16", true }),
		with(text("distilled", "lcm15", "LCMScheduler", lcm, 4, 8.5), "LatentConsistencyModelPipeline", func(*pair) {}),
		text("distilled_plain", "lcm15", "LCMScheduler", lcm, 2, 5),
		text("v", "sd2", "DDIMScheduler", ddim, 4, 7.5), text("v_lcm", "sd2", "LCMScheduler", lcm, 4, 1),
		with(text("i2i_ddim", "sd15", "DDIMScheduler", ddim, 6, 7.5), "StableDiffusionImg2ImgPipeline", started(0.6, false)),
		with(text("i2i_lcm", "sd15", "LCMScheduler", lcm, 4, 1), "StableDiffusionImg2ImgPipeline", started(0.5, false)),
		with(text("i2i_euler", "sd15", "EulerDiscreteScheduler", euler, 5, 7.5), "StableDiffusionImg2ImgPipeline", started(0.7, false)),
		with(text("i2i_distilled", "lcm15", "LCMScheduler", lcm, 4, 8.5), "LatentConsistencyModelImg2ImgPipeline", started(0.5, true)),
		with(text("inpaint", "inpaint", "DDIMScheduler", ddim, 4, 7.5), "StableDiffusionInpaintPipeline", masked(1)),
		with(text("inpaint_weak", "inpaint", "LCMScheduler", lcm, 4, 1), "StableDiffusionInpaintPipeline", masked(0.7)),
		with(text("fill", "sd15", "LCMScheduler", lcm, 4, 1), "StableDiffusionInpaintPipeline", masked(1)),
		with(text("fill_weak", "sd15", "DDIMScheduler", ddim, 5, 7.5), "StableDiffusionInpaintPipeline", masked(0.6)),
		with(text("fill_euler", "sd15", "EulerDiscreteScheduler", euler, 4, 7.5), "StableDiffusionInpaintPipeline", masked(0.8)),
		text("xl_lcm", "sdxl", "LCMScheduler", lcm, 4, 1), text("xl_euler", "sdxl", "EulerDiscreteScheduler", euler, 4, 5),
		with(text("xl_negative", "sdxl", "EulerDiscreteScheduler", euler, 4, 5), "", negative),
		with(text("xl_skip", "sdxl", "EulerDiscreteScheduler", euler, 3, 5), "", func(p *pair) { p.Args["clip_skip"], p.ours.ClipSkip = 1, 1 }),
		text("ssd1b", "ssd1b", "LCMScheduler", lcm, 4, 1),
		with(text("xl_i2i", "sdxl", "EulerDiscreteScheduler", euler, 6, 5), "StableDiffusionXLImg2ImgPipeline", started(0.5, false)),
	}
	control := func(name string, change func(p *pair, c *texttoimage.Control)) {
		p := text(name, "sd15", "LCMScheduler", lcm, 4, 5)
		p.Pipeline, p.Controls = "StableDiffusionControlNetPipeline", []string{at("control")}
		p.Args["image"] = at("picture.png")
		c := texttoimage.Control{Image: picture}
		change(&p, &c)
		p.ours.Controls = []texttoimage.Control{c}
		cases = append(cases, p)
	}
	control("control", func(*pair, *texttoimage.Control) {})
	control("control_half", func(p *pair, c *texttoimage.Control) { p.Args["controlnet_conditioning_scale"], c.Scale = 0.5, 0.5 })
	control("control_guess", func(p *pair, c *texttoimage.Control) { p.Args["guess_mode"], c.Guess = true, true })
	control("control_part", func(p *pair, c *texttoimage.Control) {
		p.Args["control_guidance_start"], p.Args["control_guidance_end"] = 0.25, 0.75
		c.Start, c.End = 0.25, 0.75
	})
	for i := range cases {
		c := &cases[i]
		c.Model = at(c.kind)
		if (c.kind == "sdxl" || c.kind == "ssd1b") && c.Pipeline == "StableDiffusionPipeline" {
			c.Pipeline = xl
		}
	}
	data, err := json.Marshal(cases)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at("cases.json"), data, 0o644))
	runScript(t, python, ".", script, at("cases.json"))

	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			o := sd.Options{}
			if c.DType == "bfloat16" {
				o.DType = torch.BFloat16
			}
			m, err := sd.Open(c.Model, o)
			require.NoError(t, err)
			defer m.Close()
			d := c.ours
			d.Model, d.Plain = m, true
			if len(d.Controls) > 0 {
				part, err := weights.OpenComponent(at("control"), weights.Options{})
				require.NoError(t, err)
				defer part.Close()
				k, err := unet.ParseControlNetConfig(part.Config)
				require.NoError(t, err)
				net, err := unet.ControlNetFrom(k, part, torch.CPU, torch.Float32)
				require.NoError(t, err)
				defer net.Close()
				d.Controls[0].Net = net
			}
			i := 0
			for got, err := range d.Images(context.Background(), "a red cat, sitting") {
				require.NoError(t, err)
				file := at(fmt.Sprintf("%s.%d.png", c.Name, i))
				if c.loose {
					require.Greater(t, psnr(got, readPNG(t, file)), 35.0)
				} else {
					ours := at(fmt.Sprintf("%s.%d.ours.png", c.Name, i))
					require.NoError(t, vision.Write(ours, got, vision.WriteOptions{}))
					same(t, c.Name, ours, file)
				}
				i++
			}
			require.Equal(t, len(c.Seeds), i)
		})
	}
}

// psnr is the ratio of peak to noise in dB.
func psnr(a, b image.Image) float64 {
	sum, n := 0.0, 0
	for x := range a.Bounds().Dx() {
		for y := range a.Bounds().Dy() {
			p, q := color.NRGBAModel.Convert(a.At(x, y)).(color.NRGBA), color.NRGBAModel.Convert(b.At(x, y)).(color.NRGBA)
			for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B)} {
				sum += float64(d * d)
				n++
			}
		}
	}
	return 10 * math.Log10(255*255/(sum/float64(n)+1e-9))
}

// same tells whether two pictures differ by one level at most, in one of a thousand values: both sides compute in float32, in orders
// that differ, and round.
func same(t *testing.T, what, a, b string) {
	t.Helper()
	x, y := readPNG(t, a), readPNG(t, b)
	require.Equal(t, x.Bounds(), y.Bounds(), what)
	off, n := 0, 0
	for i := range x.Bounds().Dx() {
		for j := range x.Bounds().Dy() {
			p, q := color.NRGBAModel.Convert(x.At(i, j)).(color.NRGBA), color.NRGBAModel.Convert(y.At(i, j)).(color.NRGBA)
			for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B)} {
				require.LessOrEqual(t, max(d, -d), 1, "%s at %d, %d", what, i, j)
				n++
				if d != 0 {
					off++
				}
			}
		}
	}
	require.LessOrEqual(t, off, n/1000, what)
}

func readPNG(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	m, err := png.Decode(f)
	require.NoError(t, err)
	return m
}
