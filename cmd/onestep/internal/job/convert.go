package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

// Convert are the options of writing a model of Stable Diffusion in another layout or type.
type Convert struct {
	Model, Variant, Config, Prediction string
	Out, DType, OutVariant             string
	Overwrite                          bool
}

// Converted is what was written.
type Converted struct {
	Path  string `json:"path"`
	Kind  string `json:"kind"`
	DType string `json:"dtype"` // "": as they were
}

// Run writes the model.
func (o Convert) Run() (Converted, error) { return o.run(nil) }

// run writes the model, after change, which returns what is to be done when it is written.
func (o Convert) run(change func(m *weights.Model, as *torch.DType) (func() error, error)) (_ Converted, err error) {
	single := strings.EqualFold(filepath.Ext(o.Out), ".safetensors")
	switch {
	case o.Model == "":
		return Converted{}, usage("--model is missing: a folder of diffusers' or a single file")
	case o.Out == "":
		return Converted{}, usage("--out is missing: FILE.safetensors for a single file, DIR for a folder of diffusers'")
	case !single && filepath.Ext(o.Out) != "" && filepath.Ext(strings.TrimSuffix(o.Out, "/")) == ".ckpt":
		return Converted{}, usage("--out: want FILE.safetensors or DIR, got %q", o.Out)
	case single && o.OutVariant != "":
		return Converted{}, usage("--out-variant: single files have none")
	}
	w := weights.WriteOptions{Overwrite: o.Overwrite, Variant: o.OutVariant, Tokenizer: func(dir string, second bool) error {
		t := prompt.Default()
		if second {
			t = t.WithPad(0)
		}
		return t.Save(dir)
	}}
	if o.DType != "" {
		d, ok := dtypes[o.DType]
		if !ok {
			return Converted{}, usage("--dtype: want %s, got %q", strings.Join(DTypes(), ", "), o.DType)
		}
		w.DType = &d
	}
	m, err := weights.Open(o.Model, weights.Options{Variant: o.Variant, Config: o.Config, Prediction: o.Prediction})
	if err != nil {
		return Converted{}, err
	}
	defer m.Close()
	if change != nil {
		var done func() error
		if done, err = change(m, w.DType); err != nil {
			return Converted{}, fmt.Errorf("%s: %w", o.Model, err)
		}
		defer func() { err = errors.Join(err, done()) }()
	}
	out := Converted{Path: o.Out, Kind: m.Kind.String(), DType: o.DType}
	if single {
		return out, weights.WriteSingle(o.Out, m, w)
	}
	return out, weights.WriteFolder(filepath.Clean(o.Out), m, w)
}

// Part is what a part of a model holds.
type Part struct {
	Name     string         `json:"name"`
	Tensors  int            `json:"tensors"`
	Elements int            `json:"elements"`
	DTypes   map[string]int `json:"dtypes"`
}

// Parts describes a model of Stable Diffusion or the folder of a part of one, whatever its layout.
func Parts(path, variant string) (kind string, parts []Part, err error) {
	o := weights.Options{Variant: variant}
	if _, err := os.Stat(filepath.Join(path, "config.json")); err == nil {
		c, err := weights.OpenComponent(path, o)
		if err != nil {
			return "", nil, err
		}
		defer c.Close()
		return "a part", []Part{part(filepath.Base(filepath.Clean(path)), c)}, nil
	}
	m, err := weights.Open(path, o)
	if err != nil {
		return "", nil, err
	}
	defer m.Close()
	for _, p := range []struct {
		name string
		c    *weights.Component
	}{{"unet", m.UNet}, {"vae", m.VAE}, {"text_encoder", m.Text}, {"text_encoder_2", m.Text2}, {"controlnet", m.ControlNet}} {
		if p.c != nil {
			parts = append(parts, part(p.name, p.c))
		}
	}
	return m.Kind.String(), parts, nil
}

// part counts what a part has.
func part(name string, c *weights.Component) Part {
	out := Part{Name: name, DTypes: map[string]int{}}
	for name := range c.Names() {
		shape, d, _ := c.Info(name)
		n := 1
		for _, v := range shape {
			n *= v
		}
		out.Tensors++
		out.Elements += n
		out.DTypes[short(d)]++
	}
	return out
}

// short is a type's name in options, or PyTorch's.
func short(d torch.DType) string {
	for name, v := range dtypes {
		if v == d {
			return name
		}
	}
	return d.String()
}
