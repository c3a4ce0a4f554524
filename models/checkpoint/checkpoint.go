// Package checkpoint reads and writes files that hold a whole model: the weights and, in the file's metadata, what is needed
// to build the network again. One safetensors file is enough to sample from.
package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// metadataKey is where a file's metadata holds its Description, as JSON.
const metadataKey = "onestep"

// format is the version of Description that this package writes.
const format = 1

// Kind is what a file's network is turned into.
type Kind string

// The kinds of models.
const (
	Consistency Kind = "consistency" // models.Consistency
	Denoiser    Kind = "denoiser"    // models.EDM
)

// Description is what a file says of its model.
type Description struct {
	Format    int         `json:"format"`             // version of this description; Save sets it
	Kind      Kind        `json:"kind"`               // what the network is turned into
	Network   unet.Config `json:"network"`            // the U-Net F_θ
	Boundary  string      `json:"boundary,omitempty"` // of a consistency function, where it is the identity: "sigma_min" or "zero"
	Noise     string      `json:"noise"`              // "ln(t)/4" or "250 ln(t)": the noise label's form
	SigmaData float64     `json:"sigma_data"`
	SigmaMin  float64     `json:"sigma_min"`
	SigmaMax  float64     `json:"sigma_max"` // the noise level that sampling starts from

	Method     string   `json:"method,omitempty"`      // how it was trained, such as "ct"
	Data       string   `json:"data,omitempty"`        // what on
	ClassNames []string `json:"class_names,omitempty"` // of a conditional model, in the labels' order
	Step       int      `json:"step,omitempty"`        // optimizer steps
	Images     int64    `json:"images,omitempty"`      // images seen in training
	Command    string   `json:"command,omitempty"`     // the command that made it
}

// Describe fills in a Description for a *models.Consistency or a *models.EDM over a U-Net.
func Describe(f any, network unet.Config) (Description, error) {
	d := Description{Format: format, Network: network, SigmaMax: 80}
	var noise models.NoiseEmbedding
	switch f := f.(type) {
	case *models.Consistency:
		d.Kind, d.Boundary = Consistency, "sigma_min"
		if f.Boundary == models.AtZero {
			d.Boundary = "zero"
		}
		d.SigmaData, d.SigmaMin, noise = f.SigmaData, f.SigmaMinimum(), f.Noise
	case *models.EDM:
		d.Kind, d.SigmaData, d.SigmaMin, noise = Denoiser, f.SigmaData, 0.002, f.Noise
	default:
		return d, fmt.Errorf("describe model: want a *models.Consistency or a *models.EDM, got %T", f)
	}
	if d.SigmaData == 0 {
		d.SigmaData = 0.5
	}
	d.Noise = "ln(t)/4"
	if noise == models.ScaledLog {
		d.Noise = "250 ln(t)"
	}
	return d, nil
}

// function returns what the description asks for over that network: a *models.Consistency or a *models.EDM.
func (d Description) function(net models.Network) (any, error) {
	noise := models.QuarterLog
	switch d.Noise {
	case "ln(t)/4":
	case "250 ln(t)":
		noise = models.ScaledLog
	default:
		return nil, fmt.Errorf("noise: want \"ln(t)/4\" or \"250 ln(t)\", got %q", d.Noise)
	}
	if !(d.SigmaData >= 1e-6 && d.SigmaData <= 1e6 && d.SigmaMin > 0 && d.SigmaMin < d.SigmaMax && d.SigmaMax < 1e6) {
		return nil, fmt.Errorf("noise levels: want sigma_data from 1e-6 to 1e6 and 0 < sigma_min < sigma_max < 1e6, got %g, %g and %g", d.SigmaData, d.SigmaMin, d.SigmaMax)
	}
	switch {
	case d.Kind == Denoiser:
		return &models.EDM{Net: net, Noise: noise, SigmaData: d.SigmaData}, nil
	case d.Kind != Consistency:
		return nil, fmt.Errorf("kind: want %q or %q, got %q", Consistency, Denoiser, d.Kind)
	case d.Boundary == "sigma_min":
		return &models.Consistency{Net: net, Boundary: models.AtSigmaMin, Noise: noise, SigmaData: d.SigmaData, SigmaMin: d.SigmaMin}, nil
	case d.Boundary == "zero":
		return &models.Consistency{Net: net, Boundary: models.AtZero, Noise: noise, SigmaData: d.SigmaData, SigmaMin: d.SigmaMin}, nil
	}
	return nil, fmt.Errorf("boundary: want \"sigma_min\" or \"zero\", got %q", d.Boundary)
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
var ErrNoDescription = errors.New("the file does not say what network its weights are for: it was not written by onestep")

// ReadDescription takes the description out of a file's metadata.
func ReadDescription(metadata map[string]string) (Description, error) {
	text, ok := metadata[metadataKey]
	if !ok {
		return Description{}, ErrNoDescription
	}
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal([]byte(text), &head); err != nil {
		return Description{}, fmt.Errorf("description of the model: %w", err)
	}
	if head.Format != format {
		return Description{}, fmt.Errorf("description of the model: it has format %d, this version reads format %d", head.Format, format)
	}
	var d Description
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Description{}, fmt.Errorf("description of the model: %w", err)
	}
	if n := len(d.ClassNames); n > 0 && n != d.Network.Classes {
		return Description{}, fmt.Errorf("description of the model: it names %d classes, and the network has %d", n, d.Network.Classes)
	}
	d.Network = d.Network.WithDefaults()
	if err := d.Network.Validate(); err != nil {
		return Description{}, fmt.Errorf("description of the model: %w", err)
	}
	if _, err := d.function(nil); err != nil {
		return Description{}, fmt.Errorf("description of the model: %w", err)
	}
	return d, nil
}

// File is a model's network as it was read from a file. It owns its weights.
type File struct {
	Network     *unet.UNet
	Description Description
	Path        string // the file it was read from

	function any // see Description.function
}

// Shape returns the shape of the model's images, [C, H, W].
func (f *File) Shape() []int {
	c := f.Description.Network
	return []int{c.InChannels, c.Resolution, c.Resolution}
}

// Function returns what the network is turned into: a *models.Consistency or a *models.EDM, which share its weights.
func (f *File) Function() any { return f.function }

// Close frees the weights.
func (f *File) Close() { f.Network.Close() }

// Describes reads what a model file, or the latest snapshot of a run directory, says of its model, and none of the weights.
func Describes(path string) (Description, error) {
	path, err := Find(path)
	if err != nil {
		return Description{}, err
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return Description{}, err
	}
	d, err := ReadDescription(f.Metadata())
	if err != nil {
		err = fmt.Errorf("model %s: %w", path, err)
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
	return nil, fmt.Errorf("model %s: want a denoiser, such as one trained with the method edm, and the file holds a %s model", f.Path, f.Description.Kind)
}

func asModel(f *File) (*Model, error) {
	if c, ok := f.function.(models.ConsistencyFunction); ok {
		return &Model{c, f}, nil
	}
	f.Close()
	return nil, fmt.Errorf("model %s: want a consistency function, and the file holds a %s: sample from it with a sampler, or distil it", f.Path, f.Description.Kind)
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

// Find returns the file that Open would read: path itself, or the latest of the files model-STEP.safetensors in it.
func Find(path string) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("model %s: there is no such file or folder", path)
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
		return "", fmt.Errorf("model %s: the folder has no snapshot (model-STEP.safetensors)", path)
	}
	return filepath.Join(path, name), nil
}

// read builds the model that f describes, with the weights that open yields.
func read(f *safetensors.File, path string, dev torch.Device, open func(s *torch.Scope) (iter.Seq2[string, *torch.Tensor], error)) (*File, error) {
	fail := func(err error) (*File, error) { return nil, fmt.Errorf("model %s: %w", path, err) }
	d, err := ReadDescription(f.Metadata())
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
	net, err := unet.New(d.Network, dev, 0)
	if err != nil {
		return fail(err)
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		weights, err := open(s)
		if err != nil {
			return err
		}
		if err := net.Load(weights); err != nil {
			return err
		}
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
	fn, err := d.function(net)
	if err != nil {
		net.Close()
		return fail(err)
	}
	return &File{net, d, path, fn}, nil
}

// Save writes a model file atomically: weights in the given order, converted to dtype (Float32 keeps them; Float16 halves
// the file and costs about 1e-3 of relative precision).
func Save(path string, d Description, weights iter.Seq2[string, *torch.Tensor], dtype torch.DType, overwrite bool) error {
	metadata, err := d.Metadata()
	if err != nil {
		return err
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	return torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) {
		for name, w := range weights {
			if !yield(name, w.Detach(s).To(s, dtype)) {
				return
			}
		}
	}, metadata, overwrite)
}
