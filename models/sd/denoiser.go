package sd

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
)

// Noise returns the noise schedule that the network was trained with and its prediction type, by the model's Scheduler. Without a Scheduler
// they are Stable Diffusion's schedule and ε.
func (m *Model) Noise() (*noise.Chain, noise.Prediction, error) {
	c := noise.Config{}.WithBetas(noise.ClassBetas("LCMScheduler")) // its defaults are Stable Diffusion's betas
	if m.Scheduler != nil {
		var err error
		if c, err = noise.ParseConfig(m.Scheduler); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", quote.Path(m.Path), err)
		}
	}
	chain, err := c.Chain()
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", quote.Path(m.Path), err)
	}
	return chain, c.Predicts, nil
}

// Denoiser returns the model's network as a denoiser of latents in σ coordinates, for the samplers of package sampling and for training. It
// shares the model's weights and becomes invalid when the model is closed. An inpainting network is an error. [models.Latent] over it is
// the consistency function of a latent consistency model.
func (m *Model) Denoiser() (*models.DDPM, error) {
	if err := m.Loaded(); err != nil {
		return nil, err
	}
	if m.UNet == nil {
		return nil, fmt.Errorf("%s: the model was opened without its unet", quote.Path(m.Path))
	}
	if m.Inpaints() {
		return nil, fmt.Errorf("%s: an inpainting network also needs a mask and the masked image as inputs: it cannot be used as a denoiser of latents alone", quote.Path(m.Path))
	}
	chain, predicts, err := m.Noise()
	if err != nil {
		return nil, err
	}
	return &models.DDPM{Net: m.UNet, Chain: chain, Predict: predicts}, nil
}
