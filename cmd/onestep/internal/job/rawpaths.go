package job

import (
	"errors"
	"slices"
	"unicode/utf8"
)

// Paths are bytes, and JSON is Unicode: what a path has that is not UTF-8 would be lost in an image's settings. Such paths are kept beside
// the settings as bytes, which JSON has in base64.

// pathSettings are the settings that are paths, begin with one, or have names of files, by their names in JSON.
func (o *Generate) pathSettings() map[string][]*string {
	all := map[string][]*string{
		"model": {&o.Model}, "model_config": {&o.Config}, "unet": {&o.UNet}, "text_encoder": {&o.TextEncoder}, "text_encoder_2": {&o.TextEncoder2},
		"vae": {&o.VAE}, "tiny_vae": {&o.TinyVAE}, "init_image": {&o.Init}, "mask": {&o.Mask}, "lora_dir": {&o.LoRADir}, "embedding_dir": {&o.EmbeddingDir},
	}
	for name, list := range map[string]*[]string{
		"control_model": &o.ControlModels, "control_image": &o.ControlImages, "lora": &o.LoRAs, "embedding": &o.Embeddings,
		"lora_hashes": &o.LoRAHashes, "embedding_hashes": &o.EmbeddingHashes, "part_hashes": &o.PartHashes,
	} {
		*list = slices.Clone(*list) // what is set below is this list's alone
		for i := range *list {
			all[name] = append(all[name], &(*list)[i])
		}
	}
	return all
}

// keepPaths puts what JSON would lose into RawPaths.
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

// takePaths is the reverse of keepPaths.
func (o *Generate) takePaths() error {
	all := o.pathSettings()
	for name, raw := range o.RawPaths {
		if len(raw) == 0 || len(all[name]) != len(raw) {
			return errors.New("raw_paths: want as many paths of a name as the settings have of it")
		}
		for i, v := range all[name] {
			if string([]rune(string(raw[i]))) != *v { // as JSON has it
				return errors.New("raw_paths: " + name + ": it is not the path that the settings have")
			}
			*v = string(raw[i])
		}
	}
	o.RawPaths = nil
	return nil
}
