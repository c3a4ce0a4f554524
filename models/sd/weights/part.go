package weights

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/models/sd/vae"
)

// Part describes a path that has a single component, or an add-on, instead of a complete model.
type Part struct {
	Name string // "unet", "vae", "text_encoder", "controlnet", "tiny_vae", "lora" or "embedding"; "": unknown
	Path string // of the component: a subdirectory if the path has a model's layout with only this component
	Kind Kind   // of a U-Net, its model family
}

var partNames = map[Kind]string{VAE: "vae", TextModel: "text_encoder", ControlNet: "controlnet", TAESD: "tiny_vae", LoRA: "lora", Inversion: "embedding"}

// PartAt identifies the component or add-on at a path by configurations, names and shapes. For a complete model, Name is "".
func PartAt(path string) Part {
	st, err := os.Stat(path)
	if err != nil {
		return Part{}
	}
	if !st.IsDir() {
		return partIn(path)
	}
	if _, err := os.Stat(filepath.Join(path, "model_index.json")); err == nil {
		return Part{}
	}
	config, err := readConfig(filepath.Join(path, "config.json"))
	switch {
	case err == nil:
		return partOf(path, config)
	case !errors.Is(err, fs.ErrNotExist):
		return Part{}
	}
	var only Part
	for _, p := range slots {
		dir := filepath.Join(path, p.name)
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			continue
		}
		if only.Name != "" {
			return Part{}
		}
		only = Part{Name: p.name, Path: dir}
		if config, err := readConfig(filepath.Join(dir, "config.json")); err == nil && p.name == "unet" {
			only.Kind = KindOf(config)
		}
	}
	if only.Name != "" {
		return only
	}
	if p := partIn(path); p.Name != "" {
		return p
	}
	if file, _, err := anyWeights(path, ""); err == nil {
		p := partIn(file)
		p.Path = path
		return p
	}
	return Part{}
}

// partOf identifies a component by its config.json.
func partOf(path string, config []byte) Part {
	var c struct {
		Class         string   `json:"_class_name"`
		Architectures []string `json:"architectures"`
	}
	if json.Unmarshal(config, &c) != nil {
		return Part{}
	}
	for _, class := range append(c.Architectures, c.Class) {
		switch class {
		case unetClass:
			return Part{"unet", path, KindOf(config)}
		case vaeClass:
			return Part{"vae", path, VAE}
		case controlNetClass:
			return Part{"controlnet", path, ControlNet}
		case vae.TinyClass, vae.PoolClass:
			return Part{"tiny_vae", path, TAESD}
		case textClass, projectedClass:
			return Part{"text_encoder", path, TextModel}
		}
	}
	return Part{}
}

// partIn identifies the component in a file.
func partIn(path string) Part {
	w, err := openWeights(path)
	if err != nil {
		return Part{}
	}
	defer w.Close()
	l, err := sniff(w)
	switch {
	case err != nil:
		return Part{}
	case partNames[l.kind] != "":
		return Part{partNames[l.kind], path, l.kind}
	case l.unet != nil && l.vae == nil && l.texts == nil && l.kind != Refiner:
		return Part{"unet", path, l.kind}
	}
	return Part{}
}
