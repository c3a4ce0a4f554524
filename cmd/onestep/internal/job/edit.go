package job

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/sampling/generate"
)

// Edit holds the options for editing images. Start from [DefaultEdit]. N 0 is 1, or 8 of an interpolation.
type Edit struct {
	Sample
	Task   string
	Image  string // file of the input image
	Image2 string // of interpolate: the second one
	Mask   string // of inpaint
	Factor int    // of superres; 0: by the image's size
	Sigma  float64
	Seed2  *uint64 // of interpolate without images; nil: Seed+1
	Input  bool    // put the input images, as the model sees them, before the results in the grid

	origin origin
}

// DefaultEdit returns the default options.
func DefaultEdit() Edit {
	o := Edit{Sample: DefaultSample()}
	o.N = 0
	return o
}

// Tasks returns the names of the tasks.
func Tasks() (names []string) {
	for _, t := range generate.Tasks() {
		names = append(names, string(t))
	}
	return names
}

// Edited describes the images written.
type Edited struct {
	Task   string  `json:"task"`
	Image  string  `json:"image,omitempty"`
	Image2 string  `json:"image2,omitempty"`
	Mask   string  `json:"mask,omitempty"`
	Factor int     `json:"factor,omitempty"`
	Sigma  float64 `json:"sigma,omitempty"`
	Seed2  *uint64 `json:"seed2,omitempty"`
	Sampled
}

// inputs lists the image files that are read.
func (o Edit) inputs() []Path {
	return []Path{{"--image", o.Image, wantImage, File}, {"--image2", o.Image2, wantImage, File}, {"--mask", o.Mask, wantImage, File}}
}

// check refuses options that cannot work, in the order in which a command line is read. What needs the images or the model comes later.
func (o *Edit) check() error {
	task := generate.Task(o.Task)
	// What --from has for its own task is not for another one.
	if task != generate.Inpaint && o.origin.of("mask") {
		o.Mask = ""
	}
	if task != generate.Interpolate && o.origin.of("image2") {
		o.Image2 = ""
	}
	switch {
	case o.Task == "":
		return usage("--task is missing: one of %s", strings.Join(Tasks(), ", "))
	case !slices.Contains(Tasks(), o.Task):
		return usage("--task: %s", suggest.OneOf(o.Task, Tasks()))
	case o.Model == "":
		return o.origin.missingModel(wantModel)
	case o.Out == "":
		return usage("--out is missing: FILE.png, FILE.jpg or FILE.webp for one image or a grid, DIR/ for one file per image")
	case o.Image == "" && task != generate.Interpolate:
		return usage("--image is missing: the image to edit")
	case o.Mask == "" && task == generate.Inpaint:
		return usage("--mask is missing: an image of the size of --image, white where it is repainted")
	case o.Sigma == 0 && o.Times == nil && task == generate.Denoise:
		return usage("--sigma is missing: the standard deviation of the image's noise on a scale from -1 (black) to 1 (white), such as 0.2 for 25.5 of 255 levels")
	case o.Input && o.Image == "":
		return usage("--with-input: between two seeds there is no input image: leave the option out")
	case o.Factor < 0 || o.Factor == 1:
		return usage("--factor: want at least 2, got %d", o.Factor)
	case o.N < 0:
		return usage("--n: want at least 1, got %d", o.N)
	case o.N == 0 && task == generate.Interpolate:
		o.N = interpolated
	case o.N == 1 && task == generate.Interpolate:
		return usage("--n: interpolate generates at least 2 images, the two ends, got 1")
	}
	o.N = max(o.N, 1)
	return nil
}

const interpolated = 8 // images of an interpolation

// Run edits the image and writes the results. Errors that can be found without the model are reported before it is loaded.
func (o Edit) Run(ctx context.Context, progress func(done, all int)) (Edited, error) {
	if err := o.check(); err != nil {
		return Edited{}, err
	}
	e := &generate.Edit{
		Task: generate.Task(o.Task), Factor: o.Factor, Sigma: o.Sigma, Seed2: o.Seed2, ImageName: o.Image, Image2Name: o.Image2, MaskName: o.Mask,
	}
	if err := o.origin.there(o.inputs()...); err != nil {
		return Edited{}, err
	}
	var err error
	if e.Image, err = inputImage("--image", o.Image); err != nil {
		return Edited{}, err
	}
	if e.Image2, err = inputImage("--image2", o.Image2); err != nil {
		return Edited{}, err
	}
	if e.Mask, err = inputImage("--mask", o.Mask); err != nil {
		return Edited{}, err
	}
	if err := e.Validate(); err != nil {
		return Edited{}, byFlag(err)
	}
	o.edit = &edited{Edit: e, inputs: o.inputs(), shown: o.Input}
	for _, p := range o.inputs() {
		if o.Note != nil && !utf8.ValidString(p.Path) {
			o.Note(fmt.Sprintf("%s %s: the path is not UTF-8 and cannot be repeated by --from: pass %s with it again", p.Flag, quote.Path(p.Path), p.Flag))
		}
	}
	got, err := o.Sample.Run(ctx, progress)
	return Edited{Task: o.Task, Image: o.Image, Image2: o.Image2, Mask: o.Mask, Factor: o.Factor, Sigma: o.Sigma, Seed2: o.Seed2, Sampled: got}, err
}

// edited is what an edit adds to sampling.
type edited struct {
	*generate.Edit
	inputs []Path
	shown  bool // the input images come first in a grid
}

// frames reports whether images are those of an interpolation, which have one seed and are named by their numbers.
func (e *edited) frames() bool { return e != nil && e.Task == generate.Interpolate }

// cells is the number of input images in the grid.
func (e *edited) cells() int {
	switch {
	case e == nil || !e.shown || e.Image == nil:
		return 0
	case e.Image2 != nil:
		return 2
	}
	return 1
}

// given returns the options of generating, or nil.
func (e *edited) given() *generate.Edit {
	if e == nil {
		return nil
	}
	return e.Edit
}

// spares refuses output files that would replace the images that are read, and a directory for input images.
func (e *edited) spares(files []string, folder bool) error {
	if e == nil {
		return nil
	}
	if folder && e.shown {
		return usage("--with-input: DIR/ gets one file per image and has no grid: leave the option out, or pass --out FILE.png")
	}
	for _, f := range files {
		to, err := os.Stat(f)
		if err != nil {
			continue
		}
		for _, p := range e.inputs {
			if st, err := os.Stat(p.Path); p.Path != "" && err == nil && os.SameFile(st, to) {
				return usage("--out: %s would replace %s %s, which is read: choose another name", quote.Path(f), p.Flag, quote.Path(p.Path))
			}
		}
	}
	return nil
}

// classes returns a notice for a model with classes of which none was chosen; "": none.
func (e *edited) classes(d checkpoint.Description, chosen bool) string {
	if n := d.Network.Classes(); e == nil || n < 2 || chosen {
		return ""
	}
	if e.frames() {
		return "the model has classes, and all images get that of the seed: --label chooses it"
	}
	return fmt.Sprintf("the model has %d classes, and each result gets one by its seed: --label chooses the one that the image shows", d.Network.Classes())
}
