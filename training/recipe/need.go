package recipe

import (
	"github.com/onestep-go/onestep/models/lpips"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// Need is an estimate of memory, in bytes.
type Need struct {
	Device float64 // on the run's device
	Host   float64 // for images, besides
}

// kernels is the memory of a network's operators relative to that of its tensors.
const kernels = 1.15

// precision is the type in which networks compute.
func (r *Run) precision() torch.DType {
	d, _ := training.DTypeNamed(r.Precision) // "": float32
	return d
}

// Need estimates the run's memory.
func (p *Plan) Need() (n Need, err error) {
	r, c := &p.Run, p.Start.Network
	elements := 1.0 // of an image
	for _, side := range c.Shape() {
		elements *= float64(side)
	}
	// Weights, their gradients, the optimizer's two moments, EMA weights, and one more for each copy: further EMA weights and the target.
	weights := float64(5+len(r.Widths)+len(r.HalfLives)+p.spec.Copies) * float64(c.Count())
	kept := c.Activations(true)
	if r.Checkpointing {
		kept = c.Checkpointed()
	}
	kept += 8 * elements
	if p.spec.Derivatives { // forward mode holds tangents beside values
		kept += 2 * c.Activations(false)
	}
	switch r.teacher() {
	case "":
	case Empirical:
		size := 5.0 // of an element of the images, as a byte and as a number
		if p.widens() {
			size = 9
		}
		n.Host = size * float64(p.Data.Len()) * elements
	default:
		d, err := r.describes(r.teacher())
		if err != nil {
			return n, failed("teacher", err)
		}
		weights += float64(d.Network.Count())
		passes := 1.0
		if r.guidance() != nil {
			passes = 2 // with the class and without it
		}
		kept = max(kept, passes*d.Network.Activations(false)+8*elements) // the student's pass comes after the teacher's
	}
	if path := valueOf[string](r, "lpips"); path != "" {
		net, err := lpips.NetOf(path)
		if err != nil {
			return n, failed("lpips", err)
		}
		l := lpips.Config{Net: net, Resize: lpips.Resize(valueOf[string](r, "lpips-resize"))}
		weights += float64(l.Count())
		side := c.Shape()[len(c.Shape())-1]
		kept += l.Activations(side, side)
	}
	batch := float64(r.Batch)
	size := float64(r.precision().Size())
	if size < 4 {
		size += 4 * 0.15 // losses, noise and what else stays in float32
		weights += float64(c.Count()) / 2
	}
	n.Device = 4*weights + size*kernels*batch*kept
	n.Host += batch * elements * float64(r.Workers+3)
	return n, nil
}
