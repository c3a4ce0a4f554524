package job

import (
	"errors"
	"slices"
	"unicode/utf8"
)

// Paths are bytes and JSON is Unicode: bytes that are not UTF-8 would be lost in an image's settings. Such paths are also stored as raw
// bytes, in base64.

// pathSettings lists the settings that are paths, begin with one, or contain file names, by their JSON names.
func (o *Generate) pathSettings() map[string][]*string {
	all := map[string][]*string{
		"model": {&o.Model}, "model_config": {&o.Config}, "unet": {&o.UNet}, "text_encoder": {&o.TextEncoder}, "text_encoder_2": {&o.TextEncoder2},
		"vae": {&o.VAE}, "tiny_vae": {&o.TinyVAE}, "init_image": {&o.Init}, "mask": {&o.Mask}, "lora_dir": {&o.LoRADir}, "embedding_dir": {&o.EmbeddingDir},
	}
	for name, list := range map[string]*[]string{
		"control_model": &o.ControlModels, "control_image": &o.ControlImages, "lora": &o.LoRAs, "embedding": &o.Embeddings,
		"lora_hashes": &o.LoRAHashes, "embedding_hashes": &o.EmbeddingHashes, "part_hashes": &o.PartHashes,
	} {
		*list = slices.Clone(*list) // a copy: it is changed below
		for i := range *list {
			all[name] = append(all[name], &(*list)[i])
		}
	}
	return all
}

// keepPaths stores the paths that JSON would change in RawPaths.
func (o *Generate) keepPaths() {
	o.RawPaths = nil
	for name, values := range o.pathSettings() {
		if !slices.ContainsFunc(values, func(v *string) bool { return !utf8.ValidString(*v) }) {
			continue
		}
		if o.RawPaths == nil {
			o.RawPaths = map[string][][]byte{}
		}
		for _, v := range values {
			o.RawPaths[name] = append(o.RawPaths[name], []byte(*v))
		}
	}
}

// takePaths restores the paths that keepPaths stored.
func (o *Generate) takePaths() error {
	all := o.pathSettings()
	for name, raw := range o.RawPaths {
		if len(raw) == 0 || len(all[name]) != len(raw) {
			return errors.New("raw_paths: want as many paths as the setting of that name has")
		}
		for i, v := range all[name] {
			if string([]rune(string(raw[i]))) != *v { // as JSON stores it
				return errors.New("raw_paths: " + name + ": want the path that the settings have")
			}
			*v = string(raw[i])
		}
	}
	o.RawPaths = nil
	return nil
}
