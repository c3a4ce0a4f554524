package generate

import (
	"context"
	"image"
	"iter"

	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch/vision"
)

// Plan is a resolved request. [Plan.Images] may be called several times, and by several goroutines at once, until the plan is closed.
type Plan struct {
	Sampler     string
	Steps       int
	Times       []float64 // of a pixel-space model: the noise levels that steps start from; a denoiser's sampler ends at 0
	Timesteps   []float64 // of Stable Diffusion, and of a sampler over timesteps
	Evaluations int       // network evaluations per image
	Guidance    float64   // 0, of a pixel-space model: none
	Width       int       // of the images, in pixels
	Height      int
	Given       []image.Image // of an edit: the input images as the model sees them, with grey where it repaints
	Notices     []string      // what a user should know, such as options without effect

	Diffusion *texttoimage.Plan // of Stable Diffusion: for progress, previews and latents; otherwise nil

	run      func(ctx context.Context, yield func(Progress) bool) error
	settings func() ([]vision.Text, error)
	release  []func()
}

// Image is a generated image.
type Image struct {
	Image  image.Image
	Seed   uint64
	Prompt int           // index of the prompt, from 0
	Label  int           // class; -1 if not class-conditional
	Texts  []vision.Text // the settings to reproduce it, for [vision.Write]
}

// Progress is the state of a batch of images after a step.
type Progress struct {
	First, N int     // index of the batch's first image, of all prompts', and their number
	I, Steps int     // the step, from 1, and the number of steps
	Images   []Image // after the last step; else nil

	preview func(a vae.Autoencoder) ([]image.Image, error)
}

// Preview returns the predicted images, before the next step: of a pixel-space model the step's prediction, of Stable Diffusion its latents
// decoded with a, usually a tiny autoencoder, as [texttoimage.Progress.Preview] does. After the last step they are the images.
func (st Progress) Preview(a vae.Autoencoder) ([]image.Image, error) {
	if st.Images != nil {
		out := make([]image.Image, len(st.Images))
		for i, img := range st.Images {
			out[i] = img.Image
		}
		return out, nil
	}
	return st.preview(a)
}

// Run generates like Images and yields every step.
func (p *Plan) Run(ctx context.Context) iter.Seq2[Progress, error] {
	return func(yield func(Progress, error) bool) {
		going := true
		err := p.run(ctx, func(st Progress) bool {
			going = yield(st, nil)
			return going
		})
		if err != nil && going {
			yield(Progress{}, err)
		}
	}
}

// Images generates the images. An error is yielded and ends it; it ends soon after ctx.
func (p *Plan) Images(ctx context.Context) iter.Seq2[Image, error] {
	return func(yield func(Image, error) bool) {
		for st, err := range p.Run(ctx) {
			if err != nil {
				yield(Image{}, err)
				return
			}
			for _, img := range st.Images {
				if !yield(img, nil) {
					return
				}
			}
		}
	}
}

// Texts returns the settings of all images of a pixel-space model, for the file of a grid; nil for Stable Diffusion.
func (p *Plan) Texts() ([]vision.Text, error) {
	if p.settings == nil {
		return nil, nil
	}
	return p.settings()
}

// Close releases the adapters that the plan uses.
func (p *Plan) Close() {
	for _, release := range p.release {
		release()
	}
	p.release = nil
}
