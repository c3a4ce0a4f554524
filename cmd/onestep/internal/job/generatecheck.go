package job

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
)

// validate checks the options without opening any file.
func (o *Generate) validate() error {
	o.Batch = max(o.Batch, 1)
	if o.Seed == nil {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		seed := uint64(binary.LittleEndian.Uint32(b[:]))
		o.Seed = &seed
	}
	if o.VariationStrength == 0 {
		o.VariationSeed = 0 // from image metadata
	}
	o.builtinModel()
	o.idle()
	o.remarkGuidance()
	side := func(name string, v int) error {
		if v != 0 && (v < 8 || v > 16384) {
			return usage("--%s: want 8 to 16384 pixels, got %d", name, v)
		}
		if v%8 != 0 {
			return usage("--%s: want a multiple of 8 pixels, got %d: use %d or %d", name, v, v/8*8, v/8*8+8)
		}
		return nil
	}
	switch {
	case o.Model == "":
		return o.origin.missingModel(wantDiffusion)
	case o.Mixed && o.Variant == "":
		return usage("--mixed-variant needs --variant")
	case len(o.Prompts) == 0:
		return usage("--prompt is missing: pass a prompt, or --prompts FILE with one on each line")
	case slices.ContainsFunc(append(o.Prompts[:len(o.Prompts):len(o.Prompts)], o.Negative), func(s string) bool { return !utf8.ValidString(s) }):
		return usage("--prompt, --negative: want valid UTF-8")
	case !slices.Contains(DTypes(), o.DType):
		return usage("--dtype: want %s, got %s", strings.Join(DTypes(), ", "), quote.Quoted(o.DType))
	case o.N < 1 || o.N > maxImages || len(o.Prompts) > maxImages/o.N:
		return usage("--n: want 1 to %d images in all, got %d of each of %d prompts", maxImages, o.N, len(o.Prompts))
	case *o.Seed > math.MaxUint64-uint64(o.N-1):
		return usage("--seed: %s from seed %d on would exceed the largest seed, %d", plural.N(o.N, "image"), *o.Seed, uint64(math.MaxUint64))
	case o.VAE != "" && o.TinyVAE != "" && o.Preview == "":
		return usage("--vae and --tiny-vae: want one of them, got both")
	case o.Init == "" && (o.Strength != 0 || o.Mask != "" || o.Shorten):
		return usage("--strength, --shorten and --mask need --init-image")
	case len(o.ControlModels) != len(o.ControlImages):
		return usage("--control-model and --control-image: want one image for each model, got %s and %s", plural.N(len(o.ControlModels), "model"), plural.N(len(o.ControlImages), "image"))
	case len(o.ControlModels) == 0 && o.ControlScale != 0:
		return usage("--control-scale needs --control-model")
	case o.Threads < 0 || o.Threads > mostThreads:
		return usage("--threads: want 1 to %d, got %d", mostThreads, o.Threads)
	case o.LoRAApply != "" && o.LoRAApply != applyRuntime && o.LoRAApply != applyMerge:
		return usage("--lora-apply: want runtime or merge, got %s", quote.Quoted(o.LoRAApply))
	case o.Preview != "" && !strings.EqualFold(filepath.Ext(o.Preview), ".png"):
		return usage("--preview: want FILE.png, got %s", quote.Quoted(o.Preview))
	case o.Preview != "" && o.TinyVAE == "":
		return usage("--preview: previews are decoded by a tiny autoencoder: pass --tiny-vae too")
	}
	return errors.Join(side("width", o.Width), side("height", o.Height))
}
