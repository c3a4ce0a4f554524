package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
)

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

// timed returns the median time of f in seconds over runs, after one warm-up run.
func timed(o options, f func() error) (float64, error) {
	took, _, err := timedBoth(o, f)
	return took, err
}

// timedBoth returns the processors' time too. What is over in milliseconds runs for o.least, two seconds: a machine may be slow for a moment.
func timedBoth(o options, f func() error) (seconds, busy float64, err error) {
	var took, used []float64
	for start := time.Now(); len(took) <= o.runs || time.Since(start) < o.least; {
		t0, c0 := time.Now(), cpuSeconds()
		if err := f(); err != nil {
			return 0, 0, err
		}
		took, used = append(took, time.Since(t0).Seconds()), append(used, cpuSeconds()-c0)
	}
	return median(took[1:]), median(used[1:]), nil
}

// peakMiB is the peak resident memory of this process; resetPeak resets it to the current value.
func peakMiB() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return math.NaN()
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / 1024
		}
	}
	return math.NaN()
}

// wait waits for a GPU: what it was told to do is over only then. A fault shows at the next operator.
func wait(dev torch.Device) { _ = dev.Synchronize() }

// onDevice adds the peak memory of tensors on a GPU to figures.
func onDevice(dev torch.Device, to map[string]float64) error {
	if !dev.IsCUDA() {
		return nil
	}
	m, err := dev.Memory()
	to["peak_gpu_mib"], to["gpu_mib"] = float64(m.PeakAllocated)/(1<<20), float64(m.Allocated)/(1<<20)
	return err
}

func resetPeak() error { return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// benchmark is the configuration of the benchmark network: DDPM++ with 64 channels ×1, 2, 2, two blocks per level and attention on the middle
// level; 7.0 million parameters. Options change its channels and the images' size.
func benchmark(o options, resolution, imageChannels int) unet.Config {
	resolution = cmp.Or(o.resolution, resolution)
	return unet.DDPMPP(resolution, imageChannels, o.channels, []int{1, 2, 2}, 2, resolution/2)
}

// network returns the configuration of the peers' edm_unet.py, which a test of models/unet compares with ours, and the batch size.
func network(o options) (unet.Config, int, error) {
	batch := o.batch
	switch o.name {
	case "cifar":
		if batch == 0 {
			batch = 32
		}
		return benchmark(o, 32, 3), batch, nil
	case "mnist":
		if batch == 0 {
			batch = 64
		}
		return benchmark(o, 28, 1), batch, nil
	case "tiny":
		return unet.DDPMPP(8, 3, 16, []int{1, 2}, 1, 4), max(batch, 2), nil
	}
	return unet.Config{}, 0, fmt.Errorf("case: want cifar, mnist or tiny, got %q", o.name)
}

type levels int

func (n levels) At(int) (int, float64) { return int(n), 0 }

// train times unet_train.py's step: improved consistency training with Adam and EMA weights.
func train(o options) (any, error) {
	return steps(o, func(net *unet.UNet, _ func() (*unet.UNet, error)) (training.Objective, error) {
		return &training.CT{Model: &models.Consistency{Net: net}, Schedule: levels(20), Index: training.LogNormal{}, Weight: training.InverseGap}, nil
	})
}

// method times train_methods.py's step of a method: 18 noise levels, target networks with decay 0.95, Heun's method, and a teacher with the same
// network.
func method(name string) func(options) (any, error) {
	return func(o options) (any, error) {
		return steps(o, func(net *unet.UNet, clone func() (*unet.UNet, error)) (training.Objective, error) {
			other, err := clone()
			if err != nil {
				return nil, err
			}
			ct := training.CT{Model: &models.Consistency{Net: net}, Target: &models.Consistency{Net: other}, Schedule: training.Fixed{Decay: 0.95}, Distance: training.L2{}}
			switch name {
			case "ct":
				return &ct, nil
			case "cd":
				teacher, err := clone()
				return &training.CD{CT: ct, Teacher: &models.EDM{Net: teacher}, Solver: sampling.Heun{}}, err
			case "ect":
				return &training.ECT{Model: &models.Consistency{Net: net, Boundary: models.AtZero}, Steps: 1, Stages: 1, Q: 16}, nil // the fourth stage
			}
			return &training.SCM{Model: &models.TrigConsistency{Net: net}, Teacher: &models.EDM{Net: other}}, nil
		})
	}
}

// steps times optimizer steps of an objective. It closes the networks that clone returned.
func steps(o options, objective func(net *unet.UNet, clone func() (*unet.UNet, error)) (training.Objective, error)) (any, error) {
	cfg, batch, err := network(o)
	if err != nil {
		return nil, err
	}
	if err := torch.SetThreads(o.threads); err != nil {
		return nil, err
	}
	net, err := unet.New(cfg, o.device, torch.Float32, 0)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	var clones []*unet.UNet
	defer func() {
		for _, c := range clones {
			c.Close()
		}
	}()
	clone := func() (*unet.UNet, error) {
		c, err := net.Clone()
		if err == nil {
			clones = append(clones, c)
		}
		return c, err
	}
	ema, err := clone()
	if err != nil {
		return nil, err
	}
	opt, err := optim.Adam{LR: 1e-4}.New(net.Parameters())
	if err != nil {
		return nil, err
	}
	defer opt.Close()
	method, err := objective(net, clone)
	if err != nil {
		return nil, err
	}
	precision, _ := training.DTypeNamed(o.precision)
	var took, used []float64 // seconds, and seconds of processor time, between the ends of consecutive steps, without the first two steps
	var failed error
	last, spent := time.Now(), cpuSeconds()
	trainer := training.Trainer{
		Objective: method, Model: net, Optimizer: opt, Averages: []training.Average{{Into: ema, Decay: 0.9999}}, Seed: 1, Steps: o.runs + 2,
		Precision: precision,
		Data: training.SourceFunc(func(s *torch.Scope, _ int64) training.Batch {
			x := torch.Rand(s, torch.NewGenerator(s, 1), torch.Float32, batch, cfg.InChannels, cfg.Resolution, cfg.Resolution)
			return training.Batch{X: x.MulScalar(s, 2).SubScalar(s, 1)}
		}),
		Progress: func(p training.Progress) {
			now, cpu := time.Now(), cpuSeconds()
			if p.Step > 2 {
				took, used = append(took, now.Sub(last).Seconds()), append(used, cpu-spent)
			}
			spent = cpu
			if p.Step == 1 {
				failed = resetPeak()
			}
			last = now
		},
	}
	if _, err := trainer.Train(context.Background()); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	out := map[string]float64{"ms_per_step": median(took) * 1e3, "cpu_ms_per_step": median(used) * 1e3, "peak_rss_mib": peakMiB(), "parameters": float64(net.Store().Count())}
	return out, onDevice(o.device, out)
}

// sample times unet_sample.py's sampling with the consistency function, in 1 and 4 steps.
func sample(o options) (any, error) {
	cfg, batch, err := network(o)
	if err != nil {
		return nil, err
	}
	if err := torch.SetThreads(o.threads); err != nil {
		return nil, err
	}
	net, err := unet.New(cfg, o.device, torch.Float32, 0)
	if err != nil {
		return nil, err
	}
	defer net.Close()
	for _, w := range net.Tensors() { // frozen and packed, as onestep sample has it
		w.SetRequiresGrad(false)
	}
	net.Store().Pack()
	f := &models.Consistency{Net: net}
	if o.save != "" {
		d, err := checkpoint.Describe(f)
		if err != nil {
			return nil, err
		}
		return map[string]string{"model": o.save}, checkpoint.Save(o.save, d, net.Tensors(), checkpoint.SaveOptions{Overwrite: true})
	}
	precision, _ := training.DTypeNamed(o.precision)
	shape := []int{cfg.InChannels, cfg.Resolution, cfg.Resolution}
	out := map[string]float64{}
	err = torch.Run(o.device, func(s *torch.Scope) error {
		return s.Inference(func(s *torch.Scope) error {
			one := func(steps int) error {
				defer wait(o.device)
				return s.Run(func(s *torch.Scope) error {
					streams := noise.NewStreams(s, noise.Seeds(0, batch)...)
					levels := sampling.Levels(80, steps)
					x := streams.Randn(s, torch.Float32, shape...).MulScalar(s, levels[0])
					_, err := sampling.Multistep{}.Sample(context.Background(), s, f, x, sampling.Options{Levels: levels, Streams: streams, Cond: models.Cond{Precision: precision}})
					return err
				})
			}
			if err := one(1); err != nil {
				return err
			}
			if err := resetPeak(); err != nil {
				return err
			}
			all := []int{1, 4}
			if o.steps > 0 {
				all = []int{o.steps}
			}
			for _, steps := range all {
				seconds, err := timed(o, func() error { return one(steps) })
				if err != nil {
					return err
				}
				out[fmt.Sprintf("consistency_%d", steps)] = float64(batch) / seconds
			}
			out["peak_rss_mib"] = peakMiB()
			return onDevice(o.device, out)
		})
	})
	return out, err
}

// ops times ops_overhead.py's small operators, in microseconds per call on one thread.
func ops(o options) (any, error) {
	if err := torch.SetThreads(1); err != nil {
		return nil, err
	}
	out := map[string]float64{}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 0)
		type op func(s *torch.Scope) *torch.Tensor
		cases := map[string]func(s *torch.Scope, grad bool) op{
			"add": func(s *torch.Scope, grad bool) op {
				x, y := leaf(s, g, grad, 1), torch.Randn(s, g, torch.Float32, 1)
				return func(s *torch.Scope) *torch.Tensor { return x.Add(s, y) }
			},
			"view": func(s *torch.Scope, grad bool) op {
				m := leaf(s, g, grad, 64, 64)
				return func(s *torch.Scope) *torch.Tensor { return m.View(s, 4096) }
			},
			"silu64": func(s *torch.Scope, grad bool) op {
				m := leaf(s, g, grad, 64, 64)
				return func(s *torch.Scope) *torch.Tensor { return m.SiLU(s) }
			},
			"matmul64": func(s *torch.Scope, grad bool) op {
				a, b := leaf(s, g, grad, 64, 64), torch.Randn(s, g, torch.Float32, 64, 64)
				return func(s *torch.Scope) *torch.Tensor { return a.MatMul(s, b) }
			},
			"conv2d": func(s *torch.Scope, grad bool) op {
				x, w, b := leaf(s, g, grad, 1, 8, 16, 16), leaf(s, g, grad, 8, 8, 3, 3), leaf(s, g, grad, 8)
				return func(s *torch.Scope) *torch.Tensor { return x.Conv2D(s, w, b, torch.Conv2DOptions{Padding: 1}) }
			},
			"chain10": func(s *torch.Scope, grad bool) op {
				x, y := leaf(s, g, grad, 1), torch.Randn(s, g, torch.Float32, 1)
				return func(s *torch.Scope) *torch.Tensor {
					z := x
					for range 10 {
						next := z.Add(s, y)
						if z != x {
							z.Free()
						}
						z = next
					}
					return z
				}
			},
		}
		for name, make := range cases {
			if err := s.Inference(func(s *torch.Scope) error {
				free := make(s, false)
				us, err := perCall(o, func() { free(s).Free() })
				out[name+"/no_grad"] = us
				return err
			}); err != nil {
				return err
			}
			tracked := make(s, true)
			us, err := perCall(o, func() { tracked(s).Free() })
			if err != nil {
				return err
			}
			out[name+"/grad"] = us
			us, err = perCall(o, func() {
				y := tracked(s)
				l := y.Sum(s)
				l.Backward()
				y.Free()
				l.Free()
			})
			if err != nil {
				return err
			}
			out[name+"/fwd_bwd"] = us
		}
		return s.Inference(func(s *torch.Scope) error {
			x := torch.Randn(s, g, torch.Float32, 1)
			us, err := perCall(o, func() { x.Item() })
			out["item/no_grad"] = us
			return err
		})
	})
	return out, err
}

func leaf(s *torch.Scope, g *torch.Generator, grad bool, shape ...int) *torch.Tensor {
	t := torch.Randn(s, g, torch.Float32, shape...)
	t.SetRequiresGrad(grad)
	return t
}

// perCall returns the median time of a call in microseconds, over runs of about 0.15 s.
func perCall(o options, f func()) (float64, error) {
	loop := func(n int) time.Duration {
		t0 := time.Now()
		for range n {
			f()
		}
		return time.Since(t0)
	}
	each := loop(200) / 200
	n := max(200, int(150*time.Millisecond/max(each, 1)))
	seconds, err := timed(o, func() error { loop(n); return nil })
	return seconds / float64(n) * 1e6, err
}
