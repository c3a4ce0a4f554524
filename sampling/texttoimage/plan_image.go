package texttoimage

import (
	"errors"
	"fmt"
	"image"
	"slices"

	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

const maxSide = 16384

func (d *decision) size() error {
	w, h := d.Width, d.Height
	if d.Init != nil && w == 0 && h == 0 {
		b, k := d.Init.Bounds(), d.Model.VAE.Factor()
		w, h = b.Dx()/k*k, b.Dy()/k*k
	}
	mw, mh := d.Model.Size()
	if w == 0 {
		w = mw
	}
	if h == 0 {
		h = mh
	}
	for _, side := range []struct {
		name string
		v    int
	}{{"width", w}, {"height", h}} {
		k := d.Model.VAE.Factor()
		if side.v < k || side.v > maxSide {
			return fmt.Errorf("%s: want %d to %d pixels, got %d", side.name, k, maxSide, side.v)
		}
		if side.v%k != 0 {
			return fmt.Errorf("%s: want a multiple of %d pixels, got %d: take %d or %d", side.name, k, side.v, side.v/k*k, side.v/k*k+k)
		}
	}
	d.plan.Width, d.plan.Height = w, h
	return nil
}

// pictures checks the input images and the numbers that go with them.
func (d *decision) pictures() error {
	want := image.Pt(d.plan.Width, d.plan.Height)
	fit := func(what string, m *image.Image) error {
		if o, ok := (*m).(interface{ Opaque() bool }); ok && !o.Opaque() {
			d.note("the %s has transparent parts: they are put on white", what)
			*m = vision.OnWhite(*m) // as in training
		}
		switch got := (*m).Bounds().Size(); {
		case got == want:
		case got.X < 1 || got.Y < 1:
			return fmt.Errorf("the %s is empty", what)
		default:
			d.note("the %s is resized from %d×%d to %d×%d pixels", what, got.X, got.Y, want.X, want.Y)
			*m = vision.Resize(*m, want.X, want.Y, vision.Lanczos) // diffusers' filter
		}
		return nil
	}
	switch {
	case d.Model.Inpaints() && (d.Init == nil || d.Mask == nil):
		return errors.New("this is an inpainting model: want an input image and a mask")
	case d.Mask != nil && d.Init == nil:
		return errors.New("a mask was given without an input image")
	case d.Init != nil && !encodes(d.Model.VAE):
		return errors.New("the tiny autoencoder is a decoder only and cannot encode the input image: want its encoder's file, too")
	case d.Strength != 0 && d.Init == nil:
		return errors.New("a strength was given without an input image")
	case !(d.VariationStrength >= 0 && d.VariationStrength <= 1):
		return fmt.Errorf("variation strength: want 0 to 1, got %g", d.VariationStrength)
	case d.N < 0 || d.Batch < 0:
		return fmt.Errorf("want a number of images and a batch size from 1 on, got %d and %d", d.N, d.Batch)
	case d.ClipSkip < 0 || d.ClipSkip >= d.Model.Texts[0].Config().Depth-1:
		return fmt.Errorf("clip skip: want 0 to %d, got %d", d.Model.Texts[0].Config().Depth-2, d.ClipSkip)
	}
	if d.VariationSeed != 0 && d.VariationStrength == 0 {
		d.note("the variation seed has no effect at variation strength 0")
	}
	d.N, d.Batch = max(d.N, 1), max(d.Batch, 1)
	if d.SharedNoise {
		d.Batch = d.N
	}
	if d.Init != nil {
		if err := fit("input image", &d.Init); err != nil {
			return err
		}
		d.plan.Strength = d.strength()
	}
	if d.Mask != nil {
		if err := fit("mask", &d.Mask); err != nil {
			return err
		}
	}
	d.Controls = slices.Clone(d.Controls)
	for i, c := range d.Controls {
		if c.Net == nil || c.Image == nil {
			return fmt.Errorf("control %d: want a network and an image", i+1)
		}
		if c.Net.Store().Closed() {
			return fmt.Errorf("control %d: its network was closed (%w): close it when nothing needs it any more", i+1, torch.ErrFreed)
		}
		if err := together(c.Net.Config().Encoder, d.Model.UNet.Config().Encoder); err != nil {
			return fmt.Errorf("control %d: its network is of another family than the model: %w", i+1, err)
		}
		if err := fit("control image", &d.Controls[i].Image); err != nil {
			return err
		}
		if c.End == 0 {
			d.Controls[i].End = 1
		}
		if c.Scale == 0 {
			d.Controls[i].Scale = 1
		}
		if !(c.Start >= 0 && c.Start < d.Controls[i].End && d.Controls[i].End <= 1) {
			return fmt.Errorf("control %d: want a part of the steps from 0 to 1, got %g to %g", i+1, c.Start, d.Controls[i].End)
		}
	}
	return nil
}

// strength is what holds with a picture to start from.
func (d *decision) strength() float64 {
	switch {
	case d.Strength != 0:
		return d.Strength
	case d.Mask != nil:
		return 1
	}
	return 0.8
}

// encodes tells whether an autoencoder has an encoder.
func encodes(a vae.Autoencoder) bool {
	half, ok := a.(interface{ Encodes() bool })
	return !ok || half.Encodes()
}
