package job

import (
	"context"
	"errors"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training"
)

// Sample holds the options for sampling images. Start from [DefaultSample].
type Sample struct {
	Model     string    // a file, a run directory, a directory of diffusers, or builtin
	Sampler   string    // "": multistep for a consistency function, ctm for a consistency trajectory model, heun for a denoiser
	Steps     int       // 0: as many as Times, or 1, or for a denoiser 18
	Times     []float64 // noise levels, largest first; nil: the usual ones for the model and Steps
	Timesteps []int     // of a model of diffusers, descending: instead of Times
	Gamma     float64   // ctm: fraction of the noise that is resampled between jumps (γ)
	Guidance  float64   // classifier-free guidance scale; 0 and 1: no guidance
	Class     string    // classes by name or number, separated by commas; "": those of Label
	Label     int       // Unset: those of Labels, or every class in turn, for a conditional model
	Labels    []int     // several classes, used in turn from the first image on
	N         int
	Seed      uint64 // of the first image; the others count up
	Columns   int    // 0: a nearly square grid
	Batch     int
	Device    string
	DType     string // of computation; "": f32
	Threads   int    // 0: all processors
	Out       string // FILE.png, .jpg or .webp: a grid, or the image itself when N is 1; DIR/: one file per image
	Overwrite bool
	Force     bool // run even if the estimated memory exceeds what is available

	Note func(string) // receives notices; may be nil

	edit *edited // what [Edit] adds; nil: nothing
}

// DefaultSample returns the default options.
func DefaultSample() Sample {
	return Sample{Label: Unset, N: 1, Batch: 64, Device: "cpu", DType: "f32"}
}

// Limits that only mistakes exceed.
const (
	maxImages = 1_000_000
	maxGrid   = 10_000
)

// Sampled describes the images written.
type Sampled struct {
	Files       []string  `json:"files"`
	Model       string    `json:"model"` // the file that was read
	Sampler     string    `json:"sampler"`
	Times       []float64 `json:"times"`               // noise levels; a denoiser's sampler ends at 0 after them
	Timesteps   []float64 `json:"timesteps,omitempty"` // of a sampler over timesteps, instead of noise levels
	Evaluations int       `json:"evaluations"`         // of the network per image
	N           int       `json:"n"`
	Seed        uint64    `json:"seed"`
	Label       int       `json:"label"` // Unset: those of Labels, every class in turn, or a model without classes
	Labels      []int     `json:"labels,omitempty"`
	Classes     []string  `json:"classes,omitempty"` // names of the classes chosen
}

// validate checks what can be checked without the model, and fills in steps and times.
func (o *Sample) validate() error {
	switch {
	case o.Sampler != "" && !slices.Contains(Samplers(), o.Sampler):
		return usage("--sampler: %s", suggest.OneOf(o.Sampler, Samplers()))
	case o.Model == "":
		return usage("--model is missing: %s", wantModel)
	case o.Out == "":
		return usage("--out is missing: FILE.png, FILE.jpg or FILE.webp for a grid, DIR/ for one file per image")
	case o.N < 1 || o.N > maxImages:
		return usage("--n: want 1 to %d images, got %d", maxImages, o.N)
	case o.Batch < 1:
		return usage("--batch: want at least 1 image, got %d", o.Batch)
	case o.Label < Unset:
		return usage("--label: want a class from 0 on, got %d", o.Label)
	case o.Columns < 0:
		return usage("--columns: want at least 1, got %d", o.Columns)
	case o.DType != "" && !slices.Contains(DTypes(), o.DType):
		return usage("--dtype: want %s, got %s", strings.Join(DTypes(), ", "), quote.Quoted(o.DType))
	case o.Threads < 0 || o.Threads > mostThreads:
		return usage("--threads: want 1 to %d, got %d", mostThreads, o.Threads)
	}
	return byFlag(o.request().Validate())
}

// request converts the options.
func (o Sample) request() generate.Request {
	r := generate.Request{
		N: o.N, Seed: o.Seed, Batch: o.Batch, Sampler: o.Sampler, Steps: o.Steps, Times: o.Times, Timesteps: o.Timesteps, Gamma: o.Gamma, Guidance: o.Guidance, Labels: o.Labels,
		Edit: o.edit.given(),
	}
	r.Precision, _ = training.DTypeNamed(o.DType)
	if o.Label >= 0 {
		r.Labels = []int{o.Label}
	}
	return r
}

// byFlag adds to the error of a request the flag that is wrong.
func byFlag(err error) error {
	var wrong *generate.RequestError
	if !errors.As(err, &wrong) {
		return err
	}
	flag, ok := map[string]string{"Times": "times", "Labels": "label", "Precision": "dtype"}[wrong.Field]
	if !ok {
		flag = strings.ToLower(wrong.Field)
	}
	return usage("--%s: %s", flag, wrong.Msg)
}

// Samplers returns the samplers' names.
func Samplers() []string { return generate.PixelSamplers() }

// Run samples the images and writes them. Errors that can be found without the model are reported before it is loaded.
func (o Sample) Run(ctx context.Context, progress func(done, all int)) (Sampled, error) {
	var none Sampled
	if err := o.validate(); err != nil {
		return none, err
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return none, usage("--device: %v", err)
	}
	if err := There(ownModel("--model", o.Model, wantModel)); err != nil {
		return none, err
	}
	files, folder, err := o.files()
	if err != nil {
		return none, err
	}
	if err := use(dev, o.Threads, o.Note); err != nil {
		return none, err
	}
	model, err := openFile(o.Model, dev)
	if err != nil {
		return none, instead("--model", o.Model, err)
	}
	defer model.Close()
	tell(o.Note, ofBest(o.Model, model)...)
	d := model.Description
	wanted, err := o.labels(d)
	if err != nil {
		return none, err
	}
	from, err := generate.FromFile(model)
	if err != nil {
		return none, err
	}
	plan, err := from.Plan(ctx, o.request())
	if err != nil {
		return none, byFlag(err)
	}
	defer plan.Close()
	if note := o.edit.classes(d, wanted != nil || o.Label >= 0 || o.Labels != nil); note != "" {
		plan.Notices = append(plan.Notices, note)
	}
	tell(o.Note, plan.Notices...)
	if err := o.fitsMemory(d.Network, dev); err != nil {
		return none, err
	}
	if err := makeDirectories(files[0]); err != nil {
		return none, err
	}
	out := Sampled{Files: files, Model: model.Path, Sampler: plan.Sampler, Times: plan.Times, Timesteps: plan.Timesteps, Evaluations: plan.Evaluations, N: o.N, Seed: o.Seed, Label: o.Label, Labels: o.Labels}
	for _, label := range wanted {
		if len(d.ClassNames) > 0 {
			out.Classes = append(out.Classes, d.ClassNames[label])
		}
	}
	return out, o.draw(ctx, plan, out, folder, progress)
}

// files lists the files that will be written; one that exists is an error unless it may be overwritten.
func (o Sample) files() (files []string, folder bool, err error) {
	st, err := os.Stat(o.Out)
	isDir := err == nil && st.IsDir()
	switch {
	case isDir || strings.HasSuffix(o.Out, "/"):
		if o.Columns > 0 {
			return nil, false, usage("--columns: DIR/ gets one file per image and has no grid; pass --out FILE.png for a grid")
		}
		first := o.Seed
		if o.edit.frames() {
			first = 0
		}
		for i := range o.N {
			files = append(files, filepath.Join(o.Out, fmt.Sprintf("%06d.png", first+uint64(i))))
		}
		folder = true
	case vision.IsWritten(o.Out):
		if o.Columns > 0 && o.N+o.edit.cells() == 1 {
			return nil, false, usage("--columns: one image has no grid: leave the option out, or pass --n 2 or more")
		}
		if o.N > maxGrid {
			return nil, false, usage("--n: a grid holds at most %d images, got %d; pass DIR/ for one file per image", maxGrid, o.N)
		}
		files = []string{o.Out}
	default:
		return nil, false, usage("--out: want FILE.png, FILE.jpg or FILE.webp for a grid or DIR/ for one file per image, got %s", quote.Quoted(o.Out))
	}
	if err := atomicfile.Writable(directoryOf(files[0])); err != nil {
		return nil, false, fmt.Errorf("--out: %w", err)
	}
	if err := o.edit.spares(files, folder); err != nil {
		return nil, false, err
	}
	for _, f := range files {
		if err := mayWrite(f, o.Overwrite); err != nil {
			return nil, false, err
		}
	}
	return files, folder, nil
}

// draw samples the images; a grid is written at the end, single files as they are done.
func (o Sample) draw(ctx context.Context, plan *generate.Plan, out Sampled, folder bool, progress func(done, all int)) error {
	var grid []image.Image
	var texts []vision.Text
	if o.edit.cells() > 0 {
		grid = slices.Clone(plan.Given)
	}
	done := 0
	for img, err := range plan.Images(ctx) {
		if err != nil {
			return err
		}
		if folder {
			err = vision.Write(out.Files[done], img.Image, vision.WriteOptions{Texts: img.Texts, Overwrite: o.Overwrite})
		} else {
			grid, texts = append(grid, img.Image), img.Texts
		}
		if err != nil {
			return err
		}
		if done++; progress != nil && (done%o.Batch == 0 || done == o.N) {
			progress(done, o.N)
		}
	}
	if folder {
		return nil
	}
	img := grid[0]
	if len(grid) > 1 {
		var err error
		if o.N > 1 {
			if texts, err = plan.Texts(); err != nil {
				return err
			}
		}
		if img, err = vision.Grid(grid, o.Columns); err != nil {
			return err
		}
	}
	return vision.Write(out.Files[0], img, vision.WriteOptions{Texts: texts, Overwrite: o.Overwrite})
}
