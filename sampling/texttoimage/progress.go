package texttoimage

import (
	"errors"
	"fmt"
	"image"

	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Progress is the state of generation after one step of the sampler.
type Progress struct {
	Prompt   int           // index of the first image's prompt, from 0
	Prompts  []int         // of the images in the batch, which may be of several prompts
	First    int           // index of the batch's first image, of those of all prompts
	Seeds    []uint64      // of the images in the batch
	I, Steps int           // the step, from 1, and the number of steps
	Images   []image.Image // after the last step; else nil

	clean   *torch.Tensor
	latents *torch.Tensor
	scope   *torch.Scope
	plan    *Plan
}

// Stage is a stage of generation. [Plan.Run] yields only in the stage Sampling.
type Stage string

// The stages, in order. The first one runs once per prompt, unless it repeats the one before, the others once per batch.
const (
	EncodingText  Stage = "text"     // the prompt is encoded
	EncodingImage Stage = "image"    // the input image is encoded, if there is one
	Sampling      Stage = "sampling" // the sampler's steps
	Decoding      Stage = "decoding" // latents are decoded
)

// began calls Began for a stage.
func (p *Plan) began(s Stage) {
	if p.o.Began != nil {
		p.o.Began(s)
	}
}

// Preview decodes the predicted clean latents, usually with a tiny autoencoder. It works until the next step or the end of the loop; later
// it returns an error that wraps [torch.ErrFreed].
func (st Progress) Preview(a vae.Autoencoder) (out []image.Image, err error) {
	switch {
	case st.clean.Freed():
		return nil, fmt.Errorf("preview: the latents of step %d of %d are no longer available (%w): call Preview inside the loop, before the next step", st.I, st.Steps, torch.ErrFreed)
	case a == nil:
		return nil, errors.New("preview: want an autoencoder, such as a tiny one, got nil")
	case a.Channels() != st.clean.Dim(1):
		return nil, fmt.Errorf("preview: the autoencoder's latents have %d channels and the model's have %d: they are incompatible", a.Channels(), st.clean.Dim(1))
	}
	err = st.scope.NoGrad(func(s *torch.Scope) error {
		out, err = vision.ToImages(a.Decode(s, st.clean.To(s, a.DType())))
		return err
	})
	return out, err
}
