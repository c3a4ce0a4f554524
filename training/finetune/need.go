package finetune

import (
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/torch/nn"
)

// Need is an estimate of memory, in bytes.
type Need struct {
	Model       float64 // the frozen model's weights
	Trained     float64 // what is trained: weights, gradients, the optimizer's moments, averages and target
	Activations float64 // kept for gradients, for one batch
	Host        float64 // in host memory, whatever the device: images and latents that are read ahead
}

// Device is the sum on the run's device.
func (n Need) Device() float64 { return n.Model + n.Trained + n.Activations }

// The elements that are kept for gradients, as multiples of the peak of a pass without. They are rounded up from a step of LCM-LoRA with Stable
// Diffusion 1.5's network, rank 64, batch 1 (scripts/bench/lcmlora.go), by what its peak has beyond the weights and what is trained: without
// checkpointing 5 in float32 and 7 in bfloat16 on 32×32 latents and 15 in bfloat16 on 64×64, with it at most 1 on 32×32. Other networks and
// sizes are extrapolated.
const keptWith, keptCheckpointed = 16, 4

// Need estimates the memory that the run takes.
func (p *Plan) Need() (Need, error) {
	r := p.Run
	if p.made != nil {
		return p.needOfNew()
	}
	size := float64(r.dtype().Size())
	var n Need
	without := sd.Components{Text: p.frees(), VAE: p.frees()}
	e, err := sd.EstimateNeed(p.files, sd.Options{DType: r.dtype(), Without: without}, sd.Drawing{Width: p.most.X, Height: p.most.Y, Together: 2 * r.Batch})
	if err != nil {
		return n, err
	}
	n.Model = e.Weights
	copies := 4.0 // with the gradients and two moments
	if *r.EMA > 0 {
		copies++
	}
	computes := size
	if p.method.adapter() == nil {
		copies++ // the target
		computes = float64(r.precision().Size())
	}
	n.Trained = copies * 4 * float64(p.Parameters)
	kept := float64(keptWith)
	if r.Checkpointing {
		kept = keptCheckpointed
	}
	n.Activations = computes*kept*float64(r.Batch)*p.network.Activations(max(p.most.Y/8, 1), max(p.most.X/8, 1)) + e.Network
	n.Host = p.ahead()
	return n, nil
}

// ahead is the memory of the images and features that are read ahead.
func (p *Plan) ahead() float64 {
	return 5 * float64(p.Run.Batch) * (3*float64(p.most.X*p.most.Y) + 4*77*2048)
}

// frees reports whether the autoencoder and the text encoders are not needed once everything is encoded.
func (p *Plan) frees() bool {
	r := p.Run
	t, ok := p.method.(interface{ text() bool })
	return r.Cache != "none" && !r.RandomCrop && !r.ShuffleCaption && !(ok && t.text()) && (r.Draw == nil || r.ValPrompts == "")
}

// free frees the components that are not needed any more.
func (s *session) free() {
	if !s.frees() || !s.source.Complete() || s.valid.source != nil && !s.valid.source.Complete() {
		return
	}
	for _, t := range s.model.Texts {
		t.Close()
	}
	s.model.VAE.Close()
	s.model.Texts, s.model.VAE = nil, nil
}

// parameters is the number of a network's.
func parameters(c unet.Config) int64 { return int64(nn.Count(unet.Shapes(c))) }
