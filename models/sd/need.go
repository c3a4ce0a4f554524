package sd

import (
	"fmt"

	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch/nn"
)

// Drawing describes a generation for [EstimateNeed].
type Drawing struct {
	Width, Height int  // in pixels; 0: the size that the model was trained for
	Together      int  // batch size; 0: 1
	Guided        bool // classifier-free guidance: each step evaluates the network twice

	Controls []unet.ControlNetConfig // active ControlNets
}

// Need is an estimate of memory, in bytes.
type Need struct {
	Width, Height int     // of the images
	Weights       float64 // of all components, in the data type of the computation
	Network       float64 // the U-Net's activations
	Decoder       float64 // the autoencoder's, for one image
	Images        float64 // input and output images as numbers, in host memory
}

// Peak returns the peak memory, in bytes.
func (n Need) Peak() float64 { return n.Weights + max(n.Network, n.Decoder) + n.Images }

// EstimateNeed estimates the memory that generating images takes with the model of these files, opened with [Options.Files]. It reads
// configurations, not weights. Components that [Options.Without] leaves out take none. For a tiny autoencoder it assumes TAESD's architecture.
func EstimateNeed(files *weights.Model, o Options, d Drawing) (n Need, err error) {
	if files.UNet == nil {
		return n, fmt.Errorf("it is a %s without a unet", files.Kind)
	}
	c, err := unet.ParseConfig(files.UNet.Config)
	if err != nil {
		return n, fmt.Errorf("unet: %w", err)
	}
	size := float64(o.DType.Size())
	add := func(plan []nn.Shape, bytes float64) { n.Weights += bytes * float64(nn.Count(plan)) }
	if !o.Without.UNet {
		add(unet.Shapes(c), size)
	}
	for i, part := range []*weights.Component{files.Text, files.Text2} {
		if part == nil || o.Without.Text {
			continue
		}
		plan, err := textShapes(i == 1)(part.Config)
		if err != nil {
			return n, fmt.Errorf("text_encoder: %w", err)
		}
		add(plan, size)
	}
	factor, decoder, kind := 8, func(h, w int) float64 { return vae.TAESD().Activations(h, w, o.Tile) }, size
	if o.TinyVAE == "" {
		if files.VAE == nil {
			return n, fmt.Errorf("the model has no vae")
		}
		v, err := vae.ParseSpec(files.VAE.Config)
		if err != nil {
			return n, fmt.Errorf("vae: %w", err)
		}
		kind = float64(v.DType(o.DType).Size())
		if !o.Without.VAE {
			add(v.Shapes(files.VAE), kind)
		}
		factor, decoder = v.Factor(), func(h, w int) float64 { return v.Activations(h, w, o.Tile) }
	}
	side := func(v, i int) int {
		switch s := c.SampleSize; {
		case v != 0:
			return v
		case len(s) == 0:
			return 512
		default:
			return s[min(i, len(s)-1)] * factor
		}
	}
	n.Width, n.Height = side(d.Width, 1), side(d.Height, 0)
	passes := float64(max(d.Together, 1))
	pixels := passes * float64(n.Width) * float64(n.Height)
	if d.Guided {
		passes *= 2
	}
	n.Network = size * passes * c.Activations(max(n.Height/factor, 1), max(n.Width/factor, 1))
	for _, k := range d.Controls {
		add(unet.ControlNetShapes(k), size)
		n.Network += size * passes * k.Activations(max(n.Height/factor, 1), max(n.Width/factor, 1))
	}
	n.Decoder = kind * decoder(n.Height, n.Width)
	n.Images = 40 * pixels
	return n, nil
}
