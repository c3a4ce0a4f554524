package texttoimage

import (
	"errors"
	"fmt"
	"image"

	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Progress is where generating is: after one step of the sampler.
type Progress struct {
	Prompt   int           // which of the prompts, from 0
	Seeds    []uint64      // of the images that are being generated
	I, Steps int           // the step, from 1, of how many
	Images   []image.Image // after the last step; else nil

	clean   *torch.Tensor
	latents *torch.Tensor
	scope   *torch.Scope
	plan    *Plan
}

// Stage is a part of the work on images. [Plan.Run] yields during the steps only; the others take time, too.
type Stage string

// The stages, in their order. The first comes once for each prompt, the others for each batch of its images.
const (
	EncodingText  Stage = "text"     // the prompt is encoded
	EncodingImage Stage = "image"    // the input image is encoded, where there is one
	Sampling      Stage = "sampling" // the method's steps
	Decoding      Stage = "decoding" // latents become images
)

// began tells of a stage.
func (p *Plan) began(s Stage) {
	if p.o.Began != nil {
		p.o.Began(s)
	}
}

// Preview decodes what the latents are predicted to become, with a tiny autoencoder for instance. It works until the next step is
// asked for or the loop ends; later it is an error that wraps [torch.ErrFreed].
func (st Progress) Preview(a vae.Autoencoder) (out []image.Image, err error) {
	switch {
	case st.clean.Freed():
		return nil, fmt.Errorf("preview: the latents of step %d of %d are gone (%w): call Preview inside the loop, before the next step", st.I, st.Steps, torch.ErrFreed)
	case a == nil:
		return nil, errors.New("preview: want an autoencoder, such as a tiny one, got nil")
	case a.Channels() != st.clean.Dim(1):
		return nil, fmt.Errorf("preview: the autoencoder's latents have %d channels and the model's %d: they are incompatible", a.Channels(), st.clean.Dim(1))
	}
	err = st.scope.NoGrad(func(s *torch.Scope) error {
		out, err = vision.ToImages(a.Decode(s, st.clean.To(s, a.DType())))
		return err
	})
	return out, err
}
