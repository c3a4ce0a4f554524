package main

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
)

// lcmLoRA is lcm_lora_train.py's step: LCM-LoRA distillation of Stable Diffusion 1.5 with random weights, rank 64, batch 1. With o.save it
// writes the network instead, for a process of its own to map.
func lcmLoRA(o options) (_ any, err error) {
	if err := torch.SetThreads(o.threads); err != nil {
		return nil, err
	}
	d := map[string]torch.DType{"f32": torch.Float32, "bf16": torch.BFloat16, "f16": torch.Float16}[o.dtype]
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
	chain, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain()
	if err != nil {
		return nil, err
	}
	own := torch.NewScope(torch.CPU)
	defer own.Close()
	student := &models.DDPM{Net: &models.Adapted{Net: net, Adapters: adapter.At(1), Learned: adapter}, Chain: chain}
	method := &clocked{Objective: &training.LCD{
		Model: &models.Latent{Model: student}, Teacher: &models.DDPM{Net: net, Chain: chain},
		Null: models.Cond{Text: torch.Randn(own, torch.NewGenerator(own, 1), torch.Float32, 1, 77, 768)},
	}}
	var took, busy []float64 // from each step's end to the next one's; the first step is not counted
	var failed error
	last, used := time.Now(), cpuSeconds()
	trainer := training.Trainer{
		Objective: method, Model: adapter, Optimizer: opt, Seed: 1, Steps: o.runs + 1, Clip: 1, Checkpointing: o.checkpointing,
		Data: training.SourceFunc(func(s *torch.Scope, start int64) training.Batch {
			g := torch.NewGenerator(s, uint64(start)+2)
			return training.Batch{X: torch.Randn(s, g, torch.Float32, 1, 4, o.size/8, o.size/8), Cond: models.Cond{Text: torch.Randn(s, g, torch.Float32, 1, 77, 768)}}
		}),
		Progress: func(p training.Progress) {
			if p.Step > 1 {
				took, busy = append(took, time.Since(last).Seconds()), append(busy, cpuSeconds()-used)
			} else {
				failed, method.took = resetPeak(), nil
			}
			last, used = time.Now(), cpuSeconds()
		},
	}
	if d == torch.Float16 {
		trainer.LossScale = &training.LossScale{}
	}
	r, err := trainer.Train(context.Background())
	if err != nil {
		return nil, err
	}
	m, err := torch.CPU.Memory()
	return map[string]float64{
		"seconds": median(took), "loss_seconds": median(method.took), "cpu_seconds": median(busy), "peak_rss_mib": peakMiB(),
		"loss": r.Loss, "overflows": float64(r.Overflows), // of loss scaling, in float16
		"peak_tensors_mib": float64(m.PeakAllocated) / (1 << 20), // without the network's weights, which are those of the mapped file
	}, errors.Join(failed, err)
}

// cpuSeconds is the processors' time that this process has used, which with one thread says more than the clock on a busy machine.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return math.NaN()
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// clocked is an objective whose losses are timed.
type clocked struct {
	training.Objective
	took []float64
}

func (c *clocked) Loss(s *torch.Scope, k int, b training.Batch, d training.Draws) *torch.Tensor {
	defer func(t0 time.Time) { c.took = append(c.took, time.Since(t0).Seconds()) }(time.Now())
	return c.Objective.Loss(s, k, b, d)
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
