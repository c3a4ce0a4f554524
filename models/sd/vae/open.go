package vae

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// File is an open file of weights, such as [torch.Weights].
type File interface {
	nn.Source
	Close() error
}

// OpenTiny opens a tiny autoencoder: a diffusers directory (config.json and diffusion_pytorch_model.safetensors), a single safetensors file
// with encoder and decoder, one of the author's two files, NAME_encoder and NAME_decoder, with the other in the same directory, or a
// directory with those two. Without an encoder file, only decoding works.
func OpenTiny(path string, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	return OpenTinyBy(func(path string) (File, error) { return torch.OpenWeights(path) }, path, dev, dtype)
}

// OpenTinyBy is OpenTiny with another function to open files: that of sd.OpenTiny also reads files of torch.save.
func OpenTinyBy(open func(path string) (File, error), path string, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	var f files
	t, err := f.tiny(open, path, dev, dtype)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	t.files = f
	return t, nil
}

// files are the files that the weights are views of.
type files []File

func (f files) Close() error {
	var err error
	for _, w := range f {
		err = errors.Join(err, w.Close())
	}
	return err
}

func (f *files) tiny(open func(path string) (File, error), path string, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	names, config, err := find(path)
	if err != nil {
		return nil, err
	}
	var all []nn.Source
	for _, name := range names {
		w, err := open(name)
		if err != nil {
			return nil, err
		}
		*f = append(*f, w)
		all = append(all, w)
	}
	var t *Tiny
	switch {
	case config != nil:
		c, err := ParseTinyConfig(config)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
		}
		t, err = TinyFrom(c, all[0], dev, dtype)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
		}
	default:
		c, src, decoder, err := originalTiny(all)
		if err == nil && decoder {
			t, err = TinyDecoderFrom(c, src, dev, dtype)
		} else if err == nil {
			t, err = TinyFrom(c, src, dev, dtype)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
		}
	}
	return t, nil
}

// find returns the files of an autoencoder, and the directory's config.json if there is one.
func find(path string) (names []string, config []byte, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !st.IsDir() {
		return halvesOf(path), nil, nil
	}
	at := filepath.Join(path, "config.json")
	config, err = plainfile.Read(at, configjson.Most)
	if errors.Is(err, fs.ErrNotExist) {
		decoder, err := decoderIn(path)
		return halvesOf(decoder), nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	weights := filepath.Join(path, "diffusion_pytorch_model.safetensors")
	if older := strings.TrimSuffix(weights, ".safetensors") + ".bin"; !exists(weights) && exists(older) {
		weights = older
	}
	return []string{weights}, config, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// decoderIn finds the only decoder in a directory without a config.json. If it is there in several formats, safetensors is preferred.
func decoderIn(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	found := map[string]string{} // by name without extension
	for _, ext := range []string{".safetensors", ".pth", ".pt", ".bin"} {
		for _, e := range entries {
			stem, ok := strings.CutSuffix(e.Name(), ext)
			if ok && found[stem] == "" && strings.HasSuffix(stem, "decoder") {
				found[stem] = filepath.Join(dir, e.Name())
			}
		}
	}
	stems := slices.Sorted(maps.Keys(found))
	switch len(stems) {
	case 0:
		return "", fmt.Errorf("%s: want a tiny autoencoder: config.json and diffusion_pytorch_model.safetensors, or NAME_encoder and NAME_decoder such as "+
			"taesd_decoder.pth; the directory has neither", quote.Path(dir))
	case 1:
		return found[stems[0]], nil
	}
	return "", fmt.Errorf("%s: the directory has several tiny autoencoders (%s): pass the path of one file", quote.Path(dir), strings.Join(stems, ", "))
}

// halvesOf returns the paths of encoder and decoder if path is one of them and the other exists, else path.
func halvesOf(path string) []string {
	both := pair(path)
	if len(both) == 2 && path == both[1] && !exists(both[0]) {
		return []string{path}
	}
	return both
}

// pair returns the paths of encoder and decoder if path is one of them, else path.
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

// OriginalTiny renames the tensors of published files, the author's encoder and decoder or a single file, to diffusers' names, and infers
// the configuration from their shapes: the models of the family differ from TAESD only in latent channels and pooling. In single files,
// names begin with encoder.layers and decoder.layers (diffusers and the author of TAEF2), encoder and decoder, or taesd_encoder and
// taesd_decoder (ComfyUI).
func OriginalTiny(files ...nn.Source) (TinyConfig, nn.Source, error) {
	c, src, _, err := originalTiny(files)
	return c, src, err
}

// originalTiny also reports whether the file has only a decoder.
func originalTiny(files []nn.Source) (_ TinyConfig, _ nn.Source, decoder bool, err error) {
	if len(files) != 1 && len(files) != 2 {
		return TinyConfig{}, nil, false, fmt.Errorf("want an encoder file and a decoder file, or one file with both, got %d files", len(files))
	}
	all := layouts[2-len(files):]
	if len(files) == 1 && alone(files[0]) {
		files, decoder, all = []nn.Source{&nn.Renamed{}, files[0]}, true, layouts[:1]
	}
	for _, l := range all {
		src, err := l.rename(files)
		if err != nil {
			return TinyConfig{}, nil, false, err
		}
		shape, _, ok := src.Info("decoder.layers.0.weight")
		if !ok || len(shape) != 4 {
			continue
		}
		_, _, pool := src.Info("decoder.layers.2.pool.0.weight")
		c := TinyConfig{LatentChannels: shape[1], Pool: pool}.WithDefaults()
		return c, src, decoder, c.Validate()
	}
	return TinyConfig{}, nil, false, errors.New("want the weights of a tiny autoencoder: the decoder's first convolution, 1.weight or " +
		"decoder.layers.0.weight, is missing or does not have 4 dimensions")
}

// alone reports whether a file has only the author's decoder: its layers are numbered, and layer 0, which clamps the latents, has no
// weights.
func alone(file nn.Source) bool {
	_, _, first := file.Info("0.weight")
	_, _, second := file.Info("1.weight")
	return second && !first
}

// layout has the name prefixes of encoder and decoder in a file, and the offset of the decoder's layer numbers from diffusers': the
// author's decoder begins with a layer without weights.
type layout struct {
	prefix [2]string
	shift  [2]int
}

// layouts are the layout of two files and then those of one file.
var layouts = []layout{
	{[2]string{"", ""}, [2]int{0, 1}},
	{halves, [2]int{0, 0}},
	{[2]string{"encoder.", "decoder."}, [2]int{0, 1}},
	{[2]string{"taesd_encoder.", "taesd_decoder."}, [2]int{0, 1}},
}

var halves = [2]string{"encoder.layers.", "decoder.layers."}

// comfy are ComfyUI's factors between its latent scale and the U-Net's, which is the one used here.
var comfy = []string{"vae_scale", "vae_shift"}

// rename returns the files' tensors by diffusers' names. Tensors of neither encoder nor decoder keep their names, so that they are
// reported.
func (l layout) rename(files []nn.Source) (*nn.Renamed, error) {
	src := &nn.Renamed{}
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
			if other, ok := src.Add(ours, f, name); !ok {
				return src, fmt.Errorf("want one tensor for %s, got %s and %s", ours, quote.Quoted(other), quote.Quoted(name))
			}
		}
	}
	return src, nil
}

// ours returns diffusers' name of a tensor of the encoder (half 0) or decoder (half 1), if it is one.
func (l layout) ours(half int, name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, l.prefix[half])
	number, tail, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return "", false
	}
	return halves[half] + strconv.Itoa(n-l.shift[half]) + "." + tail, true
}
