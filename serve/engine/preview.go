package engine

import (
	"fmt"
	"image"

	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/generate"
)

// previewPixels is the size up to which a model's own autoencoder decodes previews; a larger one takes as long as steps.
const previewPixels = 256 * 256

// previewer returns the autoencoder that decodes previews of an open model; nil: there are none, or it is a pixel-space model, whose steps
// predict images.
func (m *model) previewer(is *generate.Model) (vae.Autoencoder, error) {
	d := is.Diffusion()
	if d == nil {
		return nil, nil
	}
	if m.Preview != nil {
		a, err := m.Preview()
		if err != nil {
			return nil, fmt.Errorf("autoencoder of previews: %w", err)
		}
		is.OnClose(func() error { a.Close(); return nil })
		if got, want := a.Channels(), d.VAE.Channels(); got != want {
			return nil, fmt.Errorf("autoencoder of previews: its latents have %d channels, the model's have %d: they are incompatible", got, want)
		}
		return a, nil
	}
	w, h := d.Size()
	if _, tiny := d.VAE.(*vae.Tiny); tiny || w*h <= previewPixels {
		return d.VAE, nil
	}
	return nil, nil
}

// previews decodes the previews of a step once for all requests of a batch.
type previews struct {
	of    *model
	shown []image.Image
	step  int // that shown is of
}

// get returns the previews of images first to first+n-1; nil: there are none.
func (p *previews) get(st generate.Progress, step, first, n int) ([]image.Image, error) {
	if d := p.of.is.Diffusion(); d != nil && p.of.decoder == nil {
		return nil, nil
	}
	if p.step != step {
		shown, err := st.Preview(p.of.decoder)
		if err != nil {
			return nil, err
		}
		p.shown, p.step = shown, step
	}
	at := first - st.First
	return p.shown[at : at+n : at+n], nil
}

// due reports whether a request gets previews after a step: as many as it asked for, evenly over the steps of all its images, but the last
// step of each, after which there are the images.
func (j *job) due(st generate.Progress) bool {
	if j.r.Previews == 0 || st.I == st.Steps || j.shown >= j.r.Previews {
		return false
	}
	parts := (j.is.N + j.is.Batch - 1) / j.is.Batch
	each := min(max(j.r.Previews/parts, 1), st.Steps-1)
	return st.I*each/(st.Steps-1) > (st.I-1)*each/(st.Steps-1)
}
