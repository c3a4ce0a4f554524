package engine

import (
	"image"
	"math"

	"github.com/onestep-go/onestep/torch/vision"
)

// much is the largest side that a latent diffusion model generates, as a multiple of that of its training: beyond it repeats its subjects.
const much = 1.5

// sizes returns the size that the model generates for a request, and the one that is returned.
func (p *profile) sizes(r Request, most int, note notes) (made, given image.Point) {
	own := image.Pt(p.Width, p.Height)
	asked := image.Pt(r.Width, r.Height)
	shape := own // for the side that is left open
	if r.Init != nil && p.pixels == nil {
		shape = r.Init.Bounds().Size()
	}
	switch {
	case asked == image.Point{}:
		asked = shape
	case asked.X == 0:
		asked.X = scaled(shape.X, float64(asked.Y)/float64(shape.Y))
	case asked.Y == 0:
		asked.Y = scaled(shape.Y, float64(asked.X)/float64(shape.X))
	}
	if n := asked.X * asked.Y; n > most {
		before, by := asked, math.Sqrt(float64(most)/float64(n))
		asked = image.Pt(max(1, int(float64(asked.X)*by)), max(1, int(float64(asked.Y)*by)))
		note.add("images of %d×%d pixels exceed the limit of %d pixels: they have %d×%d", before.X, before.Y, most, asked.X, asked.Y)
	}
	if p.pixels != nil {
		given = within(own, asked)
		if given != asked {
			note.add("the model's images have another aspect ratio than %d×%d pixels: they have %d×%d", asked.X, asked.Y, given.X, given.Y)
		}
		made = own
	} else {
		by := 1.0
		if f := math.Sqrt(float64(own.X*own.Y) / float64(asked.X*asked.Y)); f < 1/much {
			by = f
		}
		made, given = image.Pt(p.latent(float64(asked.X)*by), p.latent(float64(asked.Y)*by)), asked
	}
	if made != given {
		note.add("images are generated at %d×%d pixels and resized to %d×%d", made.X, made.Y, given.X, given.Y)
	}
	return made, given
}

// latent rounds a side to one that the autoencoder can have.
func (p *profile) latent(side float64) int {
	return max(1, int(math.Round(side/float64(p.factor)))) * p.factor
}

// scaled is a side times a factor, at least 1 and not so large that areas overflow.
func scaled(side int, by float64) int {
	return int(min(max(1, math.Round(float64(side)*by)), MaxSide))
}

// within is the largest size with the proportions of own in a box.
func within(own, box image.Point) image.Point {
	if box.X*own.Y <= box.Y*own.X {
		return image.Pt(box.X, scaled(own.Y, float64(box.X)/float64(own.X)))
	}
	return image.Pt(scaled(own.X, float64(box.Y)/float64(own.Y)), box.Y)
}

// resized returns an image in the size of a resolved request.
func resized(img image.Image, as *Resolved) image.Image {
	if img.Bounds().Size() == image.Pt(as.Width, as.Height) {
		return img
	}
	return vision.Resize(img, as.Width, as.Height, vision.Lanczos)
}
