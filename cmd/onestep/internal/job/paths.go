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
	"github.com/onestep-go/onestep/models/builtintext"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/recipe"
)

// Form says whether a path has to be a file or a directory.
type Form int

// Forms of paths.
const (
	Either Form = iota // a file or a directory
	File
	Folder
	WholeModel // either, or builtin-text; the name of a published model gets a hint
)

// Path is a path that was given by a flag or an argument, and what has to be there.
type Path struct {
	Flag string // such as "--model"; "" for an argument
	Path string // "": not given
	Want string // such as "an image file"
	Form Form
}

// What paths have to be, for errors.
const (
	wantDiffusion = "a Stable Diffusion directory or file, or " + builtintext.Name
	wantModel     = "a model file, a run directory, a diffusers directory of a model in pixel space, or builtin"
	wantImage     = "an image file"
	wantAdapter   = "an adapter file (LoRA, LoHa, LoKr, DoRA, OFT or BOFT)"
	wantEmbedding = "a textual inversion file"
)

// There checks that the paths exist and have the wanted form; the error names the first that does not, and what was wanted.
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
		hint = p.published() + p.scaled()
	}
	return fmt.Errorf("%s: %w; wanted %s%s", strings.TrimSpace(p.Flag+" "+quote.Path(p.Path)), err, p.Want, hint)
}

// missing is fs.ErrNotExist in other words.
type missing string

func (m missing) Error() string { return string(m) }
func (m missing) Unwrap() error { return fs.ErrNotExist }

// wrong says what is wrong at the path, without repeating the path.
func (p Path) wrong() error {
	if p.Form == WholeModel && p.Path == builtintext.Name {
		return nil
	}
	st, err := os.Stat(p.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		if st, err := os.Lstat(p.Path); err == nil && st.Mode()&fs.ModeSymlink != 0 {
			return missing("a symbolic link whose target does not exist")
		}
		return missing(map[Form]string{Either: "no such file or directory", WholeModel: "no such file or directory", File: "no such file", Folder: "no such directory"}[p.Form])
	case err != nil:
		var cause *fs.PathError
		if errors.As(err, &cause) {
			err = cause.Err // which does not repeat the path
		}
		return err
	case p.Form == File && st.IsDir():
		return errors.New("is a directory")
	case p.Form == Folder && !st.IsDir():
		return errors.New("is a file")
	}
	return nil
}

// hubName matches the names of models on huggingface.co.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$`)

// published is a hint for a path that looks like the name of a published model.
func (p Path) published() string {
	if p.Form != WholeModel || !hubName.MatchString(p.Path) || filepath.Ext(p.Path) == ".safetensors" || filepath.Ext(p.Path) == ".ckpt" {
		return ""
	}
	if _, err := os.Stat(filepath.Dir(p.Path)); err == nil {
		return "" // a mistyped path
	}
	return fmt.Sprintf("; models are not downloaded automatically: run hf download %s --local-dir DIR", p.Path)
}

// scaled is a hint for an adapter with a scale, as --lora takes it, where a file alone is wanted.
func (p Path) scaled() string {
	i := strings.LastIndexByte(p.Path, '=')
	if p.Want != wantAdapter || p.Flag == "--lora" || i < 1 {
		return ""
	}
	if _, err := os.Stat(p.Path[:i]); err != nil {
		return ""
	}
	return "; it takes no scale: " + strings.TrimSpace(p.Flag+" "+shellWord(p.Path[:i]))
}

// ownModel is the path of a model of onestep train; builtin and the like are names, not paths.
func ownModel(flag, path, want string) Path {
	if slices.Contains([]string{"", "none", recipe.Empirical, "builtin", builtintext.Name}, path) {
		path = ""
	}
	return Path{Flag: flag, Path: path, Want: want}
}

// dataPath is the path of a data set, or "" for a data set's name or a pattern.
func dataPath(data string) Path {
	if data == "emoji" || slices.Contains(dataset.Looked(), data) || strings.ContainsAny(data, "*?[{") {
		data = ""
	}
	return Path{Flag: "--data", Path: data, Want: "a directory of images, an IDX file, CIFAR-10 binaries or .tar shards, or one of emoji, " + strings.Join(dataset.Looked(), ", ")}
}

// replaced lists the paths of components that replace the model's.
func replaced(unet, text, text2, vae string) []Path {
	return []Path{
		{"--unet", unet, "a U-Net's directory or file", Either},
		{"--text-encoder", text, "a text encoder's directory or file", Either},
		{"--text-encoder-2", text2, "a text encoder's directory or file", Either},
		{"--vae", vae, "an autoencoder's directory or file", Either},
	}
}

// named adds the flag to an error that begins with its path. Replaced components are opened with the model; their errors begin otherwise.
func named(flag, path string, err error) error {
	if strings.HasPrefix(err.Error(), quote.Path(path)) {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return err
}

// paths lists the paths that generating images reads.
func (o Generate) paths() []Path {
	all := []Path{
		{"--model", o.Model, wantDiffusion, WholeModel},
		{"--tiny-vae", o.TinyVAE, wantTiny, Either},
		{"--model-config", o.Config, "a diffusers directory", Folder},
		{"--init-image", o.Init, wantImage, File},
		{"--mask", o.Mask, wantImage, File},
		{"--lora-dir", o.LoRADir, "a directory of adapters", Folder},
		{"--embedding-dir", o.EmbeddingDir, "a directory of textual inversion embeddings", Folder},
	}
	all = append(all, replaced(o.UNet, o.TextEncoder, o.TextEncoder2, o.VAE)...)
	for _, path := range o.ControlModels {
		all = append(all, Path{"--control-model", path, "a ControlNet's directory or file", Either})
	}
	for _, path := range o.ControlImages {
		all = append(all, Path{"--control-image", path, wantImage, File})
	}
	return all
}
