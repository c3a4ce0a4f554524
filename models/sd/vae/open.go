package vae

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// OpenTiny opens a tiny autoencoder: a folder of diffusers' (config.json and diffusion_pytorch_model.safetensors), a single safetensors
// file with both halves, or one of the two that its author publishes, NAME_encoder and NAME_decoder, of which the other lies beside it.
func OpenTiny(path string, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	var f weightFiles
	t, err := f.open(path, dev, dtype)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	t.files = f
	return t, nil
}

// weightFiles are the files that weights are views of.
type weightFiles []*torch.Weights

func (f weightFiles) Close() error {
	var err error
	for _, w := range f {
		err = errors.Join(err, w.Close())
	}
	return err
}

func (f *weightFiles) open(path string, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := pair(path)
	if st.IsDir() {
		names = []string{filepath.Join(path, "diffusion_pytorch_model.safetensors")}
	}
	var all []nn.Source
	for _, name := range names {
		w, err := torch.OpenWeights(name)
		if err != nil {
			return nil, err
		}
		*f = append(*f, w)
		all = append(all, w)
	}
	c, src, err := describe(path, st.IsDir(), all)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t, err := TinyFrom(c, src, dev, dtype)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// describe returns the configuration of what was found at path, and its tensors under diffusers' names.
func describe(path string, folder bool, files []nn.Source) (TinyConfig, nn.Source, error) {
	if !folder {
		return OriginalTiny(files...)
	}
	data, err := os.ReadFile(filepath.Join(path, "config.json"))
	if err != nil {
		return TinyConfig{}, nil, err
	}
	c, err := ParseTinyConfig(data)
	return c, files[0], err
}

// pair returns the names of encoder and decoder if path is one of them, else path.
func pair(path string) []string {
	dir, name := filepath.Split(path)
	for _, half := range []string{"encoder", "decoder"} {
		if i := strings.LastIndex(name, half); i >= 0 {
			before, after := dir+name[:i], name[i+len(half):]
			return []string{before + "encoder" + after, before + "decoder" + after}
		}
	}
	return []string{path}
}

// OriginalTiny gives the tensors of published files, the author's encoder and decoder or a single one, diffusers' names, and returns the
// configuration that their shapes say: all of the family are TAESD but for the latents' channels and the pools. In single files, names
// begin with encoder.layers and decoder.layers, as diffusers and the author of TAEF2 write them, with encoder and decoder, or with
// taesd_encoder and taesd_decoder (ComfyUI).
func OriginalTiny(files ...nn.Source) (TinyConfig, nn.Source, error) {
	if len(files) != 1 && len(files) != 2 {
		return TinyConfig{}, nil, fmt.Errorf("want an encoder's and a decoder's file, or one with both, got %d files", len(files))
	}
	for _, l := range layouts[2-len(files):] {
		src, err := l.rename(files)
		if err != nil {
			return TinyConfig{}, nil, err
		}
		shape, _, ok := src.Info("decoder.layers.0.weight")
		if !ok || len(shape) != 4 {
			continue
		}
		_, _, pool := src.Info("decoder.layers.2.pool.0.weight")
		c := TinyConfig{LatentChannels: shape[1], Pool: pool}.WithDefaults()
		return c, src, c.Validate()
	}
	return TinyConfig{}, nil, errors.New("want the weights of a tiny autoencoder: the decoder's first convolution, 1.weight or " +
		"decoder.layers.0.weight, is not there or not of four dimensions")
}

// layout is how names of encoder and decoder begin in a file, and by how much the numbers of the decoder's layers are higher than
// diffusers': in the author's code it begins with a layer without weights.
type layout struct {
	prefix [2]string
	shift  [2]int
}

// layouts are those of two files and then those of one.
var layouts = []layout{
	{[2]string{"", ""}, [2]int{0, 1}},
	{halves, [2]int{0, 0}},
	{[2]string{"encoder.", "decoder."}, [2]int{0, 1}},
	{[2]string{"taesd_encoder.", "taesd_decoder."}, [2]int{0, 1}},
}

var halves = [2]string{"encoder.layers.", "decoder.layers."}

// comfy are numbers by which ComfyUI goes from its units of latents to the U-Net's, which are the ones here.
var comfy = []string{"vae_scale", "vae_shift"}

// rename returns the files' tensors by diffusers' names. What is no half's stays as it is, to be reported.
func (l layout) rename(files []nn.Source) (renamed, error) {
	src := renamed{at: map[string]place{}}
	for i, f := range files {
		for name := range f.Names() {
			if slices.Contains(comfy, name) {
				continue
			}
			ours := name
			for half := range halves {
				if v, ok := l.ours(half, name); ok && (len(files) == 1 || half == i) {
					ours = v
				}
			}
			if other, ok := src.at[ours]; ok {
				return src, fmt.Errorf("want one tensor for %s, got %.100q and %.100q", ours, other.name, name)
			}
			src.at[ours] = place{f, name}
			src.names = append(src.names, ours)
		}
	}
	return src, nil
}

// ours is diffusers' name of a tensor of encoder (0) or decoder (1), if it is one.
func (l layout) ours(half int, name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, l.prefix[half])
	number, tail, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return "", false
	}
	return halves[half] + strconv.Itoa(n-l.shift[half]) + "." + tail, true
}

// renamed is tensors under other names.
type renamed struct {
	names []string
	at    map[string]place
}

// place is where a tensor is.
type place struct {
	nn.Source
	name string
}

// Info implements nn.Source.
func (r renamed) Info(name string) ([]int, torch.DType, bool) {
	p, ok := r.at[name]
	if !ok {
		return nil, 0, false
	}
	return p.Source.Info(p.name)
}

// Names implements nn.Source.
func (r renamed) Names() iter.Seq[string] { return slices.Values(r.names) }

// Get implements nn.Source.
func (r renamed) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	p, ok := r.at[name]
	if !ok {
		return nil, fmt.Errorf("there is no tensor %.100q", name)
	}
	return p.Source.Get(s, p.name)
}

// Release implements nn.Source.
func (r renamed) Release(name string) {
	if p, ok := r.at[name]; ok {
		p.Source.Release(p.name)
	}
}
