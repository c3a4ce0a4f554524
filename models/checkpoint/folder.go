package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch/component"
	"github.com/onestep-go/onestep/torch/nn"
)

// Files of diffusers' directories.
const (
	modelIndex      = "model_index.json"
	configFile      = "config.json"
	schedulerFile   = "scheduler_config.json"
	netFolder       = "unet"
	schedulerFolder = "scheduler"
)

// folder is a model of diffusers in pixel space: the directory of a pipeline with a UNet2DModel, or of the network alone.
type folder struct {
	pipeline  string // the class in model_index.json; "": none
	net       string // the directory of the network
	config    []byte // its config.json
	scheduler []byte // scheduler_config.json; nil: none
	beside    string // the path of a scheduler outside of the directory; "": none
}

// folderAt finds the model of diffusers in a directory; nil if there is none, such as in the directory of a run or of a Stable Diffusion model.
func folderAt(dir string) (*folder, error) {
	f := &folder{net: filepath.Join(dir, netFolder)}
	index, err := readConfig(dir, modelIndex)
	if err != nil {
		return nil, err
	}
	if index != nil {
		if ours, err := f.index(index); err != nil || !ours {
			return nil, err
		}
	}
	if f.config, err = readConfig(f.net, configFile); err != nil {
		return nil, err
	}
	if f.config == nil { // the network at the root, as in google/ddpm-cifar10-32, or alone
		f.net = dir
		if f.config, err = readConfig(dir, configFile); err != nil {
			return nil, err
		}
	}
	switch class, err := classOf(f.config); {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", quote.Path(filepath.Join(f.net, configFile)), err)
	case f.config == nil && index != nil:
		return nil, fmt.Errorf("it has neither %s nor %s: the network's configuration is missing", quote.Path(filepath.Join(netFolder, configFile)), configFile)
	case class != network.DiffusersClass && index != nil: // which names a UNet2DModel
		return nil, fmt.Errorf("%s: its _class_name is %s, expected %s", quote.Path(filepath.Join(f.net, configFile)), quote.Quoted(class), network.DiffusersClass)
	case class != network.DiffusersClass:
		return nil, nil
	}
	for _, at := range []string{filepath.Join(dir, schedulerFolder), dir} {
		if f.scheduler == nil {
			if f.scheduler, err = readConfig(at, schedulerFile); err != nil {
				return nil, err
			}
		}
	}
	if f.scheduler == nil && index == nil && f.net == dir {
		if err := f.neighbour(dir); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// neighbour takes the scheduler of the pipeline whose network the directory has.
func (f *folder) neighbour(dir string) (err error) {
	abs, err := filepath.Abs(dir)
	if err != nil || filepath.Base(abs) != netFolder {
		return err
	}
	at := filepath.Join(filepath.Dir(abs), schedulerFolder)
	if f.scheduler, err = readConfig(at, schedulerFile); f.scheduler != nil {
		f.beside = filepath.Join(at, schedulerFile)
	}
	return err
}

// index reads a model_index.json; false for a pipeline without a UNet2DModel.
func (f *folder) index(data []byte) (bool, error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("%s: %w", modelIndex, err) }
	p, err := component.ParsePipeline(data)
	if err != nil {
		return fail(err)
	}
	if f.pipeline = p.Class; p.Classes["unet"] != network.DiffusersClass {
		return false, nil
	}
	for _, key := range slices.Sorted(maps.Keys(p.Classes)) {
		if key != "unet" && key != "scheduler" {
			return fail(fmt.Errorf("the pipeline %s has a %s (%s) beside its %s, which is not supported: want a pipeline in pixel space, of a network and a scheduler",
				quote.Text(f.pipeline), quote.Text(key), quote.Text(p.Classes[key]), network.DiffusersClass))
		}
	}
	return true, nil
}

// readConfig reads a configuration; nil if there is none.
func readConfig(dir, name string) ([]byte, error) {
	data, err := plainfile.Read(filepath.Join(dir, name), configjson.Most)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// classOf returns the class in a configuration; "" if there is none.
func classOf(config []byte) (string, error) {
	if config == nil {
		return "", nil
	}
	var c struct {
		Class any `json:"_class_name"`
	}
	if err := configjson.Unmarshal(config, &c); err != nil {
		return "", err
	}
	class, _ := c.Class.(string)
	return class, nil
}

// open opens the network's weights, and describes the model.
func (f *folder) open() (_ *imported, err error) {
	in := &imported{}
	if in.Network, err = network.FromDiffusers(f.config); err != nil {
		return nil, err
	}
	if in.Description, in.notices, err = f.describe(in.Network); err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	path, notice, err := f.weights()
	if err != nil {
		return nil, err
	}
	if notice != "" {
		in.notices = append(in.notices, notice)
	}
	w, err := component.Open(path)
	if err != nil {
		return nil, err
	}
	in.source, in.close = today(w), w.Close
	return in, nil
}

// weights returns the path of the network's weights: those without a variant, or of the only variant.
func (f *folder) weights() (path, notice string, err error) {
	path, err = component.Find(f.net, "")
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return path, "", err
	}
	if variants := component.Variants(f.net); len(variants) == 1 && variants[0] != "" {
		path, err = component.Find(f.net, variants[0])
		return path, fmt.Sprintf("the directory has weights of the variant %s only, which are used", quote.Text(variants[0])), err
	}
	return "", "", err
}

// files returns the paths of the files that the model is read from.
func (f *folder) files() ([]string, error) {
	path, _, err := f.weights()
	if err != nil {
		return nil, err
	}
	w, err := component.Open(path)
	if err != nil {
		return nil, err
	}
	all := append([]string{filepath.Join(f.net, configFile)}, component.Paths(path, w)...)
	return all, w.Close()
}

// oldNames are the names that old versions of diffusers gave to the layers of attention, and today's.
var oldNames = [][2]string{{".query.", ".to_q."}, {".key.", ".to_k."}, {".value.", ".to_v."}, {".proj_attn.", ".to_out.0."}}

// The fixed frequencies of a Fourier embedding, which old versions of diffusers call W, also beside today's name.
const oldFrequencies, frequencies = "time_proj.W", "time_proj.weight"

// today gives the tensors of a UNet2DModel today's names. A tensor whose new name is taken keeps its own, so that it is reported as unexpected.
func today(src nn.Source) *nn.Renamed {
	r := &nn.Renamed{}
	for name := range src.Names() {
		ours := name
		for _, old := range oldNames {
			if strings.Contains(name, "attentions.") {
				ours = strings.Replace(ours, old[0], old[1], 1)
			}
		}
		if name == oldFrequencies {
			if _, _, both := src.Info(frequencies); both {
				continue
			}
			ours = frequencies
		}
		if _, ok := r.Add(ours, src, name); !ok {
			r.Add(name+" (twice: "+ours+")", src, name)
		}
	}
	return r
}
