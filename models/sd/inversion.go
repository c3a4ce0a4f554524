package sd

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Inversion is a textual inversion embedding (Gal et al. 2022): a word in prompts that is replaced by learned token embeddings. It is
// immutable; several goroutines and models may use it.
type Inversion struct {
	Path string // of the file; "": not from a file of its own
	Word string // the placeholder in prompts, case-insensitive
	Name string // stored in the file; "": none
	Form string // the file's layout: "A1111", "SDXL" or "diffusers"

	Vectors int       // the number of tokens that it takes
	Parts   []Vectors // one for each text encoder: one, or two for SDXL
}

// Vectors are an embedding's vectors for one text encoder.
type Vectors struct {
	Width int       // of the encoder
	Data  []float32 // Inversion.Vectors × Width
}

const (
	maxVectors = 4096 // per file; a chunk holds 75 tokens
	maxWidth   = 1 << 14
)

// OpenInversion reads an embedding: A1111's .pt (string_to_param) and .safetensors (emb_params), the pairs of SDXL (clip_l and clip_g), and
// diffusers' learned_embeds with one token. Its word is the file name without extension, as in A1111; in diffusers' files it is the
// tensor's name.
func OpenInversion(path string) (in Inversion, err error) {
	f, err := weights.OpenTensors(path)
	if err != nil {
		return in, err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	if !weights.IsInversion(f) {
		return in, notInversion(path, f)
	}
	name := filepath.Base(path)
	if in, err = ReadInversion(f, strings.TrimSuffix(name, filepath.Ext(name))); err != nil {
		return in, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	in.Path, in.Name = path, f.Metadata()["name"]
	if in.Form == diffusersForm {
		in.Name = in.Word
	}
	return in, nil
}

const diffusersForm = "diffusers"

// ReadInversion reads an embedding from tensors in one of the layouts of [OpenInversion]. In diffusers' layout the tensor's name replaces
// word.
func ReadInversion(src nn.Source, word string) (in Inversion, err error) {
	if !weights.IsInversion(src) {
		return in, errors.New("want a textual inversion embedding: emb_params, clip_l and clip_g, or one tensor named after its token")
	}
	in = Inversion{Word: word, Form: "A1111"}
	names := slices.Sorted(src.Names())
	switch names[0] {
	case "emb_params", "*":
	case "clip_g", "clip_l", "text_encoders_0", "text_encoders_1":
		in.Form = "SDXL"
		if names[0] == "clip_g" {
			slices.Reverse(names)
		}
		if pair := strings.Join(names, " "); pair != "clip_l clip_g" && pair != "text_encoders_0 text_encoders_1" {
			return in, fmt.Errorf("the embedding has %s: want clip_l and clip_g, for both text encoders of SDXL", strings.Join(names, " and "))
		}
	default:
		in.Form, in.Word = diffusersForm, names[0]
	}
	if in.Form != "SDXL" && len(names) > 1 {
		return in, fmt.Errorf("the embedding has %d tensors: want one", len(names))
	}
	for _, name := range names {
		p, n, err := readVectors(src, name)
		if err != nil {
			return in, fmt.Errorf("%s: %w", quote.Text(name), err)
		}
		if in.Parts != nil && n != in.Vectors {
			return in, fmt.Errorf("the embedding has %s for one text encoder and %d for the other: want the same number", plural.N(in.Vectors, "vector"), n)
		}
		in.Parts, in.Vectors = append(in.Parts, p), n
	}
	return in, nil
}

func readVectors(f nn.Source, name string) (Vectors, int, error) {
	dims, _, _ := f.Info(name)
	n, width := 1, dims[len(dims)-1]
	if len(dims) == 2 {
		n = dims[0]
	}
	if n < 1 || n > maxVectors || width < 1 || width > maxWidth {
		return Vectors{}, 0, fmt.Errorf("want embedding vectors of shape [n, width], got %v", dims)
	}
	data, err := floats(f, name)
	if err != nil {
		return Vectors{}, 0, err
	}
	for _, v := range data {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return Vectors{}, 0, fmt.Errorf("the embedding has a non-finite value (%g)", v)
		}
	}
	return Vectors{width, data}, n, nil
}

// floats reads a tensor's values as float32, without libtorch if src is a file.
func floats(f nn.Source, name string) (data []float32, err error) {
	if file, ok := f.(*weights.Tensors); ok {
		numbers, err := file.Floats(name)
		for _, v := range numbers {
			data = append(data, float32(v))
		}
		return data, err
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		t, err := f.Get(s, name)
		if err == nil {
			data = torch.ToSlice[float32](t.To(s, torch.Float32))
		}
		return err
	})
	return data, err
}

// notInversion returns an error that says what the file is instead of an embedding.
func notInversion(path string, f *weights.Tensors) error {
	const want = "want a textual inversion embedding"
	kind, err := weights.Sniff(f)
	switch {
	case kind == weights.LoRA:
		return fmt.Errorf("%s: it is a LoRA, not an embedding: %s", quote.Path(path), want)
	case err == nil:
		return fmt.Errorf("%s: it is a model (%s), not an embedding: %s", quote.Path(path), kind, want)
	}
	names := slices.Sorted(f.Names())
	some := quote.Texts(names[:min(len(names), 4)])
	return fmt.Errorf("%s: %s, with emb_params, clip_l and clip_g, string_to_param, or one tensor named after its token; it has %s: %s",
		quote.Path(path), want, plural.N(len(names), "tensor"), strings.Join(some, ", "))
}

// Family returns the model family whose text encoders have the widths of the embedding's vectors, or "" if unknown.
func (in Inversion) Family() string {
	switch widths := in.widths(); {
	case slices.Equal(widths, []int{768, 1280}):
		return "Stable Diffusion XL"
	case len(widths) == 1 && widths[0] < 2048: // SDXL's text features are those of both encoders
		return weights.Family(widths[0])
	}
	return ""
}

func (in Inversion) widths() []int {
	all := make([]int, len(in.Parts))
	for i, p := range in.Parts {
		all[i] = p.Width
	}
	return all
}

// CheckInversions returns an error for embeddings that the model cannot use: their width differs from the text encoders', they have more
// vectors than fit into a chunk of tokens, or their word is already in use.
func (m *Model) CheckInversions(all ...Inversion) error {
	for _, in := range all {
		if err := m.fits(in); err != nil {
			return err
		}
	}
	for _, enc := range m.Texts {
		if _, err := enc.tokenizer(Text{Inversions: all}); err != nil {
			return err
		}
	}
	return nil
}

// fits reports an embedding for another model family.
func (m *Model) fits(in Inversion) error {
	name := quote.Quoted(in.Word)
	if in.Path != "" {
		name += fmt.Sprintf(" (%s)", quote.Path(in.Path))
	}
	for _, p := range in.Parts {
		if len(p.Data) != p.Width*in.Vectors {
			return fmt.Errorf("the embedding %s: want %d vectors of %d values, got %d values", name, in.Vectors, p.Width, len(p.Data))
		}
	}
	own := Inversion{}
	for _, t := range m.Texts {
		own.Parts = append(own.Parts, Vectors{Width: t.Config().Width})
	}
	if slices.Equal(in.widths(), own.widths()) {
		return nil
	}
	describe := func(of Inversion) string {
		text := "width " + strings.Trim(strings.ReplaceAll(fmt.Sprint(of.widths()), " ", " and "), "[]")
		if family := of.Family(); family != "" {
			text += fmt.Sprintf(" (%s)", family)
		}
		return text
	}
	return fmt.Errorf("the embedding %s has vectors of %s; the text encoders of the model %s have %s: they are incompatible",
		name, describe(in), quote.Text(m.Name()), describe(own))
}

// tokenizer returns the encoder's tokenizer with the words of the prompt's embeddings added.
func (t TextEncoder) tokenizer(text Text) (*prompt.Tokenizer, error) {
	if len(text.Inversions) == 0 {
		return t.Tokenizer, nil
	}
	words := make([]prompt.Word, len(text.Inversions))
	for i, in := range text.Inversions {
		words[i] = prompt.Word{Text: in.Word, Vectors: in.Vectors}
	}
	return t.Tokenizer.WithWords(t.Config().Vocab, words)
}

// vectors returns the embeddings' vectors for one text encoder, [k, width], or nil if there are none.
func vectors(s *torch.Scope, all []Inversion, encoder int, dtype torch.DType) *torch.Tensor {
	if len(all) == 0 {
		return nil
	}
	var data []float32
	for _, in := range all {
		data = append(data, in.Parts[encoder].Data...)
	}
	width := all[0].Parts[encoder].Width
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return torch.FromSlice(s, data, len(data)/width, width).To(s, dtype)
	})
}
