package vision

import (
	"image"
	"image/color"
	"math"
)

// Filter is the resampling kernel of [Resize]. When downscaling it is widened, so that every pixel contributes.
type Filter struct {
	support float64
	weight  func(x float64) float64
}

// Pillow's filters that models are used with.
var (
	Bilinear = Filter{1, func(x float64) float64 { return max(1-math.Abs(x), 0) }}
	Bicubic  = Filter{2, bicubic}
	Lanczos  = Filter{3, lanczos}
)

// bicubic is Keys's kernel (1981) with a = -1/2.
func bicubic(x float64) float64 {
	const a = -0.5
	switch x = math.Abs(x); {
	case x < 1:
		return float64(float64((a+2)*x)-(a+3))*x*x + 1
	case x < 2:
		return float64(float64(float64(float64(x-5)*x+8)*x)-4) * a
	}
	return 0
}

// lanczos is sinc(x)·sinc(x/3).
func lanczos(x float64) float64 {
	if x < -3 || x >= 3 {
		return 0
	}
	return sinc(x) * sinc(x/3)
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	x *= math.Pi
	return math.Sin(x) / x
}

// Resize returns an image scaled to width×height pixels, as Pillow's Image.resize does, bit for bit, so that a model's input image
// is the same as in Python. Alpha is dropped; see [OnWhite]. It computes in integers, first along rows, then along columns.
func Resize(m image.Image, width, height int, f Filter) *image.NRGBA {
	from := narrowed(m, width, f).turned()
	if from.w != height { // it is transposed now
		from = from.along(height, f)
	}
	from = from.turned()
	out := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		copy(out.Pix[4*i:], from.pix[3*i:3*i+3])
		out.Pix[4*i+3] = 255
	}
	return out
}

// raster is an RGB image in rows.
type raster struct {
	w, h int
	pix  []uint8
}

// narrowed returns an image with its rows resized, row by row: a whole photograph would take hundreds of megabytes.
func narrowed(m image.Image, width int, f Filter) raster {
	b := m.Bounds()
	out := raster{width, b.Dy(), make([]uint8, 3*width*b.Dy())}
	row := raster{b.Dx(), 1, make([]uint8, 3*b.Dx())}
	var taps []tap
	if b.Dx() != width {
		taps = f.taps(b.Dx(), width)
	}
	for y := range out.h {
		to := raster{width, 1, out.pix[3*width*y:][:3*width]}
		if taps == nil {
			to.colours(m, b.Min.Y+y)
			continue
		}
		row.colours(m, b.Min.Y+y)
		row.apply(taps, to)
	}
	return out
}

// colours fills a row with an image's pixels.
func (p raster) colours(m image.Image, y int) {
	b := m.Bounds()
	switch m := m.(type) {
	case *image.YCbCr: // the same values as At and a conversion
		for x := range p.w {
			i, j := m.YOffset(b.Min.X+x, y), m.COffset(b.Min.X+x, y)
			p.pix[3*x], p.pix[3*x+1], p.pix[3*x+2] = color.YCbCrToRGB(m.Y[i], m.Cb[j], m.Cr[j])
		}
	case *image.NRGBA:
		from := m.Pix[m.PixOffset(b.Min.X, y):]
		for x := range p.w {
			copy(p.pix[3*x:], from[4*x:4*x+3])
		}
	default:
		for x := range p.w {
			c := color.NRGBAModel.Convert(m.At(b.Min.X+x, y)).(color.NRGBA)
			p.pix[3*x], p.pix[3*x+1], p.pix[3*x+2] = c.R, c.G, c.B
		}
	}
}

// turned transposes the image.
func (p raster) turned() raster {
	out := raster{p.h, p.w, make([]uint8, len(p.pix))}
	for y := range p.h {
		for x := range p.w {
			copy(out.pix[3*(x*p.h+y):], p.pix[3*(y*p.w+x):3*(y*p.w+x)+3])
		}
	}
	return out
}

// fraction is the number of fractional bits of the weights: weighted sums of 8-bit pixels fit into 32 bits.
const fraction = 32 - 8 - 2

// tap computes one pixel: the index of the first source pixel and the weights from there.
type tap struct {
	first   int
	weights []int
}

// along returns the image with its rows resized to n pixels.
func (p raster) along(n int, f Filter) raster {
	out := raster{n, p.h, make([]uint8, 3*n*p.h)}
	p.apply(f.taps(p.w, n), out)
	return out
}

// apply computes the pixels of out's rows by their taps.
func (p raster) apply(taps []tap, out raster) {
	for y := range p.h {
		row := p.pix[3*y*p.w:]
		for x, t := range taps {
			for c := range 3 {
				sum := 1 << (fraction - 1)
				for i, w := range t.weights {
					sum += int(row[3*(t.first+i)+c]) * w
				}
				out.pix[3*(y*out.w+x)+c] = uint8(min(max(sum>>fraction, 0), 255))
			}
		}
	}
}

func (f Filter) taps(from, to int) []tap {
	scale := float64(from) / float64(to)
	wide := max(scale, 1)
	support := f.support * wide
	out := make([]tap, to)
	for x := range out {
		center := (float64(x) + 0.5) * scale
		first := max(int(center-support+0.5), 0)
		end := min(int(center+support+0.5), from)
		w := make([]float64, end-first)
		sum := 0.0
		for i := range w {
			w[i] = f.weight((float64(i+first) - center + 0.5) * (1 / wide))
			sum += w[i]
		}
		out[x] = tap{first, make([]int, len(w))}
		for i, v := range w {
			if sum != 0 {
				v /= sum
			}
			out[x].weights[i] = int(math.Trunc(math.Copysign(0.5, v) + float64(v*(1<<fraction))))
		}
	}
	return out
}
