// Package job does what the subcommands ask for: it builds networks, data and runs from options.
package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io"
	"log/slog"
	"math"
	"os"
	"time"

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

// Train are the options of a training run. Zero values stand for the defaults that Resolve fills in. The JSON names are
// those of --config files and of a run's options.json.
type Train struct {
	Method string `json:"method"`             // ct or ict
	Data   string `json:"data"`               // a name or a path
	Dir    string `json:"data_dir,omitempty"` // where named data sets are

	Steps    int     `json:"steps"`
	Batch    int     `json:"batch"`
	LR       float64 `json:"lr"`
	LRDecay  float64 `json:"lr_decay"` // fraction of the run, at its end, in which the rate falls to 0
	Seed     uint64  `json:"seed"`
	Device   string  `json:"device"`
	Threads  int     `json:"threads,omitempty"` // 0: all processors
	Clip     float64 `json:"clip"`
	EMA      float64 `json:"ema"`
	Distance string  `json:"distance"`
	S0       int     `json:"s0"`
	S1       int     `json:"s1"`
	Mu0      float64 `json:"mu0"`

	Resolution int     `json:"resolution"`
	Colors     int     `json:"colors"`   // channels of the images: 1 or 3
	Classes    bool    `json:"classes"`  // condition on the labels
	Channels   int     `json:"channels"` // of the network's first level
	Mult       []int   `json:"mult"`
	Blocks     int     `json:"blocks"`
	Attention  []int   `json:"attention"`
	Dropout    float64 `json:"dropout"`

	Flip        bool   `json:"flip"`
	Corrupt     string `json:"corrupt"` // error or skip
	Workers     int    `json:"workers"`
	SaveEvery   int    `json:"save_every"`
	SampleEvery int    `json:"sample_every"` // 0: never
	LogEvery    int    `json:"log_every"`

	Out      string        `json:"-"` // the run directory
	Resume   bool          `json:"-"`
	Duration time.Duration `json:"-"` // stop after this time, as complete as it is
}

// changeable are the options that may differ when a run goes on: they do not change what it computes, or on the CPU with
// one thread do not.
var changeable = []string{"device", "threads", "workers", "save_every", "sample_every", "log_every", "data_dir", "onestep", "corrupt"}

// ReadConfig reads a JSON file of options over o. Unknown keys are errors.
func (o *Train) ReadConfig(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(o); err != nil {
		return fmt.Errorf("config %s: %w", path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("config %s: more than one JSON value", path)
	}
	return nil
}

// UsageError is an option that cannot work, whatever the machine and its files.
type UsageError struct{ Msg string }

// Error returns what is wrong with the option.
func (e *UsageError) Error() string { return e.Msg }

func usage(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// Resolve checks the options that need no data and fills in defaults.
func (o *Train) Resolve() error {
	str := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	num := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	fl := func(p *float64, v float64) {
		if *p == 0 {
			*p = v
		}
	}
	str(&o.Method, "ct")
	str(&o.Device, "cpu")
	str(&o.Corrupt, "error")
	num(&o.Steps, 10_000)
	num(&o.Batch, 64)
	num(&o.S0, map[string]int{"ct": 2, "ict": 10}[o.Method])
	num(&o.Channels, 32)
	num(&o.Blocks, 2)
	num(&o.Workers, 1)
	num(&o.SaveEvery, 1000)
	num(&o.LogEvery, max(1, o.Steps/2000))
	fl(&o.LR, 1e-3)
	fl(&o.LRDecay, 0.3)
	fl(&o.Mu0, 0.9)
	fl(&o.Clip, 1)
	str(&o.Distance, "huber")
	fl(&o.EMA, math.Min(0.9999, math.Max(0.9, 1-20/float64(max(o.Steps, 1)))))
	switch o.Method {
	case "ct":
		num(&o.S1, training.FitLevels(o.Steps))
	case "ict":
		num(&o.S1, max(20, min(1280, o.Steps/125)))
	default:
		return usage("--method: want ct (consistency training) or ict (improved consistency training), got %q", o.Method)
	}
	if _, err := training.ParseDistance(o.Distance); err != nil {
		return usage("--distance: %v", err)
	}
	if _, err := torch.ParseDevice(o.Device); err != nil {
		return usage("--device: %v", err)
	}
	switch {
	case o.Data == "":
		return usage("--data is missing: emoji, fashion-mnist, cifar10 or a path")
	case o.Out == "":
		return usage("--out is missing: the folder for the run")
	case o.Steps < 1 || o.Steps > 1e9:
		return usage("--steps: want at least 1, got %d", o.Steps)
	case o.Batch < 1 || o.Batch > 1<<20:
		return usage("--batch: want at least 1 image, got %d", o.Batch)
	case !(o.LR > 0 && o.LR < 10):
		return usage("--lr: want a learning rate above 0 and below 10, got %g", o.LR)
	case !(o.LRDecay >= 0 && o.LRDecay <= 1):
		return usage("--lr-decay: want a fraction from 0 to 1, got %g", o.LRDecay)
	case o.Threads < 0 || o.Threads > 4096:
		return usage("--threads: want at least 1, got %d", o.Threads)
	case !(o.EMA >= 0 && o.EMA < 1):
		return usage("--ema: want a decay in [0, 1), got %g", o.EMA)
	case o.S0 < 2 || o.S1 < o.S0:
		return usage("--s0, --s1: want 2 or more levels that do not become fewer, got %d and %d", o.S0, o.S1)
	case !(o.Mu0 > 0 && o.Mu0 < 1):
		return usage("--mu0: want a decay in (0, 1), got %g", o.Mu0)
	case !(o.Clip > 0):
		return usage("--clip: want a positive norm, got %g", o.Clip)
	case o.Corrupt != "error" && o.Corrupt != "skip":
		return usage("--corrupt: want error or skip, got %q", o.Corrupt)
	case o.Resolution != 0 && (o.Resolution < 4 || o.Resolution > 1024):
		return usage("--resolution: want 4 to 1024 pixels, got %d", o.Resolution)
	case o.SaveEvery < 1 || o.SampleEvery < 0 || o.LogEvery < 1 || o.Workers < 1:
		return usage("--save-every, --log-every and --workers: want at least 1; --sample-every at least 0")
	case o.Duration < 0:
		return usage("--duration: want a positive time, got %v", o.Duration)
	}
	return nil
}

// network fits the network's shape to the data.
func (o *Train) network(data dataset.Dataset) (unet.Config, error) {
	c, h, w := data.Shape()
	if h != w {
		return unet.Config{}, usage("the images have %d×%d pixels: give --resolution to crop and scale them to squares", w, h)
	}
	o.Resolution, o.Colors = h, c
	if o.Mult == nil {
		o.Mult = []int{1, 2, 2}
		for len(o.Mult) > 1 && h%(1<<(len(o.Mult)-1)) != 0 {
			o.Mult = o.Mult[:len(o.Mult)-1]
		}
	}
	if o.Attention == nil {
		if side := h >> (len(o.Mult) - 1); side <= 16 {
			o.Attention = []int{side}
		}
	}
	cfg := unet.DDPMPP(h, c, o.Channels, o.Mult, o.Blocks, o.Attention...)
	cfg.Dropout = o.Dropout
	if o.Classes {
		cfg.Classes = len(data.Classes())
		if cfg.Classes == 0 {
			return cfg, usage("--classes: %s has no labels", data.Name())
		}
	}
	if err := cfg.Validate(); err != nil {
		return cfg, usage("%v", err)
	}
	return cfg, nil
}

// Hooks are told how a run goes on.
type Hooks struct {
	Log      *slog.Logger
	Progress func(training.Progress)
	Started  func(o Train, run *rundir.Dir, network unet.Config, parameters int) // once everything is resolved
	// Scalars and Picture receive what goes into event files.
	Scalars func(k int, values map[string]float64) error
	Picture func(k int, img image.Image) error
	Version string // written to options.json
}

// Run trains. Cancelling ctx saves and returns the context's error.
func (o Train) Run(ctx context.Context, h Hooks) (training.Result, error) {
	var none training.Result
	if err := o.Resolve(); err != nil {
		return none, err
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return none, err
	}
	if err := dev.Available(); err != nil {
		return none, err
	}
	if o.Threads > 0 {
		if err := torch.SetThreads(o.Threads); err != nil {
			return none, err
		}
	}
	data, err := dataset.Open(o.Data, dataset.Options{Resolution: o.Resolution, Channels: o.Colors, Dir: o.Dir})
	if err != nil {
		return none, err
	}
	cfg, err := o.network(data)
	if err != nil {
		return none, err
	}
	options, err := toMap(o)
	if err != nil {
		return none, err
	}
	options["onestep"] = h.Version
	run, err := rundir.Open(o.Out, options, o.Resume, changeable...)
	if err != nil {
		return none, err
	}
	defer run.Close()

	net, err := unet.New(cfg, dev, o.Seed)
	if err != nil {
		return none, err
	}
	defer net.Close()
	average, err := net.Clone()
	if err != nil {
		return none, err
	}
	defer average.Close()
	opt, err := optim.RAdam{LR: o.LR}.New(net.Parameters())
	if err != nil {
		return none, err
	}
	defer opt.Close()
	objective, closeTarget, err := o.objective(net)
	if err != nil {
		return none, err
	}
	defer closeTarget()
	if h.Started != nil {
		h.Started(o, run, cfg, net.Store().Count())
	}

	trained := &models.Consistency{Net: average}
	describe := func(step int, images int64) (map[string]string, error) {
		d := checkpoint.Describe(trained, cfg)
		d.Method, d.Data, d.Step, d.Images = o.Method, o.Data, step, images
		if o.Classes {
			d.ClassNames = data.Classes()
		}
		return d.Metadata()
	}
	t := training.Trainer{
		Objective: objective, Model: net, Optimizer: opt, Average: &training.Average{Into: average, Decay: o.EMA},
		Data: &dataset.Loader{Dataset: data, Batch: o.Batch, Seed: o.Seed, Workers: o.Workers, Flip: o.Flip,
			SkipCorrupt: o.Corrupt == "skip", Corrupt: func(err error) {
				if h.Log != nil {
					h.Log.Warn("skipped", "error", err)
				}
			}},
		Labels: o.Classes, Run: run, Device: dev, Seed: o.Seed, Steps: o.Steps, Duration: o.Duration, Clip: o.Clip,
		LR: func(k int) float64 { return o.LR * lrFactor(k, o.Steps, o.LRDecay) }, SaveEvery: o.SaveEvery, LogEvery: o.LogEvery,
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
	return t.Train(ctx)
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

func (o Train) objective(net *unet.UNet) (*training.CT, func(), error) {
	distance, err := training.ParseDistance(o.Distance)
	if err != nil {
		return nil, nil, err
	}
	c := &training.CT{Model: &models.Consistency{Net: net}, Distance: distance}
	if o.Method == "ict" {
		c.Schedule = training.Doubling{S0: o.S0, S1: o.S1, Steps: o.Steps}
		c.Index, c.Weight = training.LogNormal{}, training.InverseGap
		return c, func() {}, nil
	}
	target, err := net.Clone()
	if err != nil {
		return nil, nil, err
	}
	c.Target = &models.Consistency{Net: target}
	c.Schedule = training.Progressive{S0: o.S0, S1: o.S1, Mu0: o.Mu0, Steps: o.Steps}
	return c, target.Close, nil
}

// examples draws a grid of one-step samples, always from the same seeds.
func examples(ctx context.Context, f *models.Consistency, cfg unet.Config, dev torch.Device, n int) (image.Image, error) {
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
		x, err := sampling.Multistep{}.Sample(ctx, s, f, []int{cfg.InChannels, cfg.Resolution, cfg.Resolution},
			sampling.NewStreams(s, sampling.Seeds(0, n)...), c)
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
	return m, json.Unmarshal(text, &m)
}
