package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet/original"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// metadataKey is the key of the Description in a file's metadata, as JSON.
const metadataKey = "onestep"

// format is the version of Description that this package writes. It also reads format 1, which had one kind of network, in the form edm.
const format = 2

// Kind is the kind of model in a file.
type Kind string

// The kinds of models.
const (
	Consistency Kind = "consistency" // models.Consistency or models.TrigConsistency
	Denoiser    Kind = "denoiser"    // models.EDM, DDPM, VP, Flow or TrigFlow, by the form
	Trajectory  Kind = "trajectory"  // models.Trajectory, or models.MeanFlow for the form flow
)

// Description is the metadata of a model file.
type Description struct {
	Format    int             `json:"format"`             // version of this description; Save sets it
	Kind      Kind            `json:"kind"`               // denoiser, consistency function or trajectory
	Form      Form            `json:"form"`               // the network's parameterisation
	Network   network.Config  `json:"network"`            // the configuration of the network F_θ
	Boundary  models.Boundary `json:"boundary,omitempty"` // boundary condition of a consistency function; absent: sigma_min
	SigmaData float64         `json:"sigma_data"`         // standard deviation of the data's elements
	SigmaMin  float64         `json:"sigma_min"`          // the smallest noise level
	SigmaMax  float64         `json:"sigma_max"`          // the noise level that sampling starts from
	// Levels are the sampling levels of a progressively distilled denoiser, largest first: Euler's method goes from each to the
	// next, and from the last to 0.
	Levels []float64 `json:"levels,omitempty"`
	// Layout is the code whose names and shapes the file's tensors have; absent: those of Network.
	Layout original.Code `json:"layout,omitempty"`
	// Scheduler is the scheduler_config.json of a model of diffusers: see [Description.Chain] and [Description.Grid]; absent: none.
	Scheduler json.RawMessage `json:"scheduler,omitempty"`
	// Guidance are the smallest and the largest guidance scale that a guidance-distilled model was trained with; absent: unknown.
	Guidance []float64 `json:"guidance,omitempty"`

	Method     string   `json:"method,omitempty"`      // training method, such as "ct"
	Data       string   `json:"data,omitempty"`        // training data
	ClassNames []string `json:"class_names,omitempty"` // of a class-conditional model, in the order of labels
	Step       int      `json:"step,omitempty"`        // optimizer steps
	Images     int64    `json:"images,omitempty"`      // images seen in training
	Command    string   `json:"command,omitempty"`     // the command that wrote the file
}

// ErrNetwork is the error for a network that is not registered, such as a user's own, and cannot be saved.
var ErrNetwork = fmt.Errorf("want a network of package network: one of %s", strings.Join(network.Names(), ", ")) //quote: our own names

// ErrFunction is the error for a model that cannot be saved, such as a user's own type.
var ErrFunction = errors.New("want a denoiser over a network, consistency function or jumper of package models")

// Describe returns the Description of a denoiser over a network, a consistency function or a jumper of package models. A function that
// was initialised from another denoiser (models.Preconditioned, models.TrigNetwork) has that denoiser's form.
func Describe(f any) (Description, error) {
	d := Description{Format: format, SigmaMin: 0.002, SigmaMax: 80}
	net, err := describe(f, &d)
	if err != nil {
		return d, err
	}
	if d.SigmaData == 0 {
		d.SigmaData = 0.5
	}
	config, ok := network.Of(net)
	if !ok {
		return d, fmt.Errorf("describe model: %w, got %T", ErrNetwork, net)
	}
	d.Network = config
	return d, nil
}

// Function returns the model over net: a models.Denoiser, a models.ConsistencyFunction, or a value that is both.
func (d Description) Function(net models.Network) (any, error) {
	if !(d.SigmaData >= 1e-6 && d.SigmaData <= 1e6 && d.SigmaMin > 0 && d.SigmaMin < d.SigmaMax && d.SigmaMax < 1e6) {
		return nil, fmt.Errorf("noise levels: want sigma_data from 1e-6 to 1e6 and 0 < sigma_min < sigma_max < 1e6, got %g, %g and %g", d.SigmaData, d.SigmaMin, d.SigmaMax)
	}
	if f := d.Form; !(f.Scale >= 0 && f.Scale <= 1e6 && f.BetaD <= 1e6 && f.BetaMin <= 1e6) {
		return nil, fmt.Errorf("form: want a scale from 0 to 1e6 and betas up to 1e6, got %g, %g and %g", f.Scale, f.BetaD, f.BetaMin)
	}
	for i, t := range d.Levels {
		if !(t > 0 && t <= d.SigmaMax*(1+1e-9)) || i > 0 && !(t < d.Levels[i-1]) || d.Kind != Denoiser || i > 1000 {
			return nil, fmt.Errorf("levels: want at most 1000 decreasing noise levels of a denoiser, at most %g and above 0, got %g at index %d", d.SigmaMax, t, i)
		}
	}
	return build(d, net)
}

// Metadata returns the metadata of a file with this description.
func (d Description) Metadata() (map[string]string, error) {
	d.Format = format
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("describe model: %w", err)
	}
	return map[string]string{"format": "pt", metadataKey: string(b)}, nil
}

// ErrNoDescription is the error for files without a description.
var ErrNoDescription = errors.New("the file has no model description in its metadata: want a snapshot that onestep saved, such as model-STEP.safetensors in a run directory, or weights of " +
	"openai/consistency_models, openai/guided-diffusion or NVlabs/edm")

// ParseDescription parses and validates the description in a file's metadata.
func ParseDescription(metadata map[string]string) (Description, error) {
	text, ok := metadata[metadataKey]
	if !ok {
		return Description{}, ErrNoDescription
	}
	var head struct {
		Format int `json:"format"`
	}
	if err := configjson.Unmarshal([]byte(text), &head); err != nil {
		return Description{}, misread(err)
	}
	var d Description
	switch head.Format {
	case format:
		if err := strictly(text, &d); err != nil {
			return d, err
		}
	case 1:
		old := struct {
			*Description
			Network firstNetwork          `json:"network"`
			Noise   models.NoiseEmbedding `json:"noise"`
		}{Description: &d}
		if err := strictly(text, &old); err != nil {
			return d, err
		}
		d.Form, d.Network = Form{Type: EDM, Noise: old.Noise}, old.Network.Config
	default:
		return d, fmt.Errorf("model description: unknown format %d: this version reads formats 1 and %d", head.Format, format)
	}
	d.Network = d.Network.WithDefaults()
	if err := d.check(); err != nil {
		return d, fmt.Errorf("model description: %w", err)
	}
	return d, nil
}

// check reports the first invalid field of a description that was read.
func (d Description) check() error {
	if err := d.Network.Validate(); err != nil {
		return err
	}
	if d.Layout != "" {
		if _, err := original.Of(d.Layout, d.Network.Net); err != nil {
			return err
		}
	}
	if d.Step < 0 || d.Images < 0 {
		return fmt.Errorf("want step and images from 0 on, got %d and %d", d.Step, d.Images)
	}
	if n := len(d.ClassNames); n > 0 && n != d.Network.Classes() {
		return fmt.Errorf("it names %s, but the network has %d", plural.N(n, "class"), d.Network.Classes())
	}
	if _, err := d.Function(probe{}); err != nil {
		return err
	}
	return d.checkScheduler()
}

// firstNetwork is the network of a file of format 1.
type firstNetwork struct{ network.Config }

func (n *firstNetwork) UnmarshalJSON(data []byte) error { return n.UnmarshalFirst(data) }

// strictly decodes JSON; unknown fields are errors.
func strictly(text string, into any) error {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return misread(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("model description: want one JSON object, and more follows")
	}
	return nil
}

// misread rewords JSON errors without the names of Go types.
func misread(err error) error {
	var mistyped *json.UnmarshalTypeError
	if !errors.As(err, &mistyped) {
		return fmt.Errorf("model description: %w", quote.Error(err))
	}
	where := "it"
	if mistyped.Field != "" {
		where = mistyped.Field
	}
	return fmt.Errorf("model description: %s has the wrong JSON type, %s", quote.Text(where), quote.Text(mistyped.Value))
}

// probe takes the network's place while a description is validated.
type probe struct{ models.Network }

// File is a model that was read from a file. It owns its weights.
type File struct {
	Network     network.Network
	Description Description
	Path        string      // the file it was read from
	Notices     []string    // what was assumed about a file of another program, and what of it is not used
	DType       torch.DType // of the weights in the file; Float32 if they have several types

	function any // see Description.Function
}

// Shape returns the shape of one sample, [C, H, W] for images.
func (f *File) Shape() []int {
	return f.Description.Network.Shape()
}

// Function returns the denoiser or consistency function over the network, which shares its weights: see Description.Function.
func (f *File) Function() any { return f.function }

// Close frees the weights.
func (f *File) Close() { f.Network.Close() }

// ReadDescription reads the description of a model file, or of the snapshot in a run directory that Find returns, without the weights. For a file of
// another program, it is what [OpenFile] finds out about it.
func ReadDescription(path string) (Description, error) {
	d, _, err := Inspect(path)
	return d, err
}

// Inspect is ReadDescription with the notices of [File].
func Inspect(path string) (Description, []string, error) {
	in, _, err := importAt(path)
	if err != nil {
		return Description{}, nil, err
	}
	return in.Description, in.notices, in.close()
}

// Model is a consistency function in a file.
type Model struct {
	models.ConsistencyFunction
	*File
}

// Teacher is a denoiser in a file.
type Teacher struct {
	models.Denoiser
	*File
}

// Open reads a consistency function from a model file, or from a run directory's snapshot (see Find), onto dev.
func Open(path string, dev torch.Device) (*Model, error) {
	f, err := OpenFile(path, dev)
	if err != nil {
		return nil, err
	}
	return asModel(f)
}

// OpenTeacher reads a denoiser from a model file, or from a run directory's snapshot (see Find), onto dev.
func OpenTeacher(path string, dev torch.Device) (*Teacher, error) {
	f, err := OpenFile(path, dev)
	if err != nil {
		return nil, err
	}
	if d, ok := f.function.(models.Denoiser); ok {
		return &Teacher{d, f}, nil
	}
	f.Close()
	return nil, fmt.Errorf("model %s: want a denoiser, such as a model trained with the method edm, but the file holds a %s model", quote.Path(f.Path), quote.Text(f.Description.Kind))
}

func asModel(f *File) (*Model, error) {
	if c, ok := f.function.(models.ConsistencyFunction); ok {
		return &Model{c, f}, nil
	}
	f.Close()
	return nil, fmt.Errorf("model %s: want a consistency function, but the file holds a %s: use a sampler for denoisers, or distil it", quote.Path(f.Path), quote.Text(f.Description.Kind))
}

// OpenFile reads any model onto dev. Description.Kind is its kind. Besides the files that [Save] writes it reads those of
// openai/consistency_models, openai/guided-diffusion and NVlabs/edm: see package original. [File.Notices] say what had to be assumed.
func OpenFile(path string, dev torch.Device) (*File, error) {
	in, path, err := importAt(path)
	if err != nil {
		return nil, err
	}
	f, err := in.open(path, dev)
	return f, errors.Join(err, in.close()) // the weights were copied: no tensor is a view of the file
}

// Read reads a consistency function from a model file in memory; name identifies it in errors.
func Read(name string, data []byte, dev torch.Device) (*Model, error) {
	f, err := safetensors.Parse(name, data)
	if err != nil {
		return nil, err
	}
	d, err := ParseDescription(f.Metadata())
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", quote.Path(name), err)
	}
	var m *File
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		weights, err := torch.FromFile(s, f)
		if err != nil {
			return err
		}
		m, err = (&imported{Description: d, source: hold(weights)}).open(name, dev)
		return err
	})
	if err != nil {
		return nil, err
	}
	return asModel(m)
}

// ErrNoSnapshot is the error for directories without a snapshot.
var ErrNoSnapshot = errors.New("the directory has no snapshot (model-STEP.safetensors)")

// bestName is the file of a run's best snapshot.
const bestName = "best.safetensors"

// Find returns the file that Open would read: path itself, or in a run directory its best snapshot, best.safetensors, or without one the last,
// the file model-STEP.safetensors with the highest step.
func Find(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("model %s: no such file or directory", quote.Path(path))
	}
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	if !info.IsDir() {
		return path, nil
	}
	best := filepath.Join(path, bestName)
	if st, err := os.Stat(best); err == nil && st.Mode().IsRegular() {
		return best, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	latest, name := -1, ""
	for _, e := range entries {
		digits := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "model-"), ".safetensors")
		step, err := strconv.Atoi(digits)
		if err != nil || step <= latest || e.Name() != fmt.Sprintf("model-%07d.safetensors", step) { //quote: a number
			continue
		}
		if st, err := os.Stat(filepath.Join(path, e.Name())); err == nil && st.Mode().IsRegular() {
			latest, name = step, e.Name()
		}
	}
	if latest < 0 {
		return "", fmt.Errorf("model %s: %w", quote.Path(path), ErrNoSnapshot)
	}
	return filepath.Join(path, name), nil
}

// open builds the model with copies of its weights.
func (in *imported) open(path string, dev torch.Device) (*File, error) {
	fail := func(err error) (*File, error) { return nil, fmt.Errorf("model %s: %w", quote.Path(path), err) }
	// Do not allocate a network with more weights than the file holds.
	elements := 0
	for name := range in.source.Names() {
		dims, _, _ := in.source.Info(name)
		n := 1
		for _, d := range dims {
			n *= d
		}
		elements += n
	}
	if n := in.Network.Count(); n > elements {
		return fail(fmt.Errorf("it describes a network with %d weights, but holds %d", n, elements))
	}
	net, err := network.New(in.Network, dev, torch.Float32, 0)
	if err != nil {
		return fail(err)
	}
	if err := in.load(net); err != nil {
		net.Close()
		return fail(err)
	}
	net.Store().SetRequiresGrad(false)
	fn, err := in.Function(net)
	if err != nil {
		net.Close()
		return fail(err)
	}
	return &File{Network: net, Description: in.Description, Path: path, Notices: in.notices, DType: in.dtype(), function: fn}, nil
}

// dtype returns the type of the weights; Float32 if they have several.
func (in *imported) dtype() torch.DType {
	var all []torch.DType
	for name := range in.source.Names() {
		if _, d, _ := in.source.Info(name); !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	if len(all) != 1 {
		return torch.Float32
	}
	return all[0]
}

// load copies the weights into the network.
func (in *imported) load(net network.Network) error {
	if in.constants != nil {
		if err := in.constants(); err != nil {
			return err
		}
	}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		var failed error
		err := net.Load(func(yield func(string, *torch.Tensor) bool) {
			for name := range in.source.Names() {
				var t *torch.Tensor
				if t, failed = in.source.Get(s, name); failed != nil || !yield(name, t) {
					return
				}
			}
		})
		return cmp.Or(failed, err)
	})
	if err != nil {
		return err
	}
	n, err := net.Store().NonFinite()
	if n > 0 {
		err = fmt.Errorf("%d of its weights are NaN or infinite: training diverged, or the file is damaged", n)
	}
	return err
}

// SaveOptions configure Save.
type SaveOptions struct {
	DType     torch.DType // type of the saved weights: Float32 is exact; Float16 halves the file size, with a relative error of about 1e-3
	Overwrite bool        // replace an existing file; otherwise it is an error that wraps fs.ErrExist
}

// Save writes a model file atomically, with the weights, which have the network's names, or with d.Layout under the
// names and shapes of that code.
func Save(path string, d Description, weights iter.Seq2[string, *torch.Tensor], o SaveOptions) error {
	metadata, err := d.Metadata()
	if err != nil {
		return err
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	if d.Layout != "" {
		if weights, err = laidOut(s, d, weights); err != nil {
			return fmt.Errorf("save model %s: %w", quote.Path(path), err)
		}
	}
	return torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) {
		for name, w := range weights {
			if !yield(name, w.Detach(s).To(s, o.DType)) {
				return
			}
		}
	}, torch.SaveOptions{Metadata: metadata, Overwrite: o.Overwrite})
}
