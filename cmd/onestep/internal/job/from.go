package job

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// origin is the image file that settings were taken from.
type origin struct {
	image string                 // "": none
	given func(flag string) bool // whether the command line has a flag, such as "model", instead of the image's setting
	model string                 // the model's name in another program's settings
}

// of reports whether an option comes from the image's settings.
func (f origin) of(flag string) bool {
	return f.image != "" && (f.given == nil || !f.given(flag))
}

// missingModel is the error of a missing --model; it names the model that the image's settings name.
func (f origin) missingModel(want string) error {
	switch {
	case f.image == "":
		return usage("--model is missing: %s", want)
	case f.model == "":
		return usage("--model is missing: the settings of %s do not name a model; pass %s", quote.Path(f.image), want)
	}
	return usage("--model is missing: the settings of %s name the model %s but not its path; pass %s", quote.Path(f.image), quote.Quoted(f.model), want)
}

// there is [There] for paths that may come from an image's settings: its error then names the image and the flag to pass.
func (f origin) there(paths ...Path) error {
	for _, p := range paths {
		if !f.of(strings.TrimPrefix(p.Flag, "--")) {
			if err := There(p); err != nil {
				return err
			}
			continue
		}
		if p.Path == "" {
			continue
		}
		if err := p.wrong(); err != nil {
			from := ""
			if !filepath.IsAbs(p.Path) {
				from = ", relative to the directory where it was generated"
			}
			return fmt.Errorf("--from %s: its settings have %s %s%s: %w; pass %s with %s", quote.Path(f.image), p.Flag, quote.Path(p.Path), from, err, p.Flag, p.Want)
		}
	}
	return nil
}

func (o Generate) there(paths ...Path) error { return o.origin.there(paths...) }
