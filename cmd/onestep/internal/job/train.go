// Package job does what the subcommands ask for: it builds networks, data and runs from options.
package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"log/slog"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/rundir"
)

// Hooks are told how a run goes on.
type Hooks struct {
	Log      *slog.Logger
	Progress func(training.Progress)
	Started  func(o Train, run *rundir.Dir, parameters int) // once everything is resolved
	// Scalars and Picture receive what goes into event files.
	Scalars func(k int, values map[string]float64) error
	Picture func(k int, img image.Image) error
	Version string // written to options.json
}

// Trained is how a run ended.
type Trained struct {
	training.Result
	Corrupt int // images that were skipped because they cannot be decoded
}

// Plan resolves all options, for which it opens the data, and returns the network that Run would train.
func (o *Train) Plan() (unet.Config, error) {
	data, cfg, err := o.open()
	if err != nil {
		return cfg, err
	}
	return cfg, data.Close()
}

// open opens the data and resolves all options.
func (o *Train) open() (*dataset.Set, unet.Config, error) {
	if err := o.Resolve(); err != nil {
		return nil, unet.Config{}, err
	}
	data, err := dataset.Open(o.Data, dataset.Options{Resolution: o.Resolution, Channels: o.Colors, Dir: o.Dir})
	if err != nil {
		return nil, unet.Config{}, err
	}
	cfg, err := o.network(data)
	if err == nil {
		err = o.checkTeacher(cfg)
	}
	if err != nil {
		return nil, cfg, errors.Join(err, data.Close())
	}
	return data, cfg, nil
}

// network fits the network to the data.
func (o *Train) network(data *dataset.Set) (unet.Config, error) {
	c, h, w := data.Shape()
	if h != w {
		return unet.Config{}, usage("the images have %d×%d pixels: give --resolution to crop and scale them to squares", w, h)
	}
	cfg, err := o.fit(c, h)
	if err != nil {
		return cfg, err
	}
	// Decoded batches wait beside the one in use; as numbers, a batch is there at two noise levels, and once as noise.
	if err := fits(o.Batch, c, h, o.Workers+3+3*4); err != nil {
		return cfg, err
	}
	if !o.Classes {
		return cfg, sameImages("--init", cfg, unet.Config{Resolution: h, InChannels: c})
	}
	classes := len(data.Classes())
	if classes == 0 {
		return cfg, usage("--classes: %s has no labels", data.Name())
	}
	if o.starts() {
		return cfg, sameImages("--init", cfg, unet.Config{Resolution: h, InChannels: c, Classes: classes})
	}
	cfg.Classes = classes
	return cfg, nil
}

// fit returns the network for images of that many colours and pixels: the one that the run starts from, or a new one.
func (o *Train) fit(colors, side int) (unet.Config, error) {
	if !o.starts() {
		return o.shape(colors, side)
	}
	d, err := describes(o.Init)
	if err != nil {
		if o.Init == o.Teacher {
			return unet.Config{}, fmt.Errorf("--teacher: %w", err)
		}
		return unet.Config{}, fmt.Errorf("--init: %w", err)
	}
	cfg := d.Network
	cfg.Dropout = o.Dropout
	o.Resolution, o.Colors, o.Channels, o.Mult, o.Blocks, o.Attention = side, colors, cfg.Channels, cfg.Mult, cfg.Blocks, cfg.Attention
	return cfg, nil
}

// starts tells whether the run starts from another model's weights.
func (o *Train) starts() bool { return o.Init != "" && o.Init != "none" }

// Run trains. Cancelling ctx saves and returns the context's error.
func (o Train) Run(ctx context.Context, h Hooks) (out Trained, err error) {
	command := o.Command()
	o.Onestep = h.Version
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return out, usage("--device: %v", err)
	}
	if err := o.Resolve(); err != nil {
		return out, err
	}
	if err := use(dev, o.Threads); err != nil {
		return out, err
	}
	data, cfg, err := o.open()
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	if err := ctx.Err(); err != nil {
		return out, err
	}
	options, err := toMap(o)
	if err != nil {
		return out, err
	}
	run, err := rundir.Open(o.Out, options, o.Resume, changeable...)
	if err != nil {
		return out, err
	}
	defer func() {
		end := slog.New(slog.NewTextHandler(run.Log(), nil))
		if err == nil || errors.Is(err, context.Canceled) {
			end.Info("ended", "step", out.Step, "images", out.Seen, "interrupted", err != nil)
		} else {
			end.Error("ended", "step", out.Step, "error", err)
		}
		err = errors.Join(err, run.Close())
	}()

	net, err := unet.New(cfg, dev, o.Seed)
	if err != nil {
		return out, err
	}
	defer net.Close()
	if err := o.start(net, dev); err != nil {
		return out, err
	}
	average, err := net.Clone()
	if err != nil {
		return out, err
	}
	defer average.Close()
	opt, err := optim.RAdam{LR: o.LR}.New(net.Parameters())
	if err != nil {
		return out, err
	}
	defer opt.Close()
	p := &parts{net: net}
	defer p.close()
	if err := o.openTeacher(dev, p); err != nil {
		return out, err
	}
	m, err := methodNamed(o.Method)
	if err != nil {
		return out, err
	}
	objective, err := m.objective(&o, p)
	if err != nil {
		return out, err
	}
	if h.Started != nil {
		h.Started(o, run, net.Store().Count())
	}

	trained := m.function(average)
	describe := func(step int, images int64) (map[string]string, error) {
		d, err := checkpoint.Describe(trained, cfg)
		if err != nil {
			return nil, err
		}
		d.Method, d.Data, d.Step, d.Images, d.Command = o.Method, o.Data, step, images, command
		if o.Classes {
			d.ClassNames = data.Classes()
		}
		return d.Metadata()
	}
	t := training.Trainer{
		Objective: objective, Model: net, Optimizer: opt, Average: &training.Average{Into: average, Decay: o.EMA},
		Data: &dataset.Loader{Dataset: data, Batch: o.Batch, Seed: o.Seed, Workers: o.Workers, Flip: o.Flip,
			SkipCorrupt: o.Corrupt == "skip", Corrupt: once(h.Log)},
		Labels: o.Classes, Run: run, Device: dev, Seed: o.Seed, Steps: o.Steps, Duration: o.Duration, Clip: o.Clip,
		Guard: training.Guard{Skips: o.Skips, Rollbacks: o.Rollbacks},
		LR:    func(k int) float64 { return o.LR * lrFactor(k, o.Steps, o.LRDecay) }, SaveEvery: o.SaveEvery, LogEvery: o.LogEvery,
		SampleEvery: o.SampleEvery, Metadata: describe, Progress: h.Progress, Scalars: h.Scalars, Log: h.Log,
	}
	t.Sample = func(ctx context.Context, k int) error {
		img, err := examples(ctx, trained, cfg, dev, 64)
		if err != nil {
			return err
		}
		if h.Picture != nil {
			if err := h.Picture(k, img); err != nil {
				return err
			}
		}
		return sampling.WritePNG(run.File(fmt.Sprintf("samples-%07d.png", k)), img, nil, true)
	}
	out.Result, err = t.Train(ctx)
	out.Corrupt = len(data.Corrupt())
	return out, err
}

// fits refuses batches that cannot be in this machine's memory, were it only for the images, of that many bytes a value.
// What a network needs beside them is found out by running it.
func fits(batch, channels, side, bytes int) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("memory of this machine: %w", err)
	}
	have := float64(info.Totalram) * float64(info.Unit)
	if need := float64(batch) * float64(channels*side*side) * float64(bytes); need > have {
		return usage("--batch: %d images of %d×%d×%d need %.0f GB, this machine has %.0f GB", batch, channels, side, side, need/1e9, have/1e9)
	}
	return nil
}

// use makes a device ready, with that many threads an operator on the CPU; 0 leaves libtorch's choice.
func use(dev torch.Device, threads int) error {
	if err := dev.Available(); err != nil {
		return err
	}
	if threads == 0 {
		return nil
	}
	return torch.SetThreads(threads)
}

// once logs every corrupt image the first time that it is met.
func once(log *slog.Logger) func(error) {
	var met sync.Map
	return func(err error) {
		if _, again := met.LoadOrStore(err.Error(), true); !again && log != nil {
			log.Warn("skipped", "error", err)
		}
	}
}

// lrFactor is 1, and falls linearly to 0 over the last part of the run. The first steps warm up: RAdam's are not
// normalised.
func lrFactor(k, steps int, decay float64) float64 {
	f := math.Min(1, float64(k+1)/10)
	if left := float64(steps-k) / (decay * float64(steps)); decay > 0 && left < 1 {
		f *= left
	}
	return f
}

// examples draws a grid, always from the same seeds: in one step from a consistency function, in 18 of Heun's from a denoiser.
func examples(ctx context.Context, f any, cfg unet.Config, dev torch.Device, n int) (image.Image, error) {
	var img image.Image
	err := torch.Run(dev, func(s *torch.Scope) error {
		var c models.Cond
		if cfg.Classes > 0 {
			labels := make([]int64, n)
			for i := range labels {
				labels[i] = int64(i % cfg.Classes)
			}
			c.Class = torch.FromSlice(s, labels)
		}
		shape, streams := []int{cfg.InChannels, cfg.Resolution, cfg.Resolution}, sampling.NewStreams(s, sampling.Seeds(0, n)...)
		var x *torch.Tensor
		var err error
		switch f := f.(type) {
		case models.ConsistencyFunction:
			x, err = sampling.Multistep{}.Sample(ctx, s, f, shape, streams, c)
		case models.Denoiser:
			levels := append(sampling.Times(18), 0)
			x, err = sampling.ODE(ctx, s, f, sampling.Heun{}, streams.Randn(s, torch.Float32, shape...).MulScalar(s, levels[0]), levels, c)
		default:
			err = errNoFunction
		}
		if err != nil {
			return err
		}
		pictures, err := sampling.Pictures(x)
		if err != nil {
			return err
		}
		img, err = sampling.Grid(pictures, 0)
		return err
	})
	return img, err
}

func toMap(v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // a seed may need all 64 bits
	return m, dec.Decode(&m)
}
