package texttoimage

import (
	"cmp"
	"errors"
	"fmt"
	"image"
	"slices"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

const maxSide = 16384

func (p *Plan) size() error {
	w, h := p.o.Width, p.o.Height
	if p.o.Init != nil && w == 0 && h == 0 {
		b, k := p.o.Init.Bounds(), p.o.Model.VAE.Factor()
		w, h = b.Dx()/k*k, b.Dy()/k*k
	}
	mw, mh := p.o.Model.Size()
	if w == 0 {
		w = mw
	}
	if h == 0 {
		h = mh
	}
	for _, side := range []struct {
		option, name string
		v            int
	}{{"Width", "width", w}, {"Height", "height", h}} {
		k := p.o.Model.VAE.Factor()
		if side.v < k || side.v > maxSide {
			return refuse(side.option, "%s: want %d to %d pixels, got %d", side.name, k, maxSide, side.v)
		}
		if side.v%k != 0 {
			return refuse(side.option, "%s: want a multiple of %d pixels, got %d: use %d or %d", side.name, k, side.v, side.v/k*k, side.v/k*k+k)
		}
	}
	p.Width, p.Height = w, h
	return nil
}

// images checks and resizes the input images, and checks their settings.
func (p *Plan) images() error {
	want := image.Pt(p.Width, p.Height)
	fit := func(what string, m *image.Image) error {
		if o, ok := (*m).(interface{ Opaque() bool }); ok && !o.Opaque() {
			p.note("the %s is partly transparent: compositing it on white", what)
			*m = vision.OnWhite(*m) // as in training
		}
		switch got := (*m).Bounds().Size(); {
		case got == want:
		case got.X < 1 || got.Y < 1:
			return fmt.Errorf("the %s is empty", what)
		default:
			p.note("the %s is resized from %d×%d to %d×%d pixels", what, got.X, got.Y, want.X, want.Y)
			*m = vision.Resize(*m, want.X, want.Y, vision.Lanczos) // diffusers' filter
		}
		return nil
	}
	switch {
	case p.o.Model.Inpaints() && (p.o.Init == nil || p.o.Mask == nil):
		return errors.New("this is an inpainting model: want an input image and a mask")
	case p.o.Mask != nil && p.o.Init == nil:
		return refuse("Mask", "a mask was given without an input image")
	case p.o.Init != nil && !encodes(p.o.Model.VAE):
		return errors.New("the tiny autoencoder has only a decoder and cannot encode the input image: its encoder's file is needed too")
	case p.o.Strength != 0 && p.o.Init == nil:
		return refuse("Strength", "a strength was given without an input image")
	case !(p.o.VariationStrength >= 0 && p.o.VariationStrength <= 1):
		return refuse("VariationStrength", "variation strength: want 0 to 1, got %g", p.o.VariationStrength)
	case p.o.N < 0 || p.o.Batch < 0:
		return fmt.Errorf("want at least 1 image and a batch size of at least 1, got %d and %d", p.o.N, p.o.Batch)
	case p.o.ClipSkip < 0 || p.o.ClipSkip >= p.o.Model.Texts[0].Config().Depth-1:
		return refuse("ClipSkip", "clip skip: want 0 to %d, got %d", p.o.Model.Texts[0].Config().Depth-2, p.o.ClipSkip)
	}
	if p.o.VariationSeed != 0 && p.o.VariationStrength == 0 {
		p.note("the variation seed has no effect at variation strength 0")
	}
	p.o.N, p.o.Batch = max(p.o.N, 1), max(p.o.Batch, 1)
	if p.o.Seeds != nil {
		switch want := p.o.N * len(p.prompts); {
		case len(p.o.Seeds) != want:
			return refuse("Seeds", "want a seed for each of %s, got %d", plural.N(want, "image"), len(p.o.Seeds))
		case p.o.Seed != 0:
			return refuse("Seeds", "want only one of Seed and Seeds")
		case p.o.SharedNoise:
			return refuse("Seeds", "with shared noise the images of a prompt have one seed")
		}
	}
	if p.o.SharedNoise {
		p.o.Batch = p.o.N
	}
	if p.o.Init != nil {
		if err := fit("input image", &p.o.Init); err != nil {
			return err
		}
		p.Strength = p.strength()
	}
	if p.o.Mask != nil {
		if err := fit("mask", &p.o.Mask); err != nil {
			return err
		}
	}
	p.o.Controls = slices.Clone(p.o.Controls)
	for i, c := range p.o.Controls {
		if c.Net == nil || c.Image == nil {
			return fmt.Errorf("control %d: want a ControlNet and an image", i+1)
		}
		if c.Net.Store().Closed() {
			return fmt.Errorf("control %d: its ControlNet was closed (%w): close it only after the last use", i+1, torch.ErrFreed)
		}
		if err := together(c.Net.Config().Encoder, p.o.Model.UNet.Config().Encoder); err != nil {
			return fmt.Errorf("control %d: the ControlNet is for another model family: %w", i+1, err)
		}
		if err := fit("control image", &p.o.Controls[i].Image); err != nil {
			return err
		}
		if c.End == 0 {
			p.o.Controls[i].End = 1
		}
		if c.Scale == 0 {
			p.o.Controls[i].Scale = 1
		}
		if !(c.Start >= 0 && c.Start < p.o.Controls[i].End && p.o.Controls[i].End <= 1) {
			return fmt.Errorf("control %d: want a range of steps within 0 to 1, got %g to %g", i+1, c.Start, p.o.Controls[i].End)
		}
	}
	return nil
}

// strength returns the strength of img2img.
func (p *Plan) strength() float64 {
	return cmp.Or(p.o.Strength, DefaultStrength(p.o.Mask != nil))
}

// DefaultStrength is the strength of img2img if none is given.
func DefaultStrength(mask bool) float64 {
	if mask {
		return 1
	}
	return 0.8
}

// encodes reports whether an autoencoder has an encoder.
func encodes(a vae.Autoencoder) bool {
	half, ok := a.(interface{ Encodes() bool })
	return !ok || half.Encodes()
}
