package main

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
)

// lcmLoRA is lcm_lora_train.py's step: LCM-LoRA distillation of Stable Diffusion 1.5 with random weights, rank 64, batch 1.
func lcmLoRA(o options) (_ any, err error) {
	if err := torch.SetThreads(o.threads); err != nil {
		return nil, err
	}
	d := torch.Float32
	if o.dtype == "bf16" {
		d = torch.BFloat16
	}
	if o.save != "" {
		net, err := unet.New(unet.SD15(), torch.CPU, d, 0)
		if err != nil {
			return nil, err
		}
		defer net.Close()
		return map[string]string{"model": o.save}, torch.SaveSafetensors(o.save, net.Tensors(), torch.SaveOptions{Overwrite: true})
	}
	weights, err := torch.OpenWeights(o.model)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, weights.Close()) }()
	net, err := unet.From(unet.SD15(), weights, torch.CPU, d)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	adapter, err := lora.New(lora.Networks{"unet": net.Store()}, lora.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, adapter.Close()) }()
	opt, err := optim.AdamW{LR: 1e-4, WeightDecay: optim.Zero}.New(adapter.Parameters())
	if err != nil {
		return nil, err
	}
	defer opt.Close()
	var params []*torch.Tensor
	for _, p := range adapter.Parameters() {
		params = append(params, p)
	}
	student := &models.Adapted{Net: net, Adapters: adapter.At(1), Learned: adapter}
	got := map[string]float64{}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		latents := torch.Randn(s, g, torch.Float32, 1, 4, o.size/8, o.size/8)
		text, null := torch.Randn(s, g, d, 1, 77, 768), torch.Randn(s, g, d, 1, 77, 768)
		spent := map[string][]float64{}
		step := func() error {
			return s.Run(func(s *torch.Scope) error {
				t0 := time.Now()
				mark := func(name string) {
					now := time.Now()
					spent[name] = append(spent[name], now.Sub(t0).Seconds())
					t0 = now
				}
				start := rand.IntN(50)*20 + 19
				end := max(start-20, 0)
				w := 5 + 10*rand.Float64()
				x := latents.MulScalar(s, alpha(start)).Add(s, torch.Randn(s, g, torch.Float32, latents.Shape()...).MulScalar(s, sigma(start)))
				at := func(t int) *torch.Tensor { return torch.FromSlice(s, []float32{float32(t)}, 1) }
				data := func(s *torch.Scope, eps, x *torch.Tensor, t int) *torch.Tensor {
					return x.Sub(s, eps.MulScalar(s, sigma(t))).DivScalar(s, alpha(t))
				}
				consistency := func(s *torch.Scope, x *torch.Tensor, t int) *torch.Tensor {
					scaled := 10 * float64(t)
					skip, out := 0.25/(scaled*scaled+0.25), scaled/math.Sqrt(scaled*scaled+0.25)
					return x.MulScalar(s, skip).Add(s, data(s, models.Forward(s, student, x, at(t), models.Cond{Text: text, Checkpointing: o.checkpointing}), x, t).MulScalar(s, out))
				}
				pred := consistency(s, x, start)
				mark("student")
				target := s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
					cond := models.Cond{Text: text}.Twice(s, models.Cond{Text: null}, 1)
					both := models.Forward(s, net, torch.Cat(s, []*torch.Tensor{x, x}, 0), at(start), cond)
					mark("teacher")
					eNull, eText := both.Narrow(s, 0, 0, 1), both.Narrow(s, 0, 1, 1)
					e := eText.Add(s, eText.Sub(s, eNull).MulScalar(s, w))
					prev := data(s, e, x, start).MulScalar(s, alpha(end)).Add(s, e.MulScalar(s, sigma(end)))
					return consistency(s, prev, end)
				})
				mark("target")
				const c = 0.001
				loss := pred.Sub(s, target).Square(s).AddScalar(s, c*c).Sqrt(s).SubScalar(s, c).Mean(s)
				loss.Backward()
				mark("backward")
				torch.ClipGradNorm(s, params, 1)
				opt.Step(s)
				opt.ZeroGrad()
				mark("clip and AdamW")
				if v := loss.Item(); math.IsNaN(v) {
					return errors.New("the loss is NaN")
				}
				return nil
			})
		}
		if err := step(); err != nil {
			return err
		}
		m, err := torch.CPU.Memory()
		if err != nil {
			return err
		}
		got["static_mib"] = float64(m.Allocated) / (1 << 20) // without the weights, which are in a mapped file
		if err := resetPeak(); err != nil {
			return err
		}
		clear(spent)
		for range o.runs {
			if err := step(); err != nil {
				return err
			}
		}
		total := 0.0
		for name, v := range spent {
			got[name] = median(v)
			total += got[name]
		}
		m, err = torch.CPU.Memory()
		got["seconds"], got["peak_rss_mib"], got["peak_tensors_mib"] = total, peakMiB(), float64(m.PeakAllocated)/(1<<20)
		return err
	})
	return got, err
}

// alpha and sigma are the signal's and the noise's factors at a timestep of Stable Diffusion's chain.
func alpha(t int) float64 { return math.Sqrt(alphas()[t]) }
func sigma(t int) float64 { return math.Sqrt(1 - alphas()[t]) }

func alphas() []float64 {
	all := make([]float64, 1000)
	product := 1.0
	low, high := math.Sqrt(0.00085), math.Sqrt(0.012)
	for i := range all {
		root := low + (high-low)*float64(i)/999
		product *= 1 - root*root
		all[i] = product
	}
	return all
}

// lcmLoRAJobs compare a step with the same step in PyTorch, diffusers and PEFT.
func (b bench) lcmLoRAJobs() (jobs []job) {
	for _, d := range []string{"f32", "bf16"} {
		file := filepath.Join(b.tmp, "unet-"+d+".safetensors")
		ours := func(more ...string) func() (map[string]float64, error) {
			return func() (map[string]float64, error) {
				if _, err := os.Stat(file); err != nil {
					if _, err := output(b.self, "work", "lcm-lora", "--dtype", d, "--save", file); err != nil {
						return nil, err
					}
				}
				return b.here(append([]string{"work", "lcm-lora", "--model", file, "--dtype", d, "--size", "256", "--runs", b.runs}, more...)...)()
			}
		}
		variant := map[string]string{"f32": "fp32", "bf16": "bf16"}[d]
		jobs = append(jobs, job{"lcm-lora " + d, ours(), b.peerLCMLoRA(variant), []figure{{"seconds", "s", false, 0.8}, {"peak_rss_mib", "MiB", false, 0.5}}})
	}
	return jobs
}

func (b bench) peerLCMLoRA(variant string) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		var r struct {
			Step struct {
				Median float64 `json:"median_s"`
			} `json:"step"`
			Peak float64 `json:"peak_rss_mib"`
		}
		err := b.peer(&r, "lcm_lora_train.py", "--variant", variant, "--runs", b.runs)
		return map[string]float64{"seconds": r.Step.Median, "peak_rss_mib": r.Peak}, err
	}
}
