package generate

import (
	"fmt"
	"image"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/edit"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Task is what an [Edit] does. Package edit has the formulas.
type Task string

// Tasks.
const (
	Inpaint      Task = "inpaint"     // repaint the white part of a mask
	Colorize     Task = "colorize"    // generate the colours of a grey image
	Superresolve Task = "superres"    // generate the details of a small image
	Stroke       Task = "stroke"      // turn a coarse painting into an image
	Denoise      Task = "denoise"     // remove Gaussian noise of a known standard deviation
	Interpolate  Task = "interpolate" // generate images between two seeds' or two images
)

// Tasks returns all tasks.
func Tasks() []Task { return []Task{Inpaint, Colorize, Superresolve, Stroke, Denoise, Interpolate} }

// Edit generates from given images instead of from noise alone, with a pixel-space model. Input images of another size than the model's are
// cropped to its proportions and resized, those with transparency are composited on white, as training images are.
type Edit struct {
	Task  Task
	Image image.Image // the input image; of Interpolate with nil, images are generated between two seeds

	Mask   image.Image // of Inpaint: white is repainted; of the size of Image
	Factor int         // of Superresolve: 0: the model's size divided by the image's
	// Sigma is the standard deviation of the noise of the first step, on the images' scale of -1 to 1. Of Denoise it is that of the image's noise;
	// of Stroke, and of Interpolate with images, that of the noise added: 0: 5.38, scaled by the size of the images, which is 256 in the paper.
	Sigma  float64
	Image2 image.Image // of Interpolate
	Seed2  *uint64     // of Interpolate without images; nil: the request's Seed+1

	// Names of the images for the settings in image files.
	ImageName, MaskName, Image2Name string
}

// Noise levels of stroke-guided generation in Song et al. 2023, for images of 256×256 pixels. On smaller images noise of a standard deviation
// hides more: at a reduction by k, k² pixels are averaged, which divides the deviation of their noise by k.
const (
	strokeFirst  = 5.38
	strokeSecond = 2.24
	strokeSide   = 256
)

// EditSteps is the number of steps in which a consistency function inpaints, colorizes or superresolves if none is given: as many as levels in
// the authors' code.
const EditSteps = 40

// StrokeSteps is the number of steps in which a consistency function turns strokes into an image if none is given, likewise.
const StrokeSteps = 2

const frameCount = 8 // images of an interpolation

// joins reports whether a task joins what is generated to what is known, from noise alone.
func (e Edit) joins() bool { return e.Task == Inpaint || e.Task == Colorize || e.Task == Superresolve }

// editing is an edit that was resolved for a model.
type editing struct {
	Edit
	factor int
	mask   []float32 // [H, W]: 1 is generated
	seed2  uint64
}

// Validate reports what cannot work with any model: a task that does not exist, inputs that it needs, and those that it does not use.
func (e Edit) Validate() error {
	seeds := e.Task == Interpolate && e.Image == nil
	task := quote.Text(string(e.Task))
	switch {
	case !slices.Contains(Tasks(), e.Task):
		var all []string
		for _, t := range Tasks() {
			all = append(all, string(t))
		}
		return refuse("Task", "%s", suggest.OneOf(string(e.Task), all))
	case e.Image == nil && e.Task != Interpolate:
		return refuse("Image", "%s needs an input image", task)
	case e.Task == Inpaint && e.Mask == nil:
		return refuse("Mask", "inpaint needs a mask: white is repainted, black is kept")
	case e.Mask != nil && e.Task != Inpaint:
		return refuse("Mask", "%s does not use a mask, only inpaint does", task)
	case e.Factor != 0 && e.Task != Superresolve:
		return refuse("Factor", "%s does not use a factor, only superres does", task)
	case e.Factor < 0 || e.Factor == 1:
		return refuse("Factor", "want at least 2, got %d", e.Factor)
	case (e.Image2 != nil || e.Seed2 != nil) && e.Task != Interpolate:
		field := "Image2"
		if e.Image2 == nil {
			field = "Seed2"
		}
		return refuse(field, "%s does not use it, only interpolate does", task)
	case e.Task == Interpolate && (e.Image == nil) != (e.Image2 == nil):
		return refuse("Image2", "interpolate needs two input images, or none for images between two seeds")
	case e.Seed2 != nil && !seeds:
		return refuse("Seed2", "between two images, all results have the noise of one seed")
	case e.Sigma != 0 && (seeds || e.joins()):
		return refuse("Sigma", "%s does not use it, since it starts from the largest noise level: choose other noise levels instead", task)
	case !(e.Sigma >= 0) || math.IsInf(e.Sigma, 0):
		return refuse("Sigma", "want a standard deviation above 0, got %g", e.Sigma)
	}
	return nil
}

// editing resolves the edit of a request whose sampler is chosen, and sets the request's steps and times. notes are for the user.
func (m pixels) editing(r *Request) (e *editing, notes []string, err error) {
	if err := r.Edit.Validate(); err != nil {
		return nil, nil, err
	}
	e = &editing{Edit: *r.Edit}
	shape := m.description.Network.Shape()
	channels, size := shape[0], image.Pt(shape[2], shape[1])
	if e.Task == Colorize && channels != 3 {
		return nil, nil, refuse("Task", "colorize needs a model of colour images, and this one's are grey")
	}
	if err := m.editTimes(r, e, size); err != nil {
		return nil, nil, err
	}
	if e.Task == Interpolate {
		if r.N < 2 {
			return nil, nil, refuse("N", "interpolate generates at least 2 images, the two ends, got %d", r.N)
		}
		if len(r.Labels) > 1 {
			return nil, nil, refuse("Labels", "interpolate generates images of one class, got %d", len(r.Labels))
		}
		if label := r.Label(m.description.Network, 0); label >= 0 {
			r.Labels = []int{label}
		}
		switch {
		case e.Seed2 != nil:
			e.seed2 = *e.Seed2
		case e.Image == nil && r.Seed == math.MaxUint64:
			return nil, nil, refuse("Seed2", "the second seed is the first one plus 1 by default, and %d is the largest", r.Seed)
		default:
			e.seed2 = r.Seed + 1
		}
	}
	if e.Task == Superresolve {
		if size, notes, err = e.reduce(size); err != nil {
			return nil, nil, err
		}
	}
	given := e.Image // before it is fitted
	for _, in := range []struct {
		is   *image.Image
		what string
	}{{&e.Image, "input image"}, {&e.Image2, "second input image"}} {
		if *in.is == nil {
			continue
		}
		fitted, more, err := fit(*in.is, size, in.what)
		if err != nil {
			return nil, nil, err
		}
		notes = append(notes, more...)
		if coloured(fitted) {
			switch {
			case e.Task == Colorize:
				notes = append(notes, "the "+in.what+" has colours: only its luminance is used")
			case channels == 1:
				notes = append(notes, "the model's images are grey: only the luminance of the "+in.what+" is used")
			}
		}
		*in.is = fitted
	}
	if e.Task == Inpaint {
		more, err := e.readMask(given.Bounds().Size(), size)
		if err != nil {
			return nil, nil, err
		}
		notes = append(notes, more...)
	}
	return e, notes, nil
}

// editTimes sets the noise levels of an edit, as far as the defaults of sampling are not meant.
func (m pixels) editTimes(r *Request, e *editing, size image.Point) error {
	d := m.description
	few := r.Sampler == multistep
	switch {
	case e.Task == Stroke, e.Task == Denoise, e.Task == Interpolate && e.Image != nil:
	case e.joins() && r.Times == nil && d.Levels == nil && !strings.HasPrefix(r.Sampler, "flow_"):
		if r.Steps == 0 && few {
			r.Steps = EditSteps
		} else if r.Steps == 0 {
			r.Steps = denoiserSteps
		}
		r.Times = edit.Levels(d.SigmaMax, r.Steps)
		return nil
	default:
		return nil
	}
	ratio := strokeSecond / strokeFirst
	switch {
	case r.Times != nil && e.Sigma != 0 && r.Times[0] != e.Sigma:
		return refuse("Sigma", "the first of the noise levels, %g, differs from %g: want only one of them", r.Times[0], e.Sigma)
	case r.Times != nil:
		e.Sigma = r.Times[0]
		return nil
	case e.Task == Denoise && e.Sigma == 0:
		return refuse("Sigma", "denoise needs the standard deviation of the image's noise, on a scale from -1 (black) to 1 (white): that of levels from 0 to 255 divided by 127.5, such as 0.2 for 25.5")
	case e.Sigma == 0:
		e.Sigma = strokeFirst * math.Sqrt(float64(size.X)*float64(size.Y)) / strokeSide
	}
	if !(e.Sigma > d.SigmaMin && e.Sigma <= d.SigmaMax) {
		return refuse("Sigma", "want more than %g and at most %g, the noise levels of the model's training, got %g", d.SigmaMin, d.SigmaMax, e.Sigma)
	}
	if r.Steps == 0 && e.Task == Denoise {
		r.Steps = 1
	}
	if r.Steps == 0 && few {
		r.Steps = StrokeSteps
	}
	switch {
	case r.Steps == 1:
		r.Times = []float64{e.Sigma}
	case few && r.Steps == 2:
		r.Times = []float64{e.Sigma, max(e.Sigma*ratio, math.Sqrt(e.Sigma*d.SigmaMin))}
	case few:
		r.Times = sampling.Levels(e.Sigma, r.Steps)[:r.Steps]
	}
	return nil // of a denoiser's sampler: by pixels.many, from Sigma on
}

// reduce decides the factor of super-resolution, and the size at which the image is used: the small one if it has that, else the model's, of
// which the means of patches are used.
func (e *editing) reduce(model image.Point) (image.Point, []string, error) {
	var can []string
	got := e.Image.Bounds().Size()
	for k := 2; k <= min(model.X, model.Y); k++ {
		if model.X%k != 0 || model.Y%k != 0 {
			continue
		}
		small := image.Pt(model.X/k, model.Y/k)
		can = append(can, fmt.Sprint(k))
		if e.Factor == k || e.Factor == 0 && got == small {
			e.factor = k
			if got == small {
				return small, nil, nil
			}
			return model, []string{fmt.Sprintf("the input image of %d×%d pixels is reduced to %d×%d", got.X, got.Y, small.X, small.Y)}, nil
		}
	}
	if e.Factor == 0 {
		return model, nil, refuse("Factor", "the input image has %d×%d pixels, which is not a fraction of the model's %d×%d: choose a factor, to which it is reduced first, of %s",
			got.X, got.Y, model.X, model.Y, strings.Join(can, ", "))
	}
	return model, nil, refuse("Factor", "want one that divides the model's %d×%d pixels, of %s, got %d", model.X, model.Y, strings.Join(can, ", "), e.Factor)
}

// readMask sets the mask, which has to have the size of the input image before it was fitted.
func (e *editing) readMask(input, size image.Point) (notes []string, err error) {
	if got := e.Mask.Bounds().Size(); got != input {
		return nil, refuse("Mask", "want the input image's size, %d×%d pixels, got %d×%d: scale the mask to it", input.X, input.Y, got.X, got.Y)
	}
	if shades(e.Mask) {
		notes = append(notes, "the mask has shades between black and white: what is white by half or more is repainted")
	}
	fitted, _, err := fit(e.Mask, size, "mask") // as the image, of which it is said
	if err != nil {
		return nil, err
	}
	e.mask = make([]float32, size.X*size.Y)
	white := 0
	for i := range e.mask {
		if luma(fitted, i%size.X, i/size.X) >= 128 {
			e.mask[i] = 1
			white++
		}
	}
	switch white {
	case 0:
		return nil, refuse("Mask", "no pixel is white, so that nothing would be repainted: white is repainted, black is kept")
	case len(e.mask):
		notes = append(notes, "the mask is white everywhere: nothing of the input image is kept")
	}
	return notes, nil
}

// fit composites an image on white, crops it to the proportions of a size, and scales it to the size.
func fit(m image.Image, size image.Point, what string) (image.Image, []string, error) {
	var notes []string
	got := m.Bounds().Size()
	if got.X < 1 || got.Y < 1 {
		return nil, nil, fmt.Errorf("the %s is empty", what)
	}
	if o, ok := m.(interface{ Opaque() bool }); ok && !o.Opaque() {
		notes = append(notes, fmt.Sprintf("the %s is partly transparent: compositing it on white", what))
	}
	rgba := vision.OnWhite(m)
	if got == size {
		return rgba, notes, nil
	}
	middle := vision.Middle(rgba.Bounds(), size.X, size.Y)
	cropped := middle.Size()
	how := "resized"
	if cropped != got {
		how = fmt.Sprintf("cropped to its middle, %d×%d, and resized", cropped.X, cropped.Y)
		rgba = rgba.SubImage(middle).(*image.RGBA)
	}
	if cropped == size {
		how = "cropped to its middle"
	}
	notes = append(notes, fmt.Sprintf("the %s is %s from %d×%d to %d×%d pixels", what, how, got.X, got.Y, size.X, size.Y))
	if cropped == size {
		return rgba, notes, nil
	}
	return vision.Resize(rgba, size.X, size.Y, vision.Bicubic), notes, nil // training's filter
}

// coloured reports whether a pixel of an opaque image is not grey.
func coloured(m image.Image) bool {
	b := m.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			if r, g, b, _ := m.At(x, y).RGBA(); r != g || g != b {
				return true
			}
		}
	}
	return false
}

// luma returns the luminance of a pixel, from 0 to 255, at a place from the image's corner.
func luma(m image.Image, x, y int) uint8 {
	r, g, b, _ := m.At(m.Bounds().Min.X+x, m.Bounds().Min.Y+y).RGBA()
	return uint8((299*r + 587*g + 114*b + 500) / 1000 >> 8)
}

// shades reports whether a mask has pixels that are neither nearly black nor nearly white: lossy files have some of these.
func shades(m image.Image) bool {
	white := vision.OnWhite(m)
	b := white.Bounds()
	for i := range b.Dx() * b.Dy() {
		if v := luma(white, i%b.Dx(), i/b.Dx()); v > 25 && v < 230 {
			return true
		}
	}
	return false
}

// frames reports whether images are those of an interpolation, which all have the noise of one seed.
func (e *editing) frames() bool { return e != nil && e.Task == Interpolate }

// of returns the edit for images i to i+n-1 of n in all. o has their streams, of which it may draw.
func (e *editing) of(s *torch.Scope, m pixels, i, n, all int, o sampling.Options) (edit.Edit, error) {
	channels := m.description.Network.Shape()[0]
	read := func(m image.Image) (*torch.Tensor, error) { return vision.FromImages(s, channels, m) }
	if e.Image == nil {
		z1 := o.Streams.Randn(s, torch.Float32, m.description.Network.Shape()...).Narrow(s, 0, 0, 1)
		z2 := noise.NewStreams(s, e.seed2).Randn(s, torch.Float32, m.description.Network.Shape()...)
		return edit.Interpolate(s, z1, z2, edit.Fractions(all)[i:i+n]...)
	}
	y, err := read(e.Image)
	if err != nil {
		return edit.Edit{}, err
	}
	switch e.Task {
	case Inpaint:
		return edit.Inpaint(y, torch.FromSlice(s, e.mask, 1, 1, y.Dim(2), y.Dim(3))), nil
	case Colorize:
		return edit.Colorize(s, y), nil
	case Superresolve:
		if y.Dim(2) != m.description.Network.Shape()[1] {
			y = edit.Enlarge(s, y, e.factor)
		}
		return edit.Superresolve(s, y, e.factor)
	case Denoise:
		return edit.Denoise(y), nil
	case Interpolate:
		y2, err := read(e.Image2)
		if err != nil {
			return edit.Edit{}, err
		}
		z := o.Streams.Randn(s, torch.Float32, m.description.Network.Shape()...).Narrow(s, 0, 0, 1)
		return edit.Blend(s, y, y2, z, edit.Fractions(all)[i:i+n]...)
	}
	return edit.Stroke(y), nil
}

// given returns the input images as the model sees them: grey where it repaints, without colours, or without details.
func (e *editing) given(m pixels) (out []image.Image, err error) {
	if e.Image == nil {
		return nil, nil
	}
	shown := []image.Image{e.Image}
	switch {
	case e.Task == Colorize:
		b := e.Image.Bounds()
		grey := image.NewGray(image.Rect(0, 0, b.Dx(), b.Dy()))
		for i := range grey.Pix {
			grey.Pix[i] = luma(e.Image, i%b.Dx(), i/b.Dx())
		}
		return []image.Image{vision.OnWhite(grey)}, nil
	case e.Image2 != nil:
		shown = append(shown, e.Image2)
	}
	return out, torch.Run(torch.CPU, func(s *torch.Scope) error {
		y, err := vision.FromImages(s, m.description.Network.Shape()[0], shown...)
		if err == nil && (e.mask != nil || e.factor != 0) {
			var one edit.Edit
			if one, err = e.of(s, m, 0, 1, 1, sampling.Options{}); err == nil {
				y = one.Known(s)
			}
		}
		if err == nil {
			out, err = vision.ToImages(y)
		}
		return err
	})
}
