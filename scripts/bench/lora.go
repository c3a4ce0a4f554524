package main

import (
	"errors"
	"time"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// adaptSD is our side of scripts/bench/lora.py: it loads an adapter, and runs U-Net steps without it, with it at run time and with it merged,
// in turn.
func adaptSD(o options) (_ any, err error) {
	if err := torch.SetThreads(o.threads); err != nil {
		return nil, err
	}
	d, variant := torch.Float32, ""
	if o.dtype == "bf16" {
		d, variant = torch.BFloat16, "fp16"
	}
	type network struct {
		*sd.Model
		*lora.Adapter
		while nn.Adapters
		took  []float64
	}
	all := map[string]*network{"bare": {}, "runtime": {}, "merged": {}}
	defer func() {
		for _, n := range all {
			if n.Adapter != nil {
				err = errors.Join(err, lora.Merge(n.Model, nil), n.Adapter.Close())
			}
			if n.Model != nil {
				err = errors.Join(err, n.Model.Close())
			}
		}
	}()
	got := map[string]float64{}
	for name, n := range all {
		if n.Model, err = sd.Open(o.model, sd.Options{DType: d, Variant: variant}); err != nil {
			return nil, err
		}
		switch name {
		case "bare":
			got["load"], err = timed(o, func() error {
				a, err := lora.Load(n.Model, o.lora, lora.Options{})
				if err != nil {
					return err
				}
				return a.Close()
			})
		case "runtime":
			if n.Adapter, err = lora.Load(n.Model, o.lora, lora.Options{}); err == nil {
				n.while = n.Adapter.At(1)
			}
		case "merged":
			if n.Adapter, err = lora.Load(n.Model, o.lora, lora.Options{}); err == nil {
				err = lora.Merge(n.Model, n.Adapter.At(1))
			}
		}
		if err != nil {
			return nil, err
		}
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			x := torch.Randn(s, g, torch.Float32, 1, 4, o.size/8, o.size/8).To(s, d)
			text := torch.Randn(s, g, torch.Float32, 1, 77, 768).To(s, d)
			t := torch.FromSlice(s, []float32{499}, 1)
			for i := range o.runs + 1 {
				for _, name := range []string{"bare", "runtime", "merged"} {
					n, t0 := all[name], time.Now()
					err := s.Run(func(s *torch.Scope) error {
						n.UNet.Forward(s, x, t, models.Cond{Text: text, Adapters: n.while})
						return nil
					})
					if err != nil {
						return err
					}
					if i > 0 { // the first step packs weights
						n.took = append(n.took, time.Since(t0).Seconds())
					}
				}
			}
			return nil
		})
	})
	for name, n := range all {
		got[name] = median(n.took)
	}
	got["runtime : bare"], got["merged : bare"] = got["runtime"]/got["bare"], got["merged"]/got["bare"]
	return got, err
}
