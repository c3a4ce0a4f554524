package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
)

// sdSteps is the number of sampling steps per image.
const sdSteps = 4

// drawSD is our side of scripts/bench/sd.py.
func drawSD(o options) (any, error) {
	if err := torch.SetThreads(o.threads); err != nil {
		return nil, err
	}
	d, variant := torch.Float32, ""
	if o.dtype == "bf16" {
		d = torch.BFloat16
		if _, err := os.Stat(filepath.Join(o.model, "unet", "diffusion_pytorch_model.fp16.safetensors")); err == nil {
			variant = "fp16"
		}
	}
	open := func() (*sd.Model, error) {
		return sd.Open(o.model, sd.Options{Device: o.device, DType: d, Variant: variant})
	}
	got := map[string]float64{}
	var err, failed error
	got["load"], err = timed(o, func() error {
		m, err := open()
		if err != nil {
			return err
		}
		return m.Close()
	})
	if err != nil {
		return nil, err
	}
	m, err := open()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if o.graphs {
		m.UseGraphs(func(err error) { failed = err })
	}
	err = torch.Run(o.device, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			x := torch.Randn(s, g, torch.Float32, 1, 4, o.size/8, o.size/8).To(s, d)
			text := torch.Randn(s, g, torch.Float32, 1, 77, m.UNet.Config().CrossAttentionDim[0]).To(s, d)
			t := torch.FromSlice(s, []float32{499}, 1)
			for name, f := range map[string]func(s *torch.Scope){
				"text encoder": func(s *torch.Scope) { m.Embed(s, nil, sd.Text{Prompt: "a photo of a cat", Plain: true}) },
				"unet step":    func(s *torch.Scope) { m.Network().Forward(s, x, t, models.Cond{Text: text}) },
				"vae decode":   func(s *torch.Scope) { m.Decode(s, x) },
			} {
				var err error
				got[name], got[name+" cpu"], err = timedBoth(o, func() error {
					defer wait(o.device)
					return s.Run(func(s *torch.Scope) error { f(s); return nil })
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	draw := texttoimage.Pipeline{Model: m, Method: scheduler.LCM{}, Steps: sdSteps, Guidance: 1, Seed: 1, Width: o.size, Height: o.size, Plain: true, N: max(o.batch, 1), Batch: max(o.batch, 1)}
	got["image"], err = timed(o, func() error {
		for _, err := range draw.Images(context.Background(), "a photo of a cat") {
			if err != nil {
				return err
			}
		}
		return nil
	})
	got["peak_rss_mib"] = peakMiB()
	return got, errors.Join(err, failed, onDevice(o.device, got))
}

// sdJobs are the benchmarks of image generation with the model in b.sd, in both data types.
func (b bench) sdJobs() []job {
	var jobs []job
	script := filepath.Join("scripts", "bench", "lora.py")
	adapter := filepath.Join(b.tmp, "lcm-lora.safetensors")
	for _, d := range []string{"f32", "bf16"} {
		variant := ""
		if d == "bf16" {
			variant = "fp16"
		}
		size, steps := fmt.Sprint(b.size), fmt.Sprint(sdSteps)
		draw := filepath.Join("scripts", "bench", "sd.py")
		jobs = append(jobs,
			job{"sd15 " + d, b.here("work", "sd", "--model", b.sd, "--dtype", d, "--size", size, "--runs", "1"),
				b.figures(draw, b.sd, d, size, steps, "--runs", "1"), []figure{
					{"load", "s", false, 1}, {"text encoder", "s", false, 0}, {"unet step", "s", false, 0}, {"vae decode", "s", false, 0},
					{"image", "s", false, 1}, {"peak_rss_mib", "MiB", false, 0.8},
				}},
			job{"sd15 " + d + " adapter", func() (map[string]float64, error) {
				if _, err := os.Stat(adapter); err != nil { // of rank 64, like lcm-lora-sdv1-5
					if out, err := exec.Command(b.python, script, b.sd, "--write", adapter).CombinedOutput(); err != nil {
						return nil, fmt.Errorf("%w: %s", err, out)
					}
				}
				return b.here("work", "lora", "--model", b.sd, "--lora", adapter, "--dtype", d, "--size", size, "--runs", "3")()
			}, b.figures(script, b.sd, adapter, d, size, "--runs", "3"), []figure{
				{"load", "s", false, 0.5}, {"bare", "s", false, 0}, {"runtime", "s", false, 0}, {"merged", "s", false, 0},
				{"runtime : bare", "", false, 0}, {"merged : bare", "", false, 0},
			}},
			job{"sd15 " + d + " first image", func() (map[string]float64, error) {
				return clock(b.onestep, "generate", "--model", b.sd, "--dtype", d, "--variant", variant, "--prompt", "a photo of a cat", "--steps", steps,
					"--width", size, "--height", size, "--seed", "1", "--threads", "2", "--out", filepath.Join(b.tmp, fmt.Sprintf("%d.png", time.Now().UnixNano())))
			}, func() (map[string]float64, error) {
				return clock(b.python, draw, b.sd, d, size, steps, "--out", filepath.Join(b.tmp, "theirs.png"))
			}, []figure{{"seconds", "s", false, 0.5}, {"peak_rss_mib", "MiB", false, 0.8}}},
		)
	}
	return jobs
}
