package job

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/recipe"
)

// Form is what a path has to be.
type Form int

// The forms of paths.
const (
	Either Form = iota // a file or a folder
	File
	Folder
)

// Path is a path that an option or an argument gives, and what has to be there.
type Path struct {
	Flag string // such as "--model"; "" of an argument
	Path string // "": not given
	Want string // such as "an image file"
	Form Form
}

// What options want.
const (
	wantDiffusion = "a Stable Diffusion folder or file"
	wantModel     = "a model file, a run's folder, or builtin"
	wantImage     = "an image file"
	wantAdapter   = "an adapter's file (LoRA, LoHa, LoKr, DoRA)"
	wantEmbedding = "a textual inversion embedding's file"
)

// There makes sure that what options give is there, and says of the first that is not what was wanted.
func There(paths ...Path) error {
	for _, p := range paths {
		if p.Path == "" {
			continue
		}
		if err := p.there(); err != nil {
			return err
		}
	}
	return nil
}

func (p Path) there() error {
	err := p.wrong()
	if err == nil {
		return nil
	}
	hint := ""
	if errors.Is(err, fs.ErrNotExist) {
		hint = p.published()
	}
	return fmt.Errorf("%s: %w; wanted %s%s", strings.TrimSpace(p.Flag+" "+quote.Path(p.Path)), err, p.Want, hint)
}

// missing is an error of what does not exist, in other words.
type missing string

func (m missing) Error() string { return string(m) }
func (m missing) Unwrap() error { return fs.ErrNotExist }

// wrong says what is wrong with what is at the path, without repeating it.
func (p Path) wrong() error {
	st, err := os.Stat(p.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		if st, err := os.Lstat(p.Path); err == nil && st.Mode()&fs.ModeSymlink != 0 {
			return missing("a symbolic link to what does not exist")
		}
		return missing(map[Form]string{Either: "no such file or folder", File: "no such file", Folder: "no such folder"}[p.Form])
	case err != nil:
		var cause *fs.PathError
		if errors.As(err, &cause) {
			err = cause.Err // which does not repeat the path
		}
		return err
	case p.Form == File && st.IsDir():
		return errors.New("is a folder")
	case p.Form == Folder && !st.IsDir():
		return errors.New("is a file")
	}
	return nil
}

// hubName is how models are named on huggingface.co.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$`)

// published is a hint for a path that looks like the name of a published model.
func (p Path) published() string {
	if p.Want != wantDiffusion || !hubName.MatchString(p.Path) || filepath.Ext(p.Path) == ".safetensors" || filepath.Ext(p.Path) == ".ckpt" {
		return ""
	}
	if _, err := os.Stat(filepath.Dir(p.Path)); err == nil {
		return "" // a mistyped path
	}
	return fmt.Sprintf("; models are not downloaded: hf download %s --local-dir DIR does", p.Path)
}

// ownModel is the path of a model of onestep train; "" if it is no path.
func ownModel(flag, path, want string) Path {
	if slices.Contains([]string{"", "none", recipe.Empirical, "builtin"}, path) {
		path = ""
	}
	return Path{Flag: flag, Path: path, Want: want}
}

// dataPath is the path of a data set; "" if it is the name of one, or a pattern.
func dataPath(data string) Path {
	if data == "emoji" || slices.Contains(dataset.Looked(), data) || strings.ContainsAny(data, "*?[{") {
		data = ""
	}
	return Path{Flag: "--data", Path: data, Want: "a folder of images, an IDX file, CIFAR-10 binaries or .tar shards, or one of emoji, " + strings.Join(dataset.Looked(), ", ")}
}

// replaced are the paths of what stands in for a model's parts.
func replaced(unet, text, text2, vae string) []Path {
	return []Path{
		{"--unet", unet, "a U-Net's folder or file", Either},
		{"--text-encoder", text, "a text encoder's folder or file", Either},
		{"--text-encoder-2", text2, "a text encoder's folder or file", Either},
		{"--vae", vae, "an autoencoder's folder or file", Either},
	}
}

// named adds the flag to an error that begins with its path. What replaces parts of a model is opened with it, and its errors begin otherwise.
func named(flag, path string, err error) error {
	if strings.HasPrefix(err.Error(), quote.Path(path)) {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return err
}

// paths lists what a drawing reads.
func (o Generate) paths() []Path {
	all := []Path{
		{"--model", o.Model, wantDiffusion, Either},
		{"--tiny-vae", o.TinyVAE, "a tiny autoencoder's (TAESD) folder or file", Either},
		{"--model-config", o.Config, "a diffusers folder", Folder},
		{"--init-image", o.Init, wantImage, File},
		{"--mask", o.Mask, wantImage, File},
		{"--lora-dir", o.LoRADir, "a folder of adapters", Folder},
		{"--embedding-dir", o.EmbeddingDir, "a folder of textual inversion embeddings", Folder},
	}
	all = append(all, replaced(o.UNet, o.TextEncoder, o.TextEncoder2, o.VAE)...)
	for _, path := range o.ControlModels {
		all = append(all, Path{"--control-model", path, "a ControlNet's folder or file", Either})
	}
	for _, path := range o.ControlImages {
		all = append(all, Path{"--control-image", path, wantImage, File})
	}
	return all
}
