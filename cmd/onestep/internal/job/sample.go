package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Sample are the options of drawing images. Start from [DefaultSample]. The JSON names are those in a picture's text.
type Sample struct {
	Model     string    `json:"model"`              // a file, a run directory, or builtin
	Sampler   string    `json:"sampler,omitempty"`  // "": multistep for a consistency function, heun for a denoiser
	Steps     int       `json:"steps"`              // 0: as many as Times, or 1, or for a denoiser 18
	Times     []float64 `json:"times"`              // noise levels, largest first; nil: the usual ones for the model and Steps
	Gamma     float64   `json:"gamma,omitempty"`    // ctm: the part of the noise that is drawn anew between jumps
	Guidance  float64   `json:"guidance,omitempty"` // scale of classifier-free guidance; 0: 1, which is none
	Class     string    `json:"-"`                  // the classes wanted, names or numbers between commas; "": those of Label
	Label     int       `json:"label"`              // Unset: those of Labels, or every class in turn, for a conditional model
	Labels    []int     `json:"labels,omitempty"`   // of several classes, in turn from the first image on
	N         int       `json:"n"`
	Seed      uint64    `json:"seed"` // of the first image; the others count up
	Columns   int       `json:"-"`    // 0: a nearly square grid
	Batch     int       `json:"-"`
	Device    string    `json:"-"`
	Threads   int       `json:"-"` // 0: all processors
	Out       string    `json:"-"` // FILE.png, .jpg or .webp: a grid, or the image itself when N is 1; DIR/: a file an image
	Overwrite bool      `json:"-"`
	Force     bool      `json:"-"` // try even if the memory seems too small

	Note func(string) `json:"-"` // is told what the user may want to know; may be nil
}

// DefaultSample returns the options that hold where nothing else is said.
func DefaultSample() Sample { return Sample{Label: Unset, N: 1, Batch: 64, Device: "cpu"} }

// Limits of what is asked for by mistake only.
const (
	maxImages = 1_000_000
	maxGrid   = 10_000
)

// Sampled is what was drawn.
type Sampled struct {
	Files       []string  `json:"files"`
	Model       string    `json:"model"` // the file that was read
	Sampler     string    `json:"sampler"`
	Times       []float64 `json:"times"`       // noise levels; a denoiser's sampler ends at 0 after them
	Evaluations int       `json:"evaluations"` // of the network, for each image
	N           int       `json:"n"`
	Seed        uint64    `json:"seed"`
	Label       int       `json:"label"` // Unset: those of Labels, every class in turn, or a model without classes
	Labels      []int     `json:"labels,omitempty"`
	Classes     []string  `json:"classes,omitempty"` // names of the classes that were asked for
}

// validate checks what can be checked without the model, and fills in steps and times.
func (o *Sample) validate() error {
	if o.Steps == 0 {
		o.Steps = len(o.Times) // 0: by the model
	}
	switch {
	case o.Sampler != "" && !slices.Contains(Samplers(), o.Sampler):
		return usage("--sampler: %s", suggest.OneOf(o.Sampler, Samplers()))
	case o.Model == "":
		return usage("--model is missing: a file, a run directory, or builtin")
	case o.Out == "":
		return usage("--out is missing: FILE.png, FILE.jpg or FILE.webp for a grid, DIR/ for a file an image")
	case o.N < 1 || o.N > maxImages:
		return usage("--n: want 1 to %d images, got %d", maxImages, o.N)
	case o.Seed > math.MaxUint64-uint64(o.N-1):
		return usage("--seed: %d images from seed %d on would pass the largest seed, %d", o.N, o.Seed, uint64(math.MaxUint64))
	case o.Steps < 0 || o.Steps > 1000:
		return usage("--steps: want 1 to 1000, got %d", o.Steps)
	case o.Batch < 1 || o.Batch > 1<<20:
		return usage("--batch: want 1 to %d images, got %d", 1<<20, o.Batch)
	case !(o.Guidance >= 0 && o.Guidance <= 1e3):
		return usage("--guidance: want a scale from 0 to 1000, got %g", o.Guidance)
	case !(o.Gamma >= 0 && o.Gamma <= 1):
		return usage("--gamma: want 0 to 1, got %g", o.Gamma)
	case o.Label < Unset:
		return usage("--label: want a class from 0 on, got %d", o.Label)
	case o.Columns < 0:
		return usage("--columns: want at least 1, got %d", o.Columns)
	case o.Threads < 0 || o.Threads > 4096:
		return usage("--threads: want 1 to 4096, got %d", o.Threads)
	}
	if o.Times == nil {
		return nil // by the model
	}
	if len(o.Times) != o.Steps {
		return usage("--steps is %d and --times lists %d noise levels: give one of them, or as many levels as steps", o.Steps, len(o.Times))
	}
	return checkTimes(o.Times, sampling.Multistep{})
}

// checkTimes takes the levels to sample at, which the end of the trajectories follows.
func checkTimes(times []float64, m sampling.Multistep) error {
	if len(times) == 0 {
		return usage("--times: want at least one noise level")
	}
	if err := m.Validate(append(slices.Clone(times), 0)); err != nil {
		return usage("--times: %s", strings.TrimPrefix(err.Error(), "noise levels: "))
	}
	return nil
}

// Run draws the images and writes them. Everything that can be known before is checked before the model is loaded.
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
	from, err := o.sampler(model.Function(), model.Description)
	if err != nil {
		return none, err
	}
	d := model.Description
	wanted, err := o.labels(d)
	if err != nil {
		return none, err
	}
	// Karras's levels come from powers and may end above the largest one by rounding.
	if o.Times[0] > d.SigmaMax*(1+1e-9) {
		return none, usage("--times: want noise levels up to %s, which the model was trained with, got %g", number.Short(d.SigmaMax), o.Times[0])
	}
	shape := model.Shape()
	if len(shape) != 3 {
		return none, fmt.Errorf("model %s: it draws %d numbers and no images", quote.Path(model.Path), shape[0])
	}
	if err := o.fitsMemory(d.Network, dev); err != nil {
		return none, err
	}
	if err := makeDirectories(files[0]); err != nil {
		return none, err
	}
	out := Sampled{Files: files, Model: model.Path, Sampler: o.Sampler, Times: o.Times, Evaluations: from.evaluations, N: o.N, Seed: o.Seed, Label: o.Label, Labels: o.Labels}
	for _, label := range wanted {
		if len(d.ClassNames) > 0 {
			out.Classes = append(out.Classes, d.ClassNames[label])
		}
	}
	return out, o.draw(ctx, from, model, out, folder, progress)
}

// source draws a batch of images.
type source struct {
	evaluations int // of the network, for each image
	draw        func(ctx context.Context, s *torch.Scope, streams noise.Streams, c models.Cond) (*torch.Tensor, error)
}

// The samplers of what draws in one step, beside package sampling's of denoisers.
const (
	multistep = "multistep" // of a consistency function
	ctm       = "ctm"       // of jumps
)

// Samplers returns the samplers' names.
func Samplers() []string { return append([]string{multistep, ctm}, sampling.Names()...) }

// sampler fits the sampler to the model's function, and fills in what was left to it: sampler, steps and noise levels.
func (o *Sample) sampler(f any, d checkpoint.Description) (source, error) {
	origins, one := f.(models.ConsistencyFunction)
	denoiser, many := f.(models.Denoiser)
	jumps, jumping := f.(models.Jumper)
	var can []string
	var err error
	if one {
		can = append(can, multistep)
	}
	if jumping {
		can = append(can, ctm)
	}
	if many {
		can = append(can, sampling.Names()...)
	}
	switch {
	case len(can) == 0:
		return source{}, errNoFunction
	case o.Sampler == "" && one:
		o.Sampler = multistep
	case o.Sampler == "" && d.Levels != nil:
		o.Sampler = "euler"
	case o.Sampler == "":
		o.Sampler = "heun"
	case !slices.Contains(can, o.Sampler):
		return source{}, usage("--sampler: %s cannot draw from a %s model: want %s", quote.Text(o.Sampler), quote.Text(d.Kind), strings.Join(can, ", "))
	}
	each := 1 // evaluations of the network for one of the denoiser
	steps := o.Sampler == multistep || o.Sampler == ctm
	if many && !steps {
		plain := denoiser
		if denoiser, err = guided(denoiser, d.Network, o.Guidance); err != nil {
			return source{}, err
		}
		if denoiser != plain {
			each = 2
		}
	} else if o.Guidance != 0 && o.Guidance != 1 && !d.Network.Guidance() {
		if many {
			return source{}, usage("--guidance: the sampler %s jumps without guidance: choose a denoiser's sampler, such as heun", quote.Text(o.Sampler))
		}
		return source{}, errNotGuided
	}
	if o.Gamma != 0 && o.Sampler != ctm {
		return source{}, usage("--gamma: the sampler %s does not use it, only %s", quote.Text(o.Sampler), ctm)
	}
	if steps {
		o.Steps = max(1, o.Steps)
		if o.Gamma != 0 && o.Steps == 1 {
			return source{}, usage("--gamma: noise is added between jumps, and one step has one jump: choose --steps 2 or more")
		}
		if o.Times == nil {
			o.Times = sampling.Levels(d.SigmaMax, o.Steps)[:o.Steps]
		}
		m := sampling.Multistep{SigmaMin: d.SigmaMin}
		if err := checkTimes(o.Times, m); err != nil {
			return source{}, err
		}
		levels := append(slices.Clone(o.Times), d.SigmaMin)
		return source{m.Evaluations(levels), func(ctx context.Context, s *torch.Scope, streams noise.Streams, c models.Cond) (*torch.Tensor, error) {
			x := streams.Randn(s, torch.Float32, d.Network.Shape()...).MulScalar(s, levels[0])
			opts := sampling.Options{Levels: levels, Streams: streams, Cond: c}
			if o.Sampler == multistep {
				return m.Sample(ctx, s, origins, x, opts)
			}
			return sampling.Jumps{Gamma: o.Gamma, SigmaMin: d.SigmaMin}.Sample(ctx, s, jumps, x, opts)
		}}, nil
	}
	if d.Levels != nil && o.Times == nil && (o.Steps == 0 || o.Steps == len(d.Levels)) {
		o.Times = slices.Clone(d.Levels)
		o.Steps = len(o.Times)
	}
	if o.Steps == 0 {
		o.Steps = 18
	}
	if o.Times == nil {
		o.Times = noise.Karras(o.Steps, d.SigmaMax, d.SigmaMin, 7)
		if strings.HasPrefix(o.Sampler, "flow_") {
			o.Times = noise.Flow(o.Steps, d.SigmaMax, d.SigmaMin, 1)
		}
	}
	by, err := sampling.Named(o.Sampler)
	if err != nil {
		return source{}, err
	}
	levels := append(slices.Clone(o.Times), 0) // the last step ends at a prediction
	return source{each * by.Evaluations(levels), func(ctx context.Context, s *torch.Scope, streams noise.Streams, c models.Cond) (*torch.Tensor, error) {
		x := streams.Randn(s, torch.Float32, d.Network.Shape()...).MulScalar(s, levels[0])
		return by.Sample(ctx, s, denoiser, x, sampling.Options{Levels: levels, Streams: streams, Cond: c})
	}}, nil
}

// errNotGuided refuses a scale for what draws in one step without being told one.
var errNotGuided = usage("--guidance: the model was not trained for it: distil a guided teacher with --method cd --guidance")

// guided returns the denoiser with the guidance that is asked for, 0 for none. A network that is told its scale needs no help.
func guided(d models.Denoiser, c network.Config, scale float64) (models.Denoiser, error) {
	switch {
	case scale == 0 || scale == 1 || c.Guidance(): // 1 is none
		return d, nil
	case c.Classes() == 0:
		return nil, usage("--guidance: the denoiser has no classes to guide to")
	case c.NullClass() < 0:
		return nil, usage("--guidance: the denoiser does not know images without a class: train it with --label-dropout 0.1")
	}
	return guidedByClass{d, c.NullClass(), scale}, nil
}

// guidedByClass is models.Guided with a label in place of a tensor.
type guidedByClass struct {
	model models.Denoiser
	null  int
	scale float64
}

func (g guidedByClass) Denoise(s *torch.Scope, x, t *torch.Tensor, c models.Cond) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return (&models.Guided{Model: g.model, Null: noClass(s, g.null), Scale: g.scale}).Denoise(s, x, t, c)
	})
}

// noClass is the condition of that label for no class.
func noClass(s *torch.Scope, label int) models.Cond {
	return models.Cond{Class: torch.FromSlice(s, []int64{int64(label)})}
}

// files lists what will be written, and makes sure that nothing is there unless it may be overwritten.
func (o Sample) files() (files []string, folder bool, err error) {
	st, err := os.Stat(o.Out)
	isDir := err == nil && st.IsDir()
	switch {
	case isDir || strings.HasSuffix(o.Out, "/"):
		if o.Columns > 0 {
			return nil, false, usage("--columns: a folder gets a file an image and no grid; give FILE.png for one")
		}
		for i := range o.N {
			files = append(files, filepath.Join(o.Out, fmt.Sprintf("%06d.png", o.Seed+uint64(i))))
		}
		folder = true
	case vision.IsWritten(o.Out):
		if o.Columns > 0 && o.N == 1 {
			return nil, false, usage("--columns: one image has no grid: leave the option out, or pass --n 2 or more")
		}
		if o.N > maxGrid {
			return nil, false, usage("--n: a grid holds at most %d images, got %d; give DIR/ for a file an image", maxGrid, o.N)
		}
		files = []string{o.Out}
	default:
		return nil, false, usage("--out: want FILE.png, FILE.jpg or FILE.webp for a grid or DIR/ for a file an image, got %s", quote.Quoted(o.Out))
	}
	if err := writable(directoryOf(files[0])); err != nil {
		return nil, false, fmt.Errorf("--out: %w", err)
	}
	for _, f := range files {
		if o.Overwrite {
			if err := replaceable(f, false); err != nil {
				return nil, false, err
			}
			continue
		}
		if _, err := os.Lstat(f); err == nil {
			return nil, false, fmt.Errorf("%s exists: choose another name or pass --overwrite", quote.Path(f))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
	}
	return files, folder, nil
}

// draw samples in batches; a grid is written when all are there, single files as they come.
func (o Sample) draw(ctx context.Context, from source, model *checkpoint.File, out Sampled, folder bool, progress func(done, all int)) error {
	return torch.Run(model.Network.Store().Device(), func(s *torch.Scope) error {
		var grid []image.Image
		for at := 0; at < o.N; at += o.Batch {
			n := min(o.Batch, o.N-at)
			seeds := noise.Seeds(o.Seed+uint64(at), n)
			err := s.Inference(func(s *torch.Scope) error {
				c, label := o.condition(s, model.Description.Network, at, n)
				x, err := from.draw(ctx, s, noise.NewStreams(s, seeds...), c)
				if err != nil {
					return err
				}
				pictures, err := vision.ToImages(x)
				if err != nil {
					return err
				}
				if o.N == 1 {
					o.Label, o.Labels = label(0), nil
				}
				for i, p := range pictures {
					if !folder {
						grid = append(grid, p)
						continue
					}
					one := o
					one.N, one.Seed, one.Label, one.Labels = 1, seeds[i], label(i), nil
					text, err := one.text(model)
					if err != nil {
						return err
					}
					if err := vision.Write(out.Files[at+i], p, text, o.Overwrite); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			if progress != nil {
				progress(at+n, o.N)
			}
		}
		if folder {
			return nil
		}
		text, err := o.text(model)
		if err != nil {
			return err
		}
		img := grid[0]
		if o.N > 1 {
			if img, err = vision.Grid(grid, o.Columns); err != nil {
				return err
			}
		}
		return vision.Write(out.Files[0], img, text, o.Overwrite)
	})
}

// condition returns what the network is told of images at to at+n-1 of the run, and each one's label.
func (o Sample) condition(s *torch.Scope, of network.Config, at, n int) (models.Cond, func(i int) int) {
	var c models.Cond
	if of.Guidance() {
		w := o.Guidance
		if w == 0 {
			w = 1
		}
		c.Guidance = torch.Full(s, w, torch.Float32, n)
	}
	classes := of.Classes()
	if classes == 0 {
		return c, func(int) int { return -1 }
	}
	label := func(i int) int {
		if o.Label >= 0 {
			return o.Label
		}
		if len(o.Labels) > 0 {
			return o.Labels[(at+i)%len(o.Labels)]
		}
		return int((o.Seed + uint64(at+i)) % uint64(classes)) // by the seed: image i is the same in any batch
	}
	labels := make([]int64, n)
	for i := range labels {
		labels[i] = int64(label(i))
	}
	c.Class = torch.FromSlice(s, labels)
	return c, label
}

// text is what the PNG's text chunks say: enough to draw the picture again.
func (o Sample) text(model *checkpoint.File) ([]vision.Text, error) {
	o.Model = filepath.Base(model.Path)
	settings, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return []vision.Text{{Keyword: "Software", Value: "onestep"}, {Keyword: "onestep", Value: string(settings)}}, nil
}
