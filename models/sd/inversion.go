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

// Inversion is a textual inversion embedding (Gal et al. 2022): a word in prompts that stands for vectors of the text encoders. It does
// not change and may be used by several goroutines and models.
type Inversion struct {
	Path string // where it was read; "": elsewhere than from a file of its own
	Word string // in prompts, in any case
	Name string // what the file calls it; "": nothing
	Form string // how the file is laid out: "A1111", "SDXL" or "diffusers"

	Vectors int       // as many tokens it takes
	Parts   []Vectors // of each text encoder: one, or the two of SDXL
}

// Vectors are an embedding's vectors for one text encoder.
type Vectors struct {
	Width int       // of the encoder
	Data  []float32 // Inversion.Vectors × Width
}

const (
	maxVectors = 4096 // of a file; a chunk of tokens holds 75
	maxWidth   = 1 << 14
)

// OpenInversion reads an embedding: A1111's .pt (string_to_param) and .safetensors (emb_params), the pairs of SDXL (clip_l and clip_g), and
// diffusers' learned_embeds of one word. Its word is the name of the file, as in A1111, or that which diffusers' files say.
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

// ReadInversion reads the embedding that tensors are, of one of the layouts of [OpenInversion]. Those of diffusers have their own word.
func ReadInversion(src nn.Source, word string) (in Inversion, err error) {
	if !weights.IsInversion(src) {
		return in, errors.New("want a textual inversion embedding: emb_params, clip_l and clip_g, or one vector under the name of its word")
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
			return in, fmt.Errorf("the embedding has %s for one text encoder and %d for the other: want as many", plural.N(in.Vectors, "vector"), n)
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
		return Vectors{}, 0, fmt.Errorf("want vectors of an embedding, [n, width], got the shape %v", dims)
	}
	data, err := floats(f, name)
	if err != nil {
		return Vectors{}, 0, err
	}
	for _, v := range data {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return Vectors{}, 0, fmt.Errorf("the embedding has values that are not finite (%g)", v)
		}
	}
	return Vectors{width, data}, n, nil
}

// floats reads a tensor, of a file without libtorch.
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

// notInversion says what a file is that is no embedding.
func notInversion(path string, f *weights.Tensors) error {
	const want = "want a textual inversion embedding"
	kind, err := weights.Sniff(f)
	switch {
	case kind == weights.LoRA:
		return fmt.Errorf("%s: it is a LoRA, and not an embedding: %s", quote.Path(path), want)
	case err == nil:
		return fmt.Errorf("%s: it is a model (%s), and not an embedding: %s", quote.Path(path), kind, want)
	}
	names := slices.Sorted(f.Names())
	some := quote.Texts(names[:min(len(names), 4)])
	return fmt.Errorf("%s: %s, with emb_params, clip_l and clip_g, string_to_param, or one vector under the name of its word; it has %s: %s",
		quote.Path(path), want, plural.N(len(names), "tensor"), strings.Join(some, ", "))
}

// Family names the models whose text encoders have the widths of the embedding's vectors; "": they are not known.
func (in Inversion) Family() string {
	switch widths := in.widths(); {
	case slices.Equal(widths, []int{768, 1280}):
		return "Stable Diffusion XL"
	case len(widths) == 1 && widths[0] < 2048: // text features of Stable Diffusion XL are of both encoders
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

// CheckInversions reports embeddings that the model cannot use: vectors of other widths than its text encoders', more vectors than fit into
// a chunk of tokens, and words that are taken.
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

// fits reports an embedding of another family of models.
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
	return fmt.Errorf("the embedding %s has vectors of %s; the model %s has text encoders of %s: they are incompatible",
		name, describe(in), quote.Text(m.Name()), describe(own))
}

// tokenizer returns that of the encoder with the words of a text's embeddings.
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

// vectors returns those of embeddings for one encoder, [k, width], or nil for none.
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
