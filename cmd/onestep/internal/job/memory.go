package job

import (
	"fmt"
	"runtime"

	"github.com/onestep-go/onestep/internal/memory"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
)

// MemoryError is work that would not fit into memory. It is an estimate: Force tries all the same.
type MemoryError struct{ Msg string }

// Error returns the message.
func (e *MemoryError) Error() string { return e.Msg }

// host is what a process with libtorch has in memory before it does anything.
const host = 300 << 20

// need is the memory that work takes, in bytes, by where it is.
type need struct{ device, host float64 }

// enough returns an error if what is needed on a device or beside it is more than there is. what is the work, less what needs less.
func (n need) enough(dev torch.Device, what, less string) error {
	inHost := n.host + host
	if !dev.IsCUDA() {
		inHost += n.device
	} else if st, err := dev.Memory(); err == nil && n.device > float64(st.Free+st.Reserved-st.Allocated) {
		return tooMuch(what, less, n.device, st.Free+st.Reserved-st.Allocated, dev.String())
	}
	if space, ok := memory.Available(); ok && inHost > float64(space.Bytes) {
		return tooMuch(what, less, inHost, space.Bytes, space.Limit)
	}
	return nil
}

func tooMuch(what, less string, need float64, have int64, limit string) error {
	return &MemoryError{fmt.Sprintf("%s needs about %s of memory and only %s are available (limit: %s): %s, or pass --force to try anyway",
		what, memory.Size(need), memory.Size(float64(have)), limit, less)}
}

// threads bounds a number of threads by the processors that the process may use; the notice says so.
func threads(n int) (bounded int, notice string) {
	if most := runtime.NumCPU(); n > most {
		return most, fmt.Sprintf("--threads %d: this process may use %d processors, and uses as many threads", n, most)
	}
	return n, ""
}

// fitsMemory estimates what generating needs, before any weights are read.
func (o Generate) fitsMemory(files *weights.Model, t sampling.TextToImage) error {
	if o.Force {
		return nil
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return usage("--device: %v", err)
	}
	d := sd.Drawing{Width: o.Width, Height: o.Height, Together: min(max(o.Batch, 1), max(o.N, 1)), Guided: o.Guidance == 0 || o.Guidance > 1}
	if o.SharedNoise {
		d.Together = max(o.N, 1)
	}
	if t.Init != nil && d.Width == 0 && d.Height == 0 {
		d.Width, d.Height = t.Init.Bounds().Dx(), t.Init.Bounds().Dy()
	}
	e, err := sd.EstimateNeed(files, o.options(dev), d)
	if err != nil {
		return nil //nolint:nilerr // opening the model says it, with all else that is wrong
	}
	n := need{device: e.Weights + max(e.Network, e.Decoder), host: e.Images}
	for _, path := range o.ControlModels {
		part, err := weights.OpenComponent(path, weights.Options{Variant: o.Variant, Mixed: o.Mixed})
		if err != nil {
			return err
		}
		c, err := unet.ParseControlNetConfig(part.Config)
		_ = part.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", quote.Path(path), err)
		}
		for _, shape := range unet.ControlNetShapes(c) {
			size := float64(dtypes[o.DType].Size())
			for _, dim := range shape.Dims {
				size *= float64(dim)
			}
			n.device += size
		}
	}
	less := "choose a smaller --width and --height"
	if e.Weights > n.device/2 {
		less = "choose --dtype bf16, or a smaller --width and --height"
	} else if d.Together > 1 && e.Network > e.Decoder {
		less += " or --batch"
	} else if o.Tile == 0 && e.Decoder > e.Network {
		less += ", or --tile 512"
	}
	return n.enough(dev, fmt.Sprintf("generating %d×%d pixels", e.Width, e.Height), less)
}

// fitsMemory estimates what sampling from a network needs, batch images together.
func (o Sample) fitsMemory(c network.Config, dev torch.Device) error {
	if o.Force {
		return nil
	}
	elements := 1.0
	for _, n := range c.Shape() {
		elements *= float64(n)
	}
	batch := float64(min(o.Batch, o.N))
	passes := batch
	if o.Guidance != 0 && o.Guidance != 1 {
		passes *= 2
	}
	n := need{device: 4 * (float64(c.Count()) + passes*c.Activations(false) + 6*batch*elements), host: 20 * batch * elements}
	if o.N > 1 {
		n.host += 6 * elements * float64(min(o.N, maxGrid))
	}
	return n.enough(dev, fmt.Sprintf("sampling %d images of %v together", int(batch), c.Shape()), "choose a smaller --batch")
}

// fitsMemory estimates what training a network needs.
func (o *Train) fitsMemory(c network.Config) error {
	if o.Force {
		return nil
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return usage("--device: %v", err)
	}
	elements := 1.0
	for _, n := range c.Shape() {
		elements *= float64(n)
	}
	// Weights, their gradients, the optimizer's two averages, and one more for each copy: averages, target and teacher.
	copies := float64(5 + len(o.Widths) + len(o.HalfLives))
	switch o.Method {
	case "ct", "cd", "ctm":
		copies++
	}
	if o.Teacher != "" {
		copies++
	}
	kept := c.Activations(true)
	switch o.Method {
	case "sct", "scd", "meanflow":
		if o.Step == 0 { // the derivative's pass holds tangents beside values
			kept += 2 * c.Activations(false)
		}
	}
	batch := float64(o.Batch)
	n := need{device: 4 * (copies*float64(c.Count()) + batch*(kept+8*elements)), host: batch * elements * float64(o.Workers+3)}
	return n.enough(dev, fmt.Sprintf("training with %d images of %v a step", o.Batch, c.Shape()), "choose a smaller --batch, --resolution or --channels")
}
