package job

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Generate are the options of drawing pictures of texts. Start from [DefaultGenerate]. The JSON names are those in a picture's text.
type Generate struct {
	Model   string `json:"model"`
	Variant string `json:"variant,omitempty"`
	Mixed   bool   `json:"mixed_variant,omitempty"` // see weights.Options, as of EMA
	EMA     bool   `json:"ema,omitempty"`

	Config     string `json:"model_config,omitempty"` // of a single file: see weights.Options
	Prediction string `json:"prediction,omitempty"`

	// Parts in place of the model's: directories or files.
	UNet         string   `json:"unet,omitempty"`
	TextEncoder  string   `json:"text_encoder,omitempty"`
	TextEncoder2 string   `json:"text_encoder_2,omitempty"`
	PartHashes   []string `json:"part_hashes,omitempty"` // of an image: part: hash

	VAE     string `json:"vae,omitempty"`
	TinyVAE string `json:"tiny_vae,omitempty"`
	DType   string `json:"dtype"`
	Tile    int    `json:"tile,omitempty"`

	Prompts  []string `json:"-"`
	Prompt   string   `json:"prompt"` // of one picture
	Negative string   `json:"negative,omitempty"`
	Empty    bool     `json:"empty_negative,omitempty"` // see texttoimage.Pipeline.EmptyNegative
	Plain    bool     `json:"plain,omitempty"`
	ClipSkip int      `json:"clip_skip,omitempty"`

	Sampler       string   `json:"sampler,omitempty"`
	Spacing       string   `json:"-"` // of Sampler's levels or timesteps; a picture's text has it in the sampler's name
	Eta           *float64 `json:"eta,omitempty"`
	Steps         int      `json:"steps,omitempty"`
	Timesteps     []int    `json:"timesteps,omitempty"`
	OriginalSteps int      `json:"original_steps,omitempty"`
	Guidance      *float64 `json:"guidance,omitempty"` // nil: the model's; 0 is none, as in diffusers
	Rescale       float64  `json:"guidance_rescale,omitempty"`

	Seed              *uint64 `json:"seed"` // nil: any
	SharedNoise       bool    `json:"shared_noise,omitempty"`
	VariationSeed     uint64  `json:"variation_seed,omitempty"`
	VariationStrength float64 `json:"variation_strength,omitempty"`
	Width             int     `json:"width,omitempty"`
	Height            int     `json:"height,omitempty"`

	Init     string  `json:"init_image,omitempty"`
	Strength float64 `json:"strength,omitempty"`
	Shorten  bool    `json:"shorten,omitempty"`
	Mask     string  `json:"mask,omitempty"`

	ControlModels []string `json:"control_model,omitempty"`
	ControlImages []string `json:"control_image,omitempty"`
	ControlScale  float64  `json:"control_scale,omitempty"`

	LoRAs       []string `json:"lora,omitempty"`         // FILE[=WEIGHT[,BLOCK:WEIGHT…]]
	LoRADir     string   `json:"lora_dir,omitempty"`     // where tags in texts find adapters
	LoRAApply   string   `json:"lora_apply,omitempty"`   // "runtime" or "merge"; "": runtime
	LoRAPartial bool     `json:"lora_partial,omitempty"` // modules of which the model has no layer are left out
	LoRAHashes  []string `json:"lora_hashes,omitempty"`  // of a picture: name: hash

	Embeddings      []string `json:"embedding,omitempty"`        // FILE[=WORD]
	EmbeddingDir    string   `json:"embedding_dir,omitempty"`    // where words of prompts find embeddings
	EmbeddingHashes []string `json:"embedding_hashes,omitempty"` // of a picture: word: hash

	N         int    `json:"n,omitempty"` // in a picture's text only with SharedNoise, where it matters
	Batch     int    `json:"-"`
	Device    string `json:"-"`
	Threads   int    `json:"-"` // 0: all processors
	Out       string `json:"-"`
	Preview   string `json:"-"` // a file that shows the picture as it is being drawn
	Bare      bool   `json:"-"` // pictures without text
	Overwrite bool   `json:"-"`
	Force     bool   `json:"-"` // try even if the memory seems too small

	Index int `json:"index,omitempty"` // which of the pictures that share noise

	RawPaths map[string][][]byte `json:"raw_paths,omitempty"` // of an image: paths that are not UTF-8, by their settings' names

	foreignSkip int // A1111's Clip skip, counted as ClipSkip, of a picture's text

	hashing *hashing // of parts in place of the model's

	origin  origin
	remarks []string // on what a picture's text says and is not repeated
}

// DefaultGenerate returns the options that hold where nothing else is said.
func DefaultGenerate() Generate {
	return Generate{DType: "f32", N: 1, Batch: 1, Device: "cpu", Out: "onestep-{seed}.png"}
}

// DTypes are the types of a model's weights, by the names that options have for them.
func DTypes() []string { return []string{"f32", "bf16", "f16"} }

// DTypeNamed returns the name among [DTypes] of a type that PyTorch or diffusers names otherwise: float16, half, fp16, bfloat16, float32. Other
// names stay as they are.
func DTypeNamed(name string) string {
	switch strings.TrimPrefix(strings.ToLower(name), "torch.") {
	case "f32", "fp32", "float32", "float":
		return "f32"
	case "bf16", "bfloat16":
		return "bf16"
	case "f16", "fp16", "float16", "half":
		return "f16"
	}
	return name
}

var dtypes = map[string]torch.DType{"f32": torch.Float32, "bf16": torch.BFloat16, "f16": torch.Float16}

// Generated is what was drawn.
type Generated struct {
	Files       []string  `json:"files"`
	Model       string    `json:"model"`
	Kind        string    `json:"kind"`
	Sampler     string    `json:"sampler"`
	Timesteps   []float64 `json:"timesteps"`
	Guidance    float64   `json:"guidance"`
	Evaluations int       `json:"evaluations"` // of the network, for each picture
	Width       int       `json:"width"`
	Height      int       `json:"height"`
	Seed        uint64    `json:"seed"` // of each text's first picture
	Notices     []string  `json:"notices"`

	Adapters map[string]int `json:"adapters,omitempty"` // modules of each file's that are on the model
}

// Run draws and writes the pictures. What can be known to be wrong before the weights are read is reported before. Remarks go to
// note.
func (o Generate) Run(ctx context.Context, progress Progress, note func(string)) (Generated, error) {
	var none Generated
	if err := o.validate(); err != nil {
		return none, err
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return none, usage("--device: %v", err)
	}
	if err := o.isDiffusion(); err != nil {
		return none, err
	}
	if err := o.there(o.paths()...); err != nil {
		return none, err
	}
	files, err := o.files()
	if err != nil {
		return none, err
	}
	t, err := o.draws()
	if err != nil {
		return none, err
	}
	adapters, err := o.adapters()
	if err != nil {
		return none, err
	}
	defer func() { _ = closeAdapters(adapters) }() // those that no cache has taken
	words, err := o.inversions(ctx)
	if err != nil {
		return none, err
	}
	t.Inversions = words.all
	opened, err := o.openFiles(ctx, t)
	defer opened.close()
	if err != nil {
		return none, err
	}
	if err := use(dev, o.Threads, note); err != nil {
		return none, err
	}
	progress(GenerateProgress{Phase: PhaseLoading, What: o.Model, Images: len(files)})
	if err := opened.load(&t, o.options(dev)); err != nil {
		return none, err
	}
	on, free, err := o.adapt(ctx, &t, adapters)
	defer free()
	if err != nil {
		return none, err
	}
	o.skipAsThere(&t, func(n string) { o.remarks = append(o.remarks, n) })
	is := GenerateProgress{Images: len(files)}
	t.Began = o.began(&is, progress)
	plan, err := t.Plan(o.Prompts...)
	if err != nil {
		return none, err
	}
	is.Steps = len(plan.Timesteps)
	plan.Notices = slices.Concat(o.remarks, plan.Notices, on.notes(), on.changed(o.LoRAHashes), words.notes, words.changed(o.EmbeddingHashes), on.suits(plan.Method), o.unetSuits(plan.Method))
	o.LoRAHashes, o.EmbeddingHashes = on.hashes, words.hashes
	for _, n := range plan.Notices {
		note(n)
	}
	out := Generated{
		Files: files, Model: o.Model, Kind: t.Model.Kind.String(), Sampler: plan.Method, Timesteps: plan.Timesteps, Guidance: o.guided(plan),
		Evaluations: plan.Evaluations, Width: plan.Width, Height: plan.Height, Seed: *o.Seed, Notices: append([]string{}, plan.Notices...),
		Adapters: on.counts(),
	}
	return out, o.draw(ctx, t.Model, plan, on, out, &is, progress)
}

// validate checks what can be checked without any file.
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
		o.VariationSeed = 0 // of an image's text
	}
	o.idle()
	o.remarkGuidance()
	side := func(name string, v int) error {
		if v != 0 && (v < 8 || v > 16384) {
			return usage("--%s: want 8 to 16384 pixels, got %d", name, v)
		}
		if v%8 != 0 {
			return usage("--%s: want a multiple of 8 pixels, got %d: take %d or %d", name, v, v/8*8, v/8*8+8)
		}
		return nil
	}
	switch {
	case o.Model == "":
		return o.origin.missingModel()
	case o.Mixed && o.Variant == "":
		return usage("--mixed-variant needs --variant")
	case len(o.Prompts) == 0:
		return usage("--prompt is missing: pass a prompt, or --prompts FILE with one on each line")
	case slices.ContainsFunc(append(o.Prompts[:len(o.Prompts):len(o.Prompts)], o.Negative), func(s string) bool { return !utf8.ValidString(s) }):
		return usage("--prompt, --negative: want text in UTF-8")
	case dtypes[o.DType] == 0 && o.DType != "f32":
		return usage("--dtype: want %s, got %s", strings.Join(DTypes(), ", "), quote.Quoted(o.DType))
	case o.N < 1 || o.N > maxImages || len(o.Prompts) > maxImages/o.N:
		return usage("--n: want 1 to %d images in all, got %d of each of %d prompts", maxImages, o.N, len(o.Prompts))
	case *o.Seed > math.MaxUint64-uint64(o.N-1):
		return usage("--seed: %s from seed %d on would pass the largest seed, %d", plural.N(o.N, "image"), *o.Seed, uint64(math.MaxUint64))
	case o.VAE != "" && o.TinyVAE != "" && o.Preview == "":
		return usage("--vae and --tiny-vae: want one of them")
	case o.Init == "" && (o.Strength != 0 || o.Mask != "" || o.Shorten):
		return usage("--strength, --shorten and --mask need --init-image")
	case len(o.ControlModels) != len(o.ControlImages):
		return usage("--control-model and --control-image: want one image for each model, got %d models and %d images", len(o.ControlModels), len(o.ControlImages))
	case len(o.ControlModels) == 0 && o.ControlScale != 0:
		return usage("--control-scale needs --control-model")
	case o.Threads < 0 || o.Threads > 4096:
		return usage("--threads: want 1 to 4096, got %d", o.Threads)
	case o.LoRAApply != "" && o.LoRAApply != applyRuntime && o.LoRAApply != applyMerge:
		return usage("--lora-apply: want runtime or merge, got %s", quote.Quoted(o.LoRAApply))
	case o.Preview != "" && !strings.EqualFold(filepath.Ext(o.Preview), ".png"):
		return usage("--preview: want FILE.png, got %s", quote.Quoted(o.Preview))
	case o.Preview != "" && o.TinyVAE == "":
		return usage("--preview: it is decoded by a tiny autoencoder; want --tiny-vae, too")
	}
	return errors.Join(side("width", o.Width), side("height", o.Height))
}

// files lists what will be written, and makes sure that nothing is there unless it may be overwritten.
func (o Generate) files() ([]string, error) {
	pattern := o.Out
	if st, err := os.Stat(pattern); strings.HasSuffix(pattern, "/") || (err == nil && st.IsDir()) {
		pattern = filepath.Join(pattern, "{n}.png")
	}
	if vision.IsJPEG(pattern) && !o.Bare {
		const most = 8000 // UTF-16 and the settings beside it fill a JPEG's 64 kB of EXIF
		for _, p := range o.Prompts {
			if n := len(p) + len(o.Negative); n > most {
				return nil, usage("--out: a JPEG has no room for the settings with a prompt of %d bytes: want a name that ends in .png or .webp, or --no-metadata", n)
			}
		}
	}
	if !vision.IsWritten(pattern) {
		return nil, usage("--out: want a name that ends in .png, .jpg or .webp, with {n}, {prompt} or {seed} for several images, or DIR/, got %s", quote.Quoted(o.Out))
	}
	if err := checkPlaceholders(pattern); err != nil {
		return nil, err
	}
	var files []string
	seen := map[string]bool{}
	for i := range o.Prompts {
		for j := range o.N {
			name := o.fileName(pattern, i, j)
			if seen[name] {
				return nil, usage("--out: %s names several images the same, %s: want {n} in it", quote.Quoted(o.Out), name)
			}
			seen[name] = true
			files = append(files, name)
		}
	}
	folders := map[string]bool{}
	for _, f := range files {
		folders[directoryOf(f)] = true
	}
	for dir := range folders {
		if err := writable(dir); err != nil {
			return nil, fmt.Errorf("--out: %w", err)
		}
	}
	there := files
	if o.Preview != "" {
		if err := writable(directoryOf(o.Preview)); err != nil {
			return nil, fmt.Errorf("--preview: %w", err)
		}
		if slices.ContainsFunc(files, func(f string) bool { return filepath.Clean(f) == filepath.Clean(o.Preview) }) {
			return nil, usage("--preview: %s is the name of an image, too", quote.Path(o.Preview))
		}
		there = append(files[:len(files):len(files)], o.Preview)
	}
	for _, f := range there {
		if o.Overwrite {
			if err := replaceable(f, false); err != nil {
				return nil, err
			}
			continue
		}
		if _, err := os.Lstat(f); err == nil {
			return nil, fmt.Errorf("%s exists: choose another name or pass --overwrite", quote.Path(f))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return files, nil
}

// draws returns what is to be drawn, without the model.
func (o Generate) draws() (t texttoimage.Pipeline, err error) {
	t = texttoimage.Pipeline{
		Steps: o.Steps, Timesteps: o.Timesteps, OriginalSteps: o.OriginalSteps, Guidance: o.scale(), Rescale: o.Rescale,
		Negative: o.Negative, EmptyNegative: o.Empty, Plain: o.Plain, ClipSkip: o.ClipSkip, Width: o.Width, Height: o.Height, Seed: *o.Seed, N: o.N, Batch: o.Batch,
		SharedNoise: o.SharedNoise, VariationSeed: o.VariationSeed, VariationStrength: o.VariationStrength,
		Strength: o.Strength, Shorten: o.Shorten,
	}
	if t.Method, err = o.method(); err != nil {
		return t, err
	}
	if t.Method == nil { // a sampler that was named has it already
		t.Spacing = o.Spacing
	}
	if t.Init, err = o.picture("--init-image", o.Init); err != nil {
		return t, err
	}
	if t.Mask, err = o.picture("--mask", o.Mask); err != nil {
		return t, err
	}
	for _, path := range o.ControlImages {
		m, err := o.picture("--control-image", path)
		if err != nil {
			return t, err
		}
		t.Controls = append(t.Controls, texttoimage.Control{Image: m, Scale: o.ControlScale})
	}
	return t, nil
}

// picture reads an image file; nil for none.
func (o Generate) picture(flag, path string) (image.Image, error) {
	if path == "" {
		return nil, nil
	}
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	m, err := vision.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w: want a PNG, JPEG, GIF, BMP or WebP file", flag, quote.Path(path), err)
	}
	if b := m.Bounds(); b.Dx() > 16384 || b.Dy() > 16384 {
		return nil, fmt.Errorf("%s: %s has %d×%d pixels: want at most 16384 on a side", flag, quote.Path(path), b.Dx(), b.Dy())
	}
	return m, nil
}

// readFile reads a picture's file, which may not be a pipe, where reading would wait, nor endless.
func readFile(path string) ([]byte, error) {
	return plainfile.Read(path, 256<<20)
}

// began returns what keeps progress up to date at the beginning of each stage.
func (o Generate) began(is *GenerateProgress, progress Progress) func(texttoimage.Stage) {
	together := o.Batch
	if o.SharedNoise {
		together = o.N
	}
	return func(s texttoimage.Stage) {
		is.Phase, is.Together, is.Step = Phase(s), min(together, o.N-is.Image%o.N), 0
		if s == texttoimage.Decoding {
			is.Step = is.Steps
		}
		progress(*is)
	}
}

func (o Generate) draw(ctx context.Context, m *sd.Model, plan *texttoimage.Plan, on *adapters, out Generated, is *GenerateProgress, progress Progress) error {
	if err := makeDirectories(out.Files...); err != nil {
		return err
	}
	var preview vae.Autoencoder
	if o.Preview != "" {
		tiny, err := sd.OpenTiny(o.TinyVAE, m.Device(), torch.Float32)
		if err != nil {
			return err
		}
		defer tiny.Close()
		if got, want := tiny.Channels(), m.VAE.Channels(); got != want {
			return fmt.Errorf("%s: its latents have %d channels and the model's %d: they are incompatible", quote.Path(o.TinyVAE), got, want)
		}
		preview = tiny
		if err := makeDirectories(o.Preview); err != nil {
			return err
		}
	}
	for st, err := range plan.Run(ctx) {
		if err != nil {
			return err
		}
		at := st.Prompt*o.N + int(st.Seeds[0]-*o.Seed)
		is.Image, is.Step, is.Steps = at, st.I, st.Steps
		if st.Images == nil {
			progress(*is)
		}
		if preview != nil && st.Images == nil {
			shown, err := st.Preview(preview)
			if err != nil {
				return err
			}
			if err := vision.Write(o.Preview, shown[0], nil, true); err != nil {
				return err
			}
		}
		for i, image := range st.Images {
			var texts []vision.Text
			if !o.Bare {
				if texts, err = o.text(plan, on, st, i); err != nil {
					return err
				}
			}
			saving := *is
			saving.Phase, saving.Image, saving.What = PhaseSaving, at+i, out.Files[at+i]
			progress(saving)
			if err := vision.Write(out.Files[at+i], image, texts, o.Overwrite); err != nil {
				return err
			}
		}
		if st.Images != nil {
			is.Image = at + len(st.Images)
		}
	}
	return nil
}

// text is what the PNG's text chunks say of picture i of a step: A1111's parameters, and all settings.
func (o Generate) text(plan *texttoimage.Plan, on *adapters, st texttoimage.Progress, i int) ([]vision.Text, error) {
	seed := st.Seeds[i]
	one := o
	one.Prompt, one.Seed, one.N = o.Prompts[st.Prompt], &seed, 0
	one.Sampler, one.Guidance, one.Width, one.Height = plan.Method, new(o.guided(plan)), plan.Width, plan.Height
	if one.Timesteps == nil {
		one.Steps = plan.Steps
	}
	if o.SharedNoise {
		one.Seed, one.N, one.Index = o.Seed, o.N, i
	}
	var err error
	if one.PartHashes, err = o.hashing.wait(); err != nil {
		return nil, err
	}
	one.keepPaths()
	settings, err := json.Marshal(one)
	if err != nil {
		return nil, err
	}
	info := st.Info(i)
	var parts infotext.Text
	one.describeParts(&parts)
	info.AddAfter("Model", parts.Fields...)
	files := infotext.Text{Prompt: info.Prompt}
	on.describe(&files)
	if len(o.EmbeddingHashes) > 0 {
		files.Add("TI hashes", strings.Join(o.EmbeddingHashes, ", "))
	}
	info.Prompt = files.Prompt
	info.AddBefore("RNG", files.Fields...)
	return []vision.Text{{Keyword: infotext.Keyword, Value: strings.ToValidUTF8(info.String(), "\ufffd")}, {Keyword: "Software", Value: "onestep"},
		{Keyword: "onestep", Value: string(settings)}}, nil
}

// maxPrompts is the number of bytes that a file of prompts may have.
const maxPrompts = 64 << 20

// ReadPrompts reads a file, or a pipe such as a shell's <(command), with a text on each line; empty lines are left out. "-" is standard
// input.
func ReadPrompts(path string) ([]string, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = plainfile.Stream(path); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	var out []string
	const longest = 1 << 20
	limited := &io.LimitedReader{R: f, N: maxPrompts + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, longest)
	n := 1
	for ; lines.Scan(); n++ {
		line := lines.Text()
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff") // which some editors put there
		}
		if !utf8.ValidString(line) {
			return nil, fmt.Errorf("%s: line %d is not UTF-8: want a text file in that encoding", quote.Path(path), n)
		}
		if text := strings.TrimSpace(line); text != "" {
			out = append(out, text)
		}
		if len(out) > maxImages {
			return nil, fmt.Errorf("%s: want at most %d prompts", quote.Path(path), maxImages)
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%s: line %d is longer than %d MiB: want a prompt on each line", quote.Path(path), n, longest>>20)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("%s: want at most %d MiB of prompts", quote.Path(path), maxPrompts>>20)
	}
	if out == nil {
		return nil, fmt.Errorf("%s: it has no prompts", quote.Path(path))
	}
	return out, nil
}
