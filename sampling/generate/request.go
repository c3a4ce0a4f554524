package generate

import (
	"context"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
)

// Request says what to generate. The zero value is one image with the model's defaults.
type Request struct {
	N    int    // number of images, per prompt; 0: 1
	Seed uint64 // of the first image; the next ones have Seed+1, Seed+2, …
	// Seeds are those of all images, N of each prompt in turn, in place of Seed. nil: Seed, Seed+1, …
	Seeds []uint64
	Batch int // images generated together; 0: 64, for Stable Diffusion 1

	// Sampler is one of [Model.Samplers]. "": multistep for a consistency function, ctm for a consistency trajectory model, Heun's method for a denoiser or
	// Euler's if it was distilled for that, for Stable Diffusion the published one.
	Sampler  string
	Steps    int     // 0: the number of Times or Timesteps, or the sampler's default
	Guidance float64 // scale of classifier-free guidance, 1: none. 0: the model's default, for a pixel-space model none

	// For pixel-space models.

	Times  []float64 // noise levels σ at which the steps start, largest first; nil: the defaults
	Gamma  float64   // of the sampler ctm: fraction of new noise between jumps, from 0 to 1
	Labels []int     // class labels, used in turn; nil: the seed modulo the number of classes
	// Precision is the type in which the network computes, with weights in float32: see models.Cond. Stable Diffusion computes in the type
	// that it was opened in.
	Precision torch.DType
	Edit      *Edit // generates from given images; nil: from noise alone
	frame     *int  // index of one image of an interpolation, in its settings

	// Timesteps are custom timesteps, descending, for Stable Diffusion and for models of diffusers in pixel space: of the sampler multistep
	// the numbers of its noise levels, of samplers such as ddim_leading those of the network.
	Timesteps []int

	// For Stable Diffusion.

	Prompts       []string
	Negative      string        // the negative prompt
	Width, Height int           // in pixels; 0: the model's default
	LoRAs         []prompt.LoRA // adapters for all prompts, in addition to tags in prompts
	Adapters      Adapters      // finds adapters; nil: adapters are errors
	// More, unless it is nil, sets further options of Stable Diffusion, such as an input image, after those above.
	More func(p *texttoimage.Pipeline)
}

// Adapters finds adapters for one model by name; *lora.Cache implements it. They stay in use until release is called.
type Adapters interface {
	Tagged(ctx context.Context, tags []prompt.LoRA) (all sd.Adaptation, release func(), err error)
}

// RequestError reports a field of a request that is invalid or does not fit the model.
type RequestError struct {
	Field string // of Request, such as "Sampler"
	Msg   string // what is wrong with the field
}

// Error returns a message with the field's name.
func (e *RequestError) Error() string { return "request: " + e.Field + ": " + e.Msg }

func refuse(field, format string, args ...any) error {
	return &RequestError{field, fmt.Sprintf(format, args...)}
}

// Validate reports values that are invalid for every model.
func (r Request) Validate() error {
	switch {
	case r.N < 0:
		return refuse("N", "want at least 1 image, got %d", r.N)
	case r.Seed > math.MaxUint64-uint64(max(r.N, 1)-1):
		return refuse("Seed", "%s from seed %d on exceed the largest seed %d", plural.N(r.N, "image"), r.Seed, uint64(math.MaxUint64))
	case r.Seeds != nil && r.Seed != 0:
		return refuse("Seeds", "want only one of Seed and Seeds")
	case r.Seeds != nil && r.N == 0 && (len(r.Seeds) == 0 || len(r.Seeds)%max(len(r.Prompts), 1) != 0),
		r.Seeds != nil && r.N != 0 && len(r.Seeds) != r.N*max(len(r.Prompts), 1):
		return refuse("Seeds", "want one for each of %s, got %d", plural.N(max(r.N, 1)*max(len(r.Prompts), 1), "image"), len(r.Seeds))
	case r.Batch < 0 || r.Batch > 1<<20:
		return refuse("Batch", "want 1 to %d images, got %d", 1<<20, r.Batch)
	case r.Steps < 0 || r.Steps > 1000:
		return refuse("Steps", "want 1 to 1000, got %d", r.Steps)
	case !(r.Guidance >= 0 && r.Guidance <= 1e3):
		return refuse("Guidance", "want a scale from 0 to 1000, got %g", r.Guidance)
	case r.Precision != torch.Float32 && r.Precision != torch.BFloat16 && r.Precision != torch.Float16:
		return refuse("Precision", "want float32, bfloat16 or float16, got %s", r.Precision)
	case !(r.Gamma >= 0 && r.Gamma <= 1):
		return refuse("Gamma", "want 0 to 1, got %g", r.Gamma)
	}
	for _, label := range r.Labels {
		if label < 0 {
			return refuse("Labels", "want a class of at least 0, got %d", label)
		}
	}
	for _, l := range r.LoRAs {
		if err := l.Check(); err != nil {
			return refuse("LoRAs", "%v", err)
		}
	}
	if r.Times == nil {
		return nil
	}
	if r.Steps != 0 && len(r.Times) != r.Steps {
		return refuse("Times", "%s for %s: want only one of them, or as many noise levels as steps", plural.N(len(r.Times), "noise level"), plural.N(r.Steps, "step"))
	}
	return validTimes(r.Times, sampling.Multistep{})
}

// seed returns the seed of image i of the request.
func (r Request) seed(i int) uint64 {
	if r.Seeds != nil {
		return r.Seeds[i]
	}
	return r.Seed + uint64(i)
}

// Label returns the class of image i of the request for a network with configuration c, or -1 if it is not class-conditional.
func (r Request) Label(c network.Config, i int) int {
	classes := c.Classes()
	switch {
	case classes == 0:
		return -1
	case len(r.Labels) > 0:
		return r.Labels[i%len(r.Labels)]
	}
	return int(r.seed(i) % uint64(classes)) // by the seed, so that an image is the same in any batch
}

// Cond returns the conditions of images i to i+n-1 of the request, for a network with configuration c.
func (r Request) Cond(s *torch.Scope, c network.Config, i, n int) models.Cond {
	cond := models.Cond{Precision: r.Precision}
	if c.Guidance() {
		scale := r.Guidance
		if scale == 0 {
			scale = 1
		}
		cond.Guidance = torch.Full(s, scale, torch.Float32, n)
	}
	if c.Classes() == 0 {
		return cond
	}
	labels := make([]int64, n)
	for k := range labels {
		labels[k] = int64(r.Label(c, i+k))
	}
	cond.Class = torch.FromSlice(s, labels)
	return cond
}
