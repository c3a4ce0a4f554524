package checkpoint

import (
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet/original"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/component"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/saved"
)

// imported is a model in a file: its description, and its weights under the names of our network.
type imported struct {
	Description
	source    nn.Source
	notices   []string     // what was assumed, and what of the file is not used
	constants func() error // checks constants among the weights; nil: there are none
	close     func() error
}

// ErrCode is the error for files that contain Python code, which is never executed.
var ErrCode = errors.New("a Python pickle of a whole network, whose code is not executed: to get its weights, run scripts/edm_weights.py of this project " +
	"with a Python that has PyTorch and the network's repository on its path, as: python edm_weights.py FILE.pkl FILE.safetensors")

// isPickle reports whether a file is a pickle that torch.save of PyTorch before 1.6 did not write.
func isPickle(path string) (bool, error) {
	is, err := filetype.Read(path)
	if err != nil || is.ID != "pickle" {
		return false, err
	}
	return !saved.Named(path), nil
}

// importAt opens the model at a path: a file, the latest snapshot of a run directory, or a directory of diffusers. at is the path of the file
// or of that directory.
func importAt(path string) (in *imported, at string, err error) {
	at, err = Find(path)
	if errors.Is(err, ErrNoSnapshot) {
		in, err = importFolder(path, err)
		return in, path, err
	}
	if err != nil {
		return nil, "", err
	}
	in, err = importFile(at)
	if errors.Is(err, ErrNoDescription) {
		if f, ferr := folderAt(filepath.Dir(at)); ferr == nil && f != nil {
			err = fmt.Errorf("model %s: %w: use the directory, %s", quote.Path(at), ErrInFolder, quote.Path(filepath.Dir(at)))
		}
	}
	return in, at, err
}

// ErrInFolder is the error for the weights alone of a directory of diffusers.
var ErrInFolder = errors.New("the weights of a diffusers directory, without the configuration beside them")

// importFolder opens a directory of diffusers; none is the error for other directories.
func importFolder(dir string, none error) (*imported, error) {
	f, err := folderAt(dir)
	if f == nil && err == nil {
		return nil, none
	}
	var in *imported
	if err == nil {
		in, err = f.open()
	}
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", quote.Path(dir), err)
	}
	return in, nil
}

// Files returns the paths of the files that [OpenFile] reads a model from, which identify it: one, or several in a directory of diffusers.
func Files(path string) ([]string, error) {
	file, err := Find(path)
	if !errors.Is(err, ErrNoSnapshot) {
		return []string{file}, err
	}
	f, ferr := folderAt(path)
	if ferr != nil {
		return nil, fmt.Errorf("model %s: %w", quote.Path(path), ferr)
	}
	if f == nil {
		return nil, err
	}
	return f.files()
}

// importFile opens a model file, of this program or of another. The error wraps [ErrNoDescription] if the
// file's tensors are of no known model.
func importFile(path string) (_ *imported, err error) {
	if code, err := isPickle(path); err != nil || code {
		if err == nil {
			err = fmt.Errorf("model %s: %w", quote.Path(path), ErrCode)
		}
		return nil, err
	}
	var f component.File
	var metadata map[string]string
	var notices []string
	if saved.Named(path) {
		a, err := OpenSaved(path)
		if err != nil {
			return nil, err
		}
		f, notices = a, emaNotices(path, a)
	} else {
		w, err := torch.OpenWeights(path)
		if err != nil {
			return nil, err
		}
		f, metadata = w, w.File().Metadata()
	}
	in, err := importFrom(path, f, metadata)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("model %s: %w", quote.Path(path), err), f.Close())
	}
	in.notices, in.close = append(in.notices, notices...), f.Close
	return in, nil
}

// importFrom finds out which model the weights of a file are.
func importFrom(path string, src nn.Source, metadata map[string]string) (*imported, error) {
	if _, ok := metadata[metadataKey]; ok {
		d, err := ParseDescription(metadata)
		if err != nil {
			return nil, err
		}
		in := &imported{Description: d, source: src}
		if d.Layout != "" {
			l, err := original.Of(d.Layout, d.Network.Net)
			if err != nil {
				return nil, err
			}
			if err := l.Fits(src); err != nil {
				return nil, err
			}
			in.source, in.constants = l.Ours(src), func() error { return l.Check(src) }
		}
		return in, nil
	}
	code, ok, err := original.Recognize(src)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, ErrNoDescription
	}
	s, beside, err := settingsBeside(path)
	if err != nil {
		return nil, err
	}
	if err := s.fromEDM(metadata); err != nil {
		return nil, err
	}
	l, assumed, err := original.Infer(src, code, s.layout())
	if err != nil {
		if setting := original.Unknown(err); setting != "" {
			err = fmt.Errorf(`%w: write {"%s": N} into %s`, err, setting, quote.Path(beside)) //quote: our own names
		}
		return nil, err
	}
	d, more, err := s.describe(path, l)
	if err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	in := &imported{Description: d, source: l.Ours(src), constants: func() error { return l.Check(src) }}
	if assumed = append(assumed, more...); len(assumed) > 0 {
		in.notices = append(in.notices, fmt.Sprintf("weights of %s; not in the file, taken from the published models: %s; for another model, write its values into %s",
			code.Name(), strings.Join(assumed, ", "), quote.Path(beside)))
	}
	return in, nil
}

// netOf is the network of a layout.
func netOf(l original.Layout) network.Config { return network.Config{Net: l.Config} }

// emaKeys are the keys of EMA weights in training checkpoints, which are preferred over the weights themselves.
var emaKeys = []string{"ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema"}

// OpenSaved opens a file of torch.save for the weights that [OpenFile] reads: of several dictionaries of tensors, the EMA weights.
func OpenSaved(path string) (*saved.File, error) { return saved.Open(path, emaKeys...) }

// emaNotices says which of several sets of weights a file has, and whether EMA weights lie beside a file without them.
func emaNotices(path string, a *saved.File) (notes []string) {
	if a.Key() != "" {
		notes = append(notes, fmt.Sprintf("the EMA weights of the file (%s) are used, not those of %s", quote.Text(a.Key()), strings.Join(quote.Texts(a.Others()), ", ")))
	}
	// openai's training writes model001000.pt, ema_0.9999_001000.pt and opt001000.pt.
	name := filepath.Base(path)
	step, ok := strings.CutPrefix(strings.TrimSuffix(name, filepath.Ext(name)), "model")
	if !ok || step == "" || strings.Trim(step, "0123456789") != "" {
		return notes
	}
	beside, err := filepath.Glob(filepath.Join(quoteGlob(filepath.Dir(path)), "ema_*_"+step+".pt"))
	if err == nil && len(beside) > 0 {
		notes = append(notes, fmt.Sprintf("these are not the EMA weights, which usually give better images: %s lies beside them", quote.Path(filepath.Base(beside[len(beside)-1]))))
	}
	return notes
}

// quoteGlob escapes a path for filepath.Glob.
func quoteGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// held is tensors in memory as a source.
type held struct {
	names []string
	by    map[string]*torch.Tensor
}

func hold(tensors iter.Seq2[string, *torch.Tensor]) held {
	h := held{by: map[string]*torch.Tensor{}}
	for name, t := range tensors {
		h.names, h.by[name] = append(h.names, name), t
	}
	return h
}

// Names implements nn.Source.
func (h held) Names() iter.Seq[string] { return slices.Values(h.names) }

// Info implements nn.Source.
func (h held) Info(name string) ([]int, torch.DType, bool) {
	t, ok := h.by[name]
	if !ok {
		return nil, 0, false
	}
	return t.Shape(), t.DType(), true
}

// Get implements nn.Source.
func (h held) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	return h.by[name].Detach(s), nil
}

// Release implements nn.Source.
func (h held) Release(string) {}

// laidOut yields a network's weights under the names and shapes of d's layout, as float32 on the CPU, in s.
func laidOut(s *torch.Scope, d Description, weights iter.Seq2[string, *torch.Tensor]) (iter.Seq2[string, *torch.Tensor], error) {
	l, err := original.Of(d.Layout, d.Network.Net)
	if err != nil {
		return nil, err
	}
	given := hold(weights)
	if err := nn.Fits(given, l.Config.Shapes()); err != nil {
		return nil, err
	}
	for name, t := range given.by {
		given.by[name] = t.Detach(s).ToDevice(s, torch.CPU)
	}
	theirs := l.Theirs(given)
	var all []*torch.Tensor
	for name := range theirs.Names() {
		t, err := theirs.Get(s, name)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return func(yield func(string, *torch.Tensor) bool) {
		i := 0
		for name := range theirs.Names() {
			if !yield(name, all[i]) {
				return
			}
			i++
		}
	}, nil
}
