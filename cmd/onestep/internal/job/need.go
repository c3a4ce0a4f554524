package job

import (
	"fmt"
	"os"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/recipe"
)

// fitsMemory checks the memory for generating images before any weights are read.
func (o Generate) fitsMemory(all *opened, t texttoimage.Pipeline) error {
	if o.Force {
		return nil
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return usage("--device: %v", err)
	}
	n, what, less, err := o.need(all, t, dev)
	if err != nil {
		return nil //nolint:nilerr // opening the model reports it
	}
	return n.enough(dev, what, less)
}

// need estimates the memory for generating images. what names the work and less the options that need less, for an error.
func (o Generate) need(all *opened, t texttoimage.Pipeline, dev torch.Device) (n need, what, less string, err error) {
	d := sd.Drawing{Width: o.Width, Height: o.Height, Together: min(max(o.Batch, 1), max(o.N, 1)), Guided: o.Guidance == nil || *o.Guidance > 1}
	if o.SharedNoise {
		d.Together = max(o.N, 1)
	}
	if t.Init != nil && d.Width == 0 && d.Height == 0 {
		d.Width, d.Height = t.Init.Bounds().Dx(), t.Init.Bounds().Dy()
	}
	for _, k := range all.controls {
		c, err := unet.ParseControlNetConfig(k.files.Config)
		if err != nil {
			return n, "", "", fmt.Errorf("%s: %w", quote.Path(k.path), err)
		}
		d.Controls = append(d.Controls, c)
	}
	e, err := sd.EstimateNeed(all.files, o.options(dev), d)
	if err != nil {
		return n, "", "", err
	}
	n = need{device: e.Weights + max(e.Network, e.Decoder), host: e.Images}
	if all, err := o.parsedAdapters(); err == nil {
		for _, a := range all {
			if st, err := os.Stat(a.file); err == nil {
				n.device += 2 * float64(st.Size()) // most are stored in half the precision in which they are applied
			}
		}
	}
	less = "choose a smaller --width and --height"
	switch {
	case d.Together > 1 && e.Network > e.Decoder && e.Network > e.Weights:
		if less = "choose a smaller --batch"; o.SharedNoise {
			less = "choose a smaller --n, as images with --shared-noise are generated together"
		}
	case e.Weights > n.device/2 && o.DType == "f32":
		less = "choose --dtype bf16, or a smaller --width and --height"
	case e.Weights > n.device/2:
		less = "choose a smaller model, or a machine with more memory"
	case o.Tile == 0 && e.Decoder > e.Network:
		less += ", or --tile 512"
	}
	return n, fmt.Sprintf("generating %d×%d pixels", e.Width, e.Height), less, nil
}

// fitsMemory checks the memory for sampling from a network.
func (o Sample) fitsMemory(c network.Config, dev torch.Device) error {
	if o.Force {
		return nil
	}
	return o.need(c).enough(dev, drawing(min(o.Batch, o.N), c), "choose a smaller --batch")
}

func (o Sample) need(c network.Config) need {
	n := needOfSampling(c, min(o.Batch, o.N), o.Guidance != 0 && o.Guidance != 1)
	if o.N > 1 {
		n.host += 6 * elements(c) * float64(min(o.N, maxGrid)) // the images of a grid, and the grid
	}
	return n
}

// fitsMemory checks the memory for sampling trajectories.
func (o Inspect) fitsMemory(c network.Config, dev torch.Device) error {
	if o.Force {
		return nil
	}
	return needOfSampling(c, o.N, o.Guidance != 0 && o.Guidance != 1).enough(dev, drawing(o.N, c), "choose a smaller --n")
}

func drawing(n int, c network.Config) string {
	return fmt.Sprintf("sampling %s of %s together", plural.N(n, "image"), number.Shape(c.Shape()))
}

// kernels is the ratio of the memory of a network's operators to that of its tensors.
const kernels = 1.15

// needOfSampling estimates the memory for sampling n images together.
func needOfSampling(c network.Config, together int, guided bool) need {
	batch, each := float64(together), elements(c)
	passes := batch
	if guided {
		passes *= 2
	}
	return need{device: 4 * (float64(c.Count()) + kernels*passes*c.Activations(false) + 6*batch*each), host: 20 * batch * each}
}

// elements is the number of elements of an image.
func elements(c network.Config) float64 {
	n := 1.0
	for _, side := range c.Shape() {
		n *= float64(side)
	}
	return n
}

// fitsMemory checks the memory for training.
func (o Train) fitsMemory(p *recipe.Plan) error {
	n, err := p.Need()
	if o.Force || err != nil {
		return nil //nolint:nilerr // opening the data or the model reports it
	}
	less := "choose a smaller --batch, --resolution or --channels"
	if p.Run.Values()["lpips"] != nil {
		less += ", or another --distance"
	}
	return (need{n.Device, n.Host}).enough(p.Run.Device, fmt.Sprintf("training with %s of %s a step", plural.N(p.Run.Batch, "image"), number.Shape(p.Start.Network.Shape())), less)
}
