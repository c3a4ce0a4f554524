package component

import (
	"errors"
	"io/fs"
	"os"
	"regexp"
	"slices"
)

// VariantError reports a directory without weights of the requested variant, or with weights that have only variants. It wraps
// [fs.ErrNotExist].
type VariantError struct {
	Path    string   // the directory of the model or component
	Variant string   // the requested one; "": no variant
	Found   []string // variants that all of the components have; "": weights without a variant
	Some    bool     // whether other components have the requested variant
	err     error
}

// Error names the directories and their files.
func (e *VariantError) Error() string { return e.err.Error() }

// Unwrap returns the errors of the components.
func (e *VariantError) Unwrap() error { return e.err }

// weightsName matches the names of weights files and of their indexes: stem.VARIANT.safetensors, stem.VARIANT-00001-of-00002.safetensors,
// stem.safetensors.index.VARIANT.json and stem.VARIANT.safetensors.index.json.
var weightsName = regexp.MustCompile(`^(?:diffusion_pytorch_model|model|pytorch_model)(?:\.([^.]+?))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)(?:\.index(?:\.([^.]+))?\.json)?$`)

// Variants lists the variants of the weights in a directory, sorted; "" stands for weights without a variant.
func Variants(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		if m := weightsName.FindStringSubmatch(e.Name()); m != nil {
			found = append(found, m[1]+m[2])
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// WithVariants adds to the error of weights that are missing in directories the variants that all of them have. path is the model's directory;
// some is whether other components have the requested variant.
func WithVariants(path, variant string, some bool, err error, dirs ...string) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	found := Variants(dirs[0])
	for _, dir := range dirs[1:] {
		there := Variants(dir)
		found = slices.DeleteFunc(found, func(v string) bool { return !slices.Contains(there, v) })
	}
	return &VariantError{path, variant, found, some, err}
}
