package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// metadataKey is where a file's metadata holds its Description, as JSON.
const metadataKey = "onestep"

// format is the version of Description that this package writes. It also reads 1, in which there was one kind of networks,
// of the form edm.
const format = 2

// Kind is what a file's network is turned into.
type Kind string

// The kinds of models.
const (
	Consistency Kind = "consistency" // models.Consistency or models.TrigConsistency
	Denoiser    Kind = "denoiser"    // models.EDM, DDPM, VP, Flow or TrigFlow, by its form
	Trajectory  Kind = "trajectory"  // models.Trajectory, or models.MeanFlow in the form flow
)

// Description is what a file says of its model.
type Description struct {
	Format    int             `json:"format"`             // version of this description; Save sets it
	Kind      Kind            `json:"kind"`               // what the network is turned into
	Form      Form            `json:"form"`               // what the network predicts
	Network   network.Config  `json:"network"`            // the network F_θ
	Boundary  models.Boundary `json:"boundary,omitempty"` // of a consistency function, where it is the identity; absent: sigma_min
	SigmaData float64         `json:"sigma_data"`
	SigmaMin  float64         `json:"sigma_min"`
	SigmaMax  float64         `json:"sigma_max"` // the noise level that sampling starts from
	// Levels are the noise levels, largest first, of a denoiser that was distilled for them: by Euler's method from each to the
	// next, and from the last to 0.
	Levels []float64 `json:"levels,omitempty"`

	Method     string   `json:"method,omitempty"`      // how it was trained, such as "ct"
	Data       string   `json:"data,omitempty"`        // what on
	ClassNames []string `json:"class_names,omitempty"` // of a conditional model, in the labels' order
	Step       int      `json:"step,omitempty"`        // optimizer steps
	Images     int64    `json:"images,omitempty"`      // images seen in training
	Command    string   `json:"command,omitempty"`     // the command that made it
}

// ErrNetwork is what functions of a network are refused with whose configuration files cannot hold, such as a user's own.
var ErrNetwork = fmt.Errorf("want a network of package network: one of %s", strings.Join(network.Names(), ", ")) //quote: our own names

// ErrFunction is what functions are refused with that files cannot hold, such as a user's own.
var ErrFunction = errors.New("want one of package models' denoisers or consistency functions that files can hold")

// Describe fills in a Description for any of package models' denoisers, consistency functions and jumps. What starts from another
// denoiser (models.Preconditioned, models.TrigNetwork) is described by that one's form.
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

// Function returns what the description says, over that network: a models.Denoiser, a models.ConsistencyFunction, or what is both.
func (d Description) Function(net models.Network) (any, error) {
	if !(d.SigmaData >= 1e-6 && d.SigmaData <= 1e6 && d.SigmaMin > 0 && d.SigmaMin < d.SigmaMax && d.SigmaMax < 1e6) {
		return nil, fmt.Errorf("noise levels: want sigma_data from 1e-6 to 1e6 and 0 < sigma_min < sigma_max < 1e6, got %g, %g and %g", d.SigmaData, d.SigmaMin, d.SigmaMax)
	}
	if f := d.Form; !(f.Scale >= 0 && f.Scale <= 1e6 && f.BetaD <= 1e6 && f.BetaMin <= 1e6) {
		return nil, fmt.Errorf("form: want a scale from 0 to 1e6 and betas up to 1e6, got %g, %g and %g", f.Scale, f.BetaD, f.BetaMin)
	}
	for i, t := range d.Levels {
		if !(t > 0 && t <= d.SigmaMax*(1+1e-9)) || i > 0 && !(t < d.Levels[i-1]) || d.Kind != Denoiser || i > 1000 {
			return nil, fmt.Errorf("levels: want at most 1000 of a denoiser, falling from %g to above 0, got %g at %d", d.SigmaMax, t, i)
		}
	}
	return build(d, net)
}

// Metadata returns the description as a file's metadata.
func (d Description) Metadata() (map[string]string, error) {
	d.Format = format
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("describe model: %w", err)
	}
	return map[string]string{"format": "pt", metadataKey: string(b)}, nil
}

// ErrNoDescription is what files without a description are refused with.
var ErrNoDescription = errors.New("the file does not say what network its weights are for: want a snapshot of onestep, such as model-STEP.safetensors of a run")

// ParseDescription takes the description out of a file's metadata.
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
		return d, fmt.Errorf("description of the model: it has format %d, this version reads format 1 and %d", head.Format, format)
	}
	d.Network = d.Network.WithDefaults()
	if err := d.Network.Validate(); err != nil {
		return d, fmt.Errorf("description of the model: %w", err)
	}
	if n := len(d.ClassNames); n > 0 && n != d.Network.Classes() {
		return d, fmt.Errorf("description of the model: it names %s, and the network has %d", plural.N(n, "class"), d.Network.Classes())
	}
	if _, err := d.Function(probe{}); err != nil {
		return d, fmt.Errorf("description of the model: %w", err)
	}
	return d, nil
}

// firstNetwork is the network of a file of format 1.
type firstNetwork struct{ network.Config }

func (n *firstNetwork) UnmarshalJSON(data []byte) error { return n.UnmarshalFirst(data) }

// strictly decodes JSON without fields that nobody knows.
func strictly(text string, into any) error {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return misread(err)
	}
	return nil
}

// misread says what is wrong with a description's JSON without the names of Go's types.
func misread(err error) error {
	var mistyped *json.UnmarshalTypeError
	if !errors.As(err, &mistyped) {
		return fmt.Errorf("description of the model: %w", quote.Error(err))
	}
	where := "it"
	if mistyped.Field != "" {
		where = mistyped.Field
	}
	return fmt.Errorf("description of the model: %s is a JSON %s, which does not belong there", quote.Text(where), quote.Text(mistyped.Value))
}

// probe stands for the network while a description is checked.
type probe struct{ models.Network }

// File is a model's network as it was read from a file. It owns its weights.
type File struct {
	Network     network.Network
	Description Description
	Path        string // the file it was read from

	function any // see Description.Function
}

// Shape returns the shape of what the model draws, [C, H, W] for images.
func (f *File) Shape() []int {
	return f.Description.Network.Shape()
}

// Function returns what the network is turned into, which shares its weights: see Description.Function.
func (f *File) Function() any { return f.function }

// Close frees the weights.
func (f *File) Close() { f.Network.Close() }

// ReadDescription reads what a model file, or the latest snapshot of a run directory, says of its model, and none of the weights.
func ReadDescription(path string) (Description, error) {
	path, err := Find(path)
	if err != nil {
		return Description{}, err
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return Description{}, err
	}
	d, err := ParseDescription(f.Metadata())
	if err != nil {
		err = fmt.Errorf("model %s: %w", quote.Path(path), err)
	}
	return d, errors.Join(err, f.Close())
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

// Open reads a consistency function from a model file, or from the latest snapshot of a run directory, onto dev.
func Open(path string, dev torch.Device) (*Model, error) {
	f, err := OpenFile(path, dev)
	if err != nil {
		return nil, err
	}
	return asModel(f)
}

// OpenTeacher reads a denoiser as Open reads a consistency function.
func OpenTeacher(path string, dev torch.Device) (*Teacher, error) {
	f, err := OpenFile(path, dev)
	if err != nil {
		return nil, err
	}
	if d, ok := f.function.(models.Denoiser); ok {
		return &Teacher{d, f}, nil
	}
	f.Close()
	return nil, fmt.Errorf("model %s: want a denoiser, such as one trained with the method edm, and the file holds a %s model", quote.Path(f.Path), quote.Text(f.Description.Kind))
}

func asModel(f *File) (*Model, error) {
	if c, ok := f.function.(models.ConsistencyFunction); ok {
		return &Model{c, f}, nil
	}
	f.Close()
	return nil, fmt.Errorf("model %s: want a consistency function, and the file holds a %s: sample from it with a sampler, or distil it", quote.Path(f.Path), quote.Text(f.Description.Kind))
}

// OpenFile reads any model. Its Description says of what kind it is.
func OpenFile(path string, dev torch.Device) (*File, error) {
	path, err := Find(path)
	if err != nil {
		return nil, err
	}
	w, err := torch.OpenWeights(path)
	if err != nil {
		return nil, err
	}
	defer w.Close() // the weights were copied: nothing is a view of the file any more
	return read(w.File(), path, dev, func(s *torch.Scope) (iter.Seq2[string, *torch.Tensor], error) { return w.All(s), nil })
}

// Read reads a consistency function from a model file that is in memory; name stands for its path in errors.
func Read(name string, data []byte, dev torch.Device) (*Model, error) {
	f, err := safetensors.Parse(name, data)
	if err != nil {
		return nil, err
	}
	m, err := read(f, name, dev, func(s *torch.Scope) (iter.Seq2[string, *torch.Tensor], error) { return torch.FromFile(s, f) })
	if err != nil {
		return nil, err
	}
	return asModel(m)
}

// ErrNoSnapshot is what directories without a model are refused with.
var ErrNoSnapshot = errors.New("the folder has no snapshot (model-STEP.safetensors)")

// Find returns the file that Open would read: path itself, or the latest of the files model-STEP.safetensors in it.
func Find(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("model %s: there is no such file or folder", quote.Path(path))
	}
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	if !info.IsDir() {
		return path, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", fmt.Errorf("model: %w", err)
	}
	latest, name := -1, ""
	for _, e := range entries {
		digits, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".safetensors"), "model-")
		if step, err := strconv.Atoi(digits); ok && err == nil && strings.HasSuffix(e.Name(), ".safetensors") && step > latest {
			latest, name = step, e.Name()
		}
	}
	if latest < 0 {
		return "", fmt.Errorf("model %s: %w", quote.Path(path), ErrNoSnapshot)
	}
	return filepath.Join(path, name), nil
}

// read builds the model that f describes, with the weights that open yields.
func read(f *safetensors.File, path string, dev torch.Device, open func(s *torch.Scope) (iter.Seq2[string, *torch.Tensor], error)) (*File, error) {
	fail := func(err error) (*File, error) { return nil, fmt.Errorf("model %s: %w", quote.Path(path), err) }
	d, err := ParseDescription(f.Metadata())
	if err != nil {
		return fail(err)
	}
	// A description that asks for more weights than the file has must not make us allocate them.
	elements := 0
	for t := range f.Tensors() {
		elements += len(t.Data) * 8 / t.DType.Bits()
	}
	if n := d.Network.Count(); n > elements {
		return fail(fmt.Errorf("it describes a network of %d weights and holds %d", n, elements))
	}
	net, err := network.New(d.Network, dev, torch.Float32, 0)
	if err != nil {
		return fail(err)
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		weights, err := open(s)
		if err != nil {
			return err
		}
		return net.Load(weights)
	})
	if err != nil {
		net.Close()
		return fail(err)
	}
	err = torch.Run(dev, func(s *torch.Scope) error {
		var all []*torch.Tensor
		for _, w := range net.Tensors() {
			all = append(all, w)
		}
		if n := torch.CountNonFinite(s, all); n > 0 {
			return fmt.Errorf("%d of its weights are not finite: its training diverged, or the file is damaged", n)
		}
		return nil
	})
	if err != nil {
		net.Close()
		return fail(err)
	}
	net.Store().SetRequiresGrad(false)
	fn, err := d.Function(net)
	if err != nil {
		net.Close()
		return fail(err)
	}
	return &File{net, d, path, fn}, nil
}

// SaveOptions say how a model file is written.
type SaveOptions struct {
	DType     torch.DType // of the weights: Float32 keeps them; Float16 halves the file and costs about 1e-3 of relative precision
	Overwrite bool        // allows replacing a file; otherwise one that exists is an error that wraps fs.ErrExist
}

// Save writes a model file atomically, with the weights in the given order.
func Save(path string, d Description, weights iter.Seq2[string, *torch.Tensor], o SaveOptions) error {
	metadata, err := d.Metadata()
	if err != nil {
		return err
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	return torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) {
		for name, w := range weights {
			if !yield(name, w.Detach(s).To(s, o.DType)) {
				return
			}
		}
	}, torch.SaveOptions{Metadata: metadata, Overwrite: o.Overwrite})
}
