package job

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/dataset"
)

// Eval holds the options for evaluating a model, or a directory of images. Start from [DefaultEval].
type Eval struct {
	Model    string // a model file or run directory, builtin, or a Stable Diffusion directory or file
	Images   string // images instead of a model's
	Data     string
	DataDir  string // further directory to look for data sets in
	Features string // one of FeatureNames, or a file of weights
	Resize   string // of the features inception, one of ResizeNames; "": the first

	N        int // images to generate; 0: 1000, of Stable Diffusion 100; of Images all
	Sampler  string
	Steps    int
	Guidance *float64 // nil: the model's default
	Seed     uint64
	DType    string   // of computation, and of the weights of Stable Diffusion
	LoRAs    []string // adapters of Stable Diffusion, as in Generate
	// OriginalSteps is the size of the grid of timesteps of lcm and tcd; 0: that of the adapters, else the model's.
	OriginalSteps int

	Times    []float64 // noise levels of a pixel-space model, largest first; nil: the default
	Search   int       // number of steps whose times are searched; 0: nothing is
	SearchBy string    // the measure of the search, one of evaluation.MeasureNames; "": fd

	Real       int    // real images to use, drawn at random; 0: all
	Resolution int    // of images that no model generates; 0: their own
	Nearest    string // PNG with generated images above the real ones nearest to them; "": none
	Cache      string // directory for features of data; "": onestep/features in the user's cache directory
	NoCache    bool

	Batch     int
	Device    string
	Threads   int
	Overwrite bool
	Force     bool

	Note     func(string)                     // receives notices; may be nil
	Progress func(what string, done, all int) // may be nil
}

// DefaultEval returns the default options.
func DefaultEval() Eval { return Eval{Batch: 32, Device: "cpu", DType: "f32"} }

const (
	evalImages    = 1000
	evalDiffusion = 100
	evalPairs     = 16 // of the picture of nearest images
	leastImages   = 6  // that have the neighbours of evaluation.Neighbours
	evalBound     = 256
)

// Evaluated is the result of an evaluation.
type Evaluated struct {
	Model       string   `json:"model,omitempty"`
	Images      string   `json:"images,omitempty"`
	Data        string   `json:"data"`
	LoRAs       []string `json:"lora,omitempty"`
	Sampler     string   `json:"sampler,omitempty"`
	Steps       int      `json:"steps,omitempty"`
	Evaluations int      `json:"evaluations,omitempty"` // of the network per image
	Width       int      `json:"width"`                 // of the images compared, before they are resized for the extractor
	Height      int      `json:"height"`
	Seed        uint64   `json:"seed"`

	evaluation.Report
	Weights string `json:"features_sha256"` // of the file of the features' weights
	// Bound is the caption agreement of real images after the model's autoencoder, which no model with it can exceed by much.
	Bound   *evaluation.Agreement `json:"caption_agreement_bound,omitempty"`
	Nearest string                `json:"nearest,omitempty"` // the file written
	Search  *Searched             `json:"search_times,omitempty"`
}

// compared is the two sides of a comparison.
type compared struct {
	data     data
	images   func(ctx context.Context, r *evaluation.Reference) evaluation.Images
	n        int // generated images
	captions *captions
	search   searchable // of a pixel-space model
	close    func()
}

// data is a set of real images.
type data interface {
	evaluation.Set
	identity() (string, error)
	notices() []string
	Close() error
}

func (o *Eval) validate() error {
	switch {
	case o.Model == "" && o.Images == "":
		return usage("--model is missing: %s or %s, or pass --images DIR", wantModel, wantDiffusion)
	case o.Model != "" && o.Images != "":
		return usage("--model and --images: want only one of them")
	case o.Data == "":
		return usage("--data is missing: the images to compare with")
	case o.N < 0 || o.N > maxImages || o.N == 1:
		return usage("--n: want %d to %d images, got %d", leastImages, maxImages, o.N)
	case o.N != 0 && o.N < leastImages:
		return usage("--n: want at least %d images, as the 5 nearest neighbours are compared, got %d", leastImages, o.N)
	case o.DataDir != "" && !slices.Contains(dataset.Looked(), o.Data):
		return usage("--data-dir: only %s are looked for: leave it out", strings.Join(dataset.Looked(), ", "))
	case o.Real != 0 && o.Real < leastReal:
		return usage("--real: want at least %d images, got %d", leastReal, o.Real)
	case o.Batch < 1 || o.Batch > 1<<14:
		return usage("--batch: want 1 to %d images, got %d", 1<<14, o.Batch)
	case o.Seed > math.MaxUint64-2*maxImages: // a search measures with new images after those of its trials
		return usage("--seed: want at most %d, got %d", uint64(math.MaxUint64-2*maxImages), o.Seed)
	case o.Threads < 0 || o.Threads > mostThreads:
		return usage("--threads: want 1 to %d, got %d", mostThreads, o.Threads)
	case o.Nearest != "" && !strings.EqualFold(filepath.Ext(o.Nearest), ".png"):
		return usage("--nearest: want FILE.png, got %s", quote.Quoted(o.Nearest))
	case o.NoCache && o.Cache != "":
		return usage("--cache and --no-cache: want only one of them")
	}
	if err := o.validateSearch(); err != nil {
		return err
	}
	if o.Images == "" {
		if o.Resolution != 0 {
			return usage("--resolution: with --model the data are brought to the model's size: leave the option out")
		}
		return nil
	}
	for _, flag := range []struct {
		name string
		set  bool
	}{
		{"--steps", o.Steps != 0}, {"--sampler", o.Sampler != ""}, {"--guidance", o.Guidance != nil}, {"--original-steps", o.OriginalSteps != 0},
		{"--lora", len(o.LoRAs) > 0},
	} {
		if flag.set {
			return usage("%s: with --images nothing is generated: leave it out", flag.name)
		}
	}
	return nil
}

func (o Eval) note(notes ...string) { tell(o.Note, notes...) }

func (o Eval) progress(what string, done, all int) {
	if o.Progress != nil {
		o.Progress(what, done, all)
	}
}

// Run compares images with the data. Errors that can be found without the model are reported before it is loaded.
func (o Eval) Run(ctx context.Context) (out Evaluated, err error) {
	if err := o.validate(); err != nil {
		return out, err
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return out, usage("--device: %v", err)
	}
	features, err := findFeatures("--features", o.Features, o.Resize)
	if err != nil {
		return out, err
	}
	if err := ofRuns(o.Note, map[string]*string{"--model": &o.Model}); err != nil {
		return out, err
	}
	err = There(ownModel("--model", o.Model, wantModel+", or "+wantDiffusion), Path{"--images", o.Images, "a directory of images", Either}, dataPath(o.Data),
		Path{"--data-dir", o.DataDir, "a directory that holds " + o.Data, Folder})
	if err != nil {
		return out, err
	}
	if err := o.canWrite(); err != nil {
		return out, err
	}
	if err := use(dev, o.Threads, o.Note); err != nil {
		return out, err
	}
	f, release, err := features.open(ctx, dev)
	if err != nil {
		return out, err
	}
	defer release()
	out = Evaluated{Model: o.Model, LoRAs: o.LoRAs, Images: o.Images, Data: o.Data, Seed: o.Seed, Weights: f.Identity}
	sides, err := o.open(ctx, dev, &out)
	if err != nil {
		return out, err
	}
	defer sides.close()
	return out, o.compare(ctx, f, sides, &out)
}

// open opens the images of both sides.
func (o Eval) open(ctx context.Context, dev torch.Device, out *Evaluated) (compared, error) {
	if o.Images != "" {
		return o.openImages(out)
	}
	_, err := describes(o.Model)
	if err == nil {
		return o.openPixels(ctx, dev, out)
	}
	if otherFolder(o.Model, err) {
		return compared{}, fmt.Errorf("--model: %w", err)
	}
	if o.Search != 0 || o.Times != nil {
		return compared{}, usage("--times and --search-times: they are for pixel-space models: leave them out")
	}
	return o.openDiffusion(ctx, dev, out)
}

// compare measures.
func (o Eval) compare(ctx context.Context, f evaluation.Features, sides compared, out *Evaluated) error {
	o.note(sides.data.notices()...)
	if few := fewForFID(f.Name, sides.n); few != "" {
		o.note(few)
	}
	how := evaluation.ReferenceOptions{Images: o.Real, Batch: o.Batch, Progress: func(done, all int) { o.progress("real image", done, all) }}
	if how.Cache = o.cache(); how.Cache != "" {
		var err error
		if how.Identity, err = sides.data.identity(); err != nil {
			return err
		}
	}
	r, err := evaluation.NewReference(ctx, f, sides.data, how)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Uncached != nil {
		o.note(notCached(r.Uncached).Error())
	}
	if o.Search != 0 {
		return o.search(ctx, r, sides.search, sides.n, f.Device, out)
	}
	measure := evaluation.Options{
		Progress: func(done int) { o.progress("generated image", done, sides.n) },
		Measure:  func() { o.progress("comparing", 0, 0) },
	}
	if o.Nearest != "" {
		measure.Pairs = evalPairs
	}
	images := sides.images(ctx, r)
	if sides.captions != nil {
		measure.Same = sides.captions.same(r)
		measure.OtherSize = out.Width != out.Height // the data are cropped to squares, with a notice
	}
	if out.Report, err = r.Compare(ctx, images, measure); err != nil {
		return err
	}
	if sides.captions != nil {
		if err := o.bound(ctx, r, sides.captions, out); err != nil {
			return err
		}
	}
	if o.Nearest == "" {
		return nil
	}
	if err := o.drawNearest(sides.data, out.Pairs); err != nil {
		return fmt.Errorf("--nearest: %w", err)
	}
	out.Nearest = o.Nearest
	return nil
}

// cache is the directory for features; "": none.
func (o Eval) cache() string {
	if o.NoCache || o.Cache != "" {
		return o.Cache
	}
	dir, err := featureCache()
	if err != nil {
		o.note(fmt.Sprintf("%v; --cache DIR caches them elsewhere", err))
	}
	return dir
}

// featureCache is the directory for features in the user's cache directory.
func featureCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err == nil {
		dir = filepath.Join(dir, "onestep", "features")
		err = atomicfile.Writable(dir)
	}
	if err != nil {
		return "", notCached(err)
	}
	return dir, nil
}

func notCached(err error) error {
	return fmt.Errorf("the features of the data are not cached: %w", err)
}
