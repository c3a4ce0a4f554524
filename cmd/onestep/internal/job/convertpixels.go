package job

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/unet/original"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// ownLayout is the layout of the files that onestep train writes.
const ownLayout = "onestep"

// Layouts lists the layouts of pixel-space models.
func Layouts() []string {
	all := []string{ownLayout}
	for _, c := range original.Codes() {
		all = append(all, string(c))
	}
	return all
}

// pixels converts a pixel-space model; is reports whether it is one.
func (o Convert) pixels(note func(string)) (_ Converted, is bool, err error) {
	d, notices, err := checkpoint.Inspect(o.Model)
	switch {
	case err == nil:
	case noPixels(err):
		if o.Layout != "" {
			return Converted{}, false, usage("--layout: only pixel-space models have layouts, and %s is not one", quote.Path(o.Model))
		}
		return Converted{}, false, nil
	default:
		return Converted{}, false, err
	}
	for _, flag := range []struct {
		name  string
		given bool
	}{
		{"--variant", o.Variant != ""}, {"--mixed-variant", o.Mixed}, {"--model-config", o.Config != ""}, {"--prediction", o.Prediction != ""}, {"--ema", o.EMA},
		{"--unet", o.Parts.UNet != ""}, {"--text-encoder", o.Parts.Text != ""}, {"--text-encoder-2", o.Parts.Text2 != ""}, {"--vae", o.Parts.VAE != ""},
		{"--out-variant", o.OutVariant != ""}, {"--unchecked", o.Unchecked},
	} {
		if flag.given {
			return Converted{}, true, usage("%s: only Stable Diffusion has it, and %s is a pixel-space model: leave it out", flag.name, quote.Path(o.Model))
		}
	}
	folder := !strings.EqualFold(filepath.Ext(o.Out), ".safetensors")
	_, err = checkpoint.Find(o.Model)
	ofDiffusers := errors.Is(err, checkpoint.ErrNoSnapshot)
	layout := o.Layout
	switch {
	case folder && layout != "":
		return Converted{}, true, usage("--layout: a directory, %s, gets the layout of diffusers: leave it out, or pass --out FILE.safetensors", quote.Path(o.Out))
	case folder:
	case layout == "" && d.Layout == "" && !ofDiffusers && o.DType == "":
		return Converted{}, true, usage("--layout is missing: %s has onestep's own layout; want %s, or --dtype for another type, or --out DIR for a diffusers directory", quote.Path(o.Model), strings.Join(Layouts()[1:], ", "))
	case layout == "":
		layout = ownLayout
	case !slices.Contains(Layouts(), layout):
		return Converted{}, true, usage("--layout: want %s, got %s", strings.Join(Layouts(), ", "), quote.Quoted(layout))
	}
	if d.Layout = original.Code(layout); layout == ownLayout || folder {
		d.Layout = ""
	} else if _, err := original.Of(d.Layout, d.Network.Net); err != nil {
		return Converted{}, true, usage("--layout %s: %s: %s", layout, quote.Path(o.Model), strings.TrimPrefix(err.Error(), "original: "))
	}
	f, err := checkpoint.OpenFile(o.Model, torch.CPU)
	if err != nil {
		return Converted{}, true, err
	}
	defer f.Close()
	for _, n := range notices {
		note(n)
	}
	if err := makeDirectories(o.Out); err != nil {
		return Converted{}, true, err
	}
	dtype, ok := training.DTypeNamed(o.DType)
	if !ok {
		dtype = f.DType
	}
	save := checkpoint.SaveOptions{DType: dtype, Overwrite: o.Overwrite}
	if folder {
		var notice string
		if notice, err = checkpoint.SaveFolder(filepath.Clean(o.Out), d, f.Network.Tensors(), save); err == nil && notice != "" {
			note(notice)
		}
	} else {
		err = checkpoint.Save(o.Out, d, f.Network.Tensors(), save)
	}
	return Converted{Path: o.Out, Kind: string(d.Kind) + " model", DType: o.DType, Ignored: []string{}}, true, err
}
