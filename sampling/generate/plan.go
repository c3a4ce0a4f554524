package generate

import (
	"context"
	"image"
	"iter"

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

	images   func(ctx context.Context, yield func(Image, error) bool)
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

// Images generates the images. An error is yielded and ends it; it ends soon after ctx.
func (p *Plan) Images(ctx context.Context) iter.Seq2[Image, error] {
	return func(yield func(Image, error) bool) { p.images(ctx, yield) }
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
