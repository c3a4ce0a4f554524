package sd

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
)

// Noise returns the noise that the network was trained with and what it predicts, by the model's Scheduler; without one, the noise of
// Stable Diffusion and ε.
func (m *Model) Noise() (*noise.Chain, noise.Prediction, error) {
	c := noise.Config{}.WithBetas(noise.ClassBetas("LCMScheduler")) // which are Stable Diffusion's
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

// Denoiser returns the model's network as a denoiser of latents in σ coordinates, for the samplers of package sampling and for training.
// It is the model's network, not a copy: it lives as long as the model. [models.Latent] over it is the consistency function of a latent
// consistency model.
func (m *Model) Denoiser() (*models.DDPM, error) {
	if err := m.Usable(); err != nil {
		return nil, err
	}
	if m.Inpaints() {
		return nil, fmt.Errorf("%s: the network of an inpainting model also needs a mask and the image around it: it is no denoiser of latents alone", quote.Path(m.Path))
	}
	chain, predicts, err := m.Noise()
	if err != nil {
		return nil, err
	}
	return &models.DDPM{Net: m.UNet, Chain: chain, Predict: predicts}, nil
}
