package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plural"
	q "github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// LoRAInfo describes an adapter file and, with a model, how it fits.
type LoRAInfo struct {
	Path       string            `json:"path"`
	Kinds      map[string]int    `json:"kinds"`   // modules by adapter type
	Layouts    map[string]int    `json:"layouts"` // modules by naming convention
	Parts      map[string]int    `json:"parts"`   // modules by component, if a model is given
	Ranks      map[string]int    `json:"ranks"`   // modules by rank
	Alphas     map[string]int    `json:"alphas"`  // modules by alpha
	DTypes     map[string]int    `json:"dtypes"`
	Base       []string          `json:"base"` // published models that every module fits
	Metadata   map[string]string `json:"metadata,omitempty"`
	Hash       string            `json:"hash,omitempty"`       // files of at most 2 GiB
	Embeddings []string          `json:"embeddings,omitempty"` // words of bundled textual inversion embeddings
	Notices    []string          `json:"notices,omitempty"`    // contents that are not used
	Modules    []LoRAModule      `json:"modules"`
	Model      string            `json:"model,omitempty"` // the model given
	Fits       *bool             `json:"fits,omitempty"`
	For        string            `json:"for,omitempty"` // the model that the adapter is for, if it is another
	Unmatched  []string          `json:"unmatched,omitempty"`
	Misshapen  []string          `json:"misshapen,omitempty"`
	Twice      []string          `json:"twice,omitempty"`
}

// LoRAModule is one module of an adapter.
type LoRAModule struct {
	Name   string  `json:"name"`
	Kind   string  `json:"kind"`
	Rank   int     `json:"rank"`
	Alpha  float64 `json:"alpha"`
	Scale  float64 `json:"scale"`
	Layout string  `json:"layout"`
}

// maxHashed is the largest file that is hashed for a description, which takes a second or two and is not interrupted.
const maxHashed = 2 << 30

// InspectLoRA describes an adapter and, with a model, how it fits. note is called with notices; it may be nil.
func InspectLoRA(path, model string, o weights.Options, note func(string)) (LoRAInfo, error) {
	if err := errors.Join(replaceRun(note, "", &path, adapterOfRun), ofRuns(note, map[string]*string{"--model": &model})); err != nil {
		return LoRAInfo{}, err
	}
	out := LoRAInfo{
		Path: path, Kinds: map[string]int{}, Layouts: map[string]int{}, Parts: map[string]int{}, Ranks: map[string]int{}, Alphas: map[string]int{},
		DTypes: map[string]int{}, Model: model, Base: []string{},
	}
	if err := There(Path{"", path, wantAdapter, Either}, Path{"--model", model, wantDiffusion, WholeModel}); err != nil {
		return out, err
	}
	f, err := lora.Open(path)
	if err != nil {
		return out, err
	}
	defer f.Close()
	out.Metadata = f.Metadata
	if st, err := os.Stat(f.Tensors); err == nil && st.Size() <= maxHashed && !sparse(st) {
		if out.Hash, err = adapterHash(context.Background(), f.Tensors); err != nil {
			return out, err
		}
	}
	for _, e := range f.Embeddings {
		out.Embeddings = append(out.Embeddings, e.Name)
	}
	out.Notices = f.Notices()
	out.Base = append(out.Base, f.Base()...)
	if model != "" {
		m, err := openModel(model, o)
		if err != nil {
			return out, wholeModel("--model", model, false, err)
		}
		defer m.Close()
		match, err := f.MatchFiles(m)
		if err != nil {
			return out, fmt.Errorf("%s: %w", q.Path(model), err)
		}
		fits := match.Err(false) == nil
		out.Fits, out.For, out.Unmatched, out.Misshapen, out.Twice = &fits, match.Base, match.Unmatched, match.Misshapen, match.Twice
	}
	for _, m := range f.Modules {
		kind := string(m.Kind)
		if m.DoRA {
			kind += " with DoRA"
		}
		out.Kinds[kind]++
		out.Layouts[m.Layout.String()]++
		out.Ranks[fmt.Sprint(m.Rank)]++
		out.Alphas[shortNumber(m.Alpha)]++
		out.DTypes[short(m.DType)]++
		if part, _, _ := strings.Cut(m.Name, "."); slices.Contains([]string{"unet", "text_encoder", "text_encoder_2"}, part) {
			out.Parts[part]++
		}
		out.Modules = append(out.Modules, LoRAModule{m.Name, kind, m.Rank, m.Alpha, m.Scale, m.Layout.String()})
	}
	return out, nil
}

// String returns a description in lines; all lists every module.
func (v LoRAInfo) String(all bool) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name, q.Lines(fmt.Sprintf(format, args...)))
	}
	line("adapter", "%s", q.Path(v.Path))
	line("modules", "%s", counts(v.Kinds))
	if len(v.Parts) > 0 {
		line("parts", "%s", counts(v.Parts))
	}
	line("layout", "%s", counts(v.Layouts))
	line("rank", "%s", counts(v.Ranks))
	line("alpha", "%s", counts(rounded(v.Alphas)))
	line("type", "%s", counts(v.DTypes))
	switch {
	case len(v.Base) > 0:
		line("fits", "%s", strings.Join(v.Base, ", "))
	case v.Fits == nil:
		line("fits", "none of the published base models (Stable Diffusion 1, 2 and XL, SSD-1B); pass --model to compare it with another")
	}
	line("hash", "%s", cmp.Or(v.Hash, "not computed, as the file is large or sparse"))
	if len(v.Embeddings) > 0 {
		line("embeddings", "%s", strings.Join(q.Texts(v.Embeddings), ", "))
	}
	for _, n := range v.Notices {
		line("not used", "%s", n)
	}
	for _, key := range slices.Sorted(maps.Keys(v.Metadata)) {
		if text := oneLine(v.Metadata[key]); key != "format" {
			line("metadata", "%s: %s", oneLine(key), text)
		}
	}
	if v.Fits != nil {
		switch {
		case *v.Fits:
			line("model", "%s: every module fits", q.Path(v.Model))
		case v.For != "":
			line("model", "%s: does not fit: the adapter is for %s", q.Path(v.Model), q.Text(v.For))
		default:
			line("model", "%s: does not fit", q.Path(v.Model))
		}
		for _, l := range []struct {
			what  string
			names []string
		}{{"no layer for", v.Unmatched}, {"shape mismatch", v.Misshapen}, {"twice", v.Twice}} {
			for _, name := range l.names {
				line("", "%s %s", l.what, name)
			}
		}
	}
	if all {
		for _, m := range v.Modules {
			line("module", "%s: %s, rank %d, alpha %s", q.Text(m.Name), q.Text(m.Kind), m.Rank, number.Short(m.Alpha))
		}
	}
	return b.String()
}

// shortNumber writes a number of a file with the digits of a float32.
func shortNumber(v float64) string { return strconv.FormatFloat(v, 'g', -1, 32) }

// rounded counts by rounded numbers.
func rounded(by map[string]int) map[string]int {
	out := map[string]int{}
	for text, n := range by {
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			text = number.Short(v)
		}
		out[text] += n
	}
	return out
}

// counts writes names with their counts, the most frequent first; a single name has no count.
func counts(of map[string]int) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int { return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b)) })
	var words []string
	for _, name := range names {
		words = append(words, fmt.Sprintf("%s (%d)", name, of[name]))
	}
	return strings.Join(words, ", ")
}

// oneLine shortens free-form text to one line.
func oneLine(s string) string {
	const most = 200
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// ConvertLoRA holds the options for writing an adapter in another layout.
type ConvertLoRA struct {
	File, To, Out, Model, DType string
	ModelOptions                weights.Options
	Overwrite                   bool
	Partial                     bool // skip modules without a layer in the model
}

// Run writes the adapter. Remarks go to note.
func (o ConvertLoRA) Run(note func(string)) error {
	layout, err := lora.ParseLayout(o.To)
	switch {
	case o.Out == "":
		return usage("--out is missing: FILE.safetensors")
	case err != nil:
		return usage("--to: %v", err)
	case filepath.Ext(o.Out) != ".safetensors":
		return usage("--out: want FILE.safetensors, got %s", q.Quoted(o.Out))
	}
	if err := errors.Join(replaceRun(note, "", &o.File, adapterOfRun), ofRuns(note, map[string]*string{"--model": &o.Model})); err != nil {
		return err
	}
	reads := []Path{{"", o.File, wantAdapter, Either}, {"--model", o.Model, wantDiffusion, WholeModel}}
	if err := There(reads...); err != nil {
		return err
	}
	if err := apart(o.Out, o.File, reads...); err != nil {
		return err
	}
	if err := Writable(o.Out); err != nil {
		return err
	}
	f, err := lora.Open(o.File)
	if err != nil {
		return err
	}
	defer f.Close()
	left := f.Embeddings
	if layout == lora.Kohya {
		left = nil // embeddings are written too
	}
	for _, n := range adapterNotes(o.File, f.Notices(), left, fmt.Sprintf("the layout %s cannot hold them", layout)) {
		note(n)
	}
	if err := makeDirectories(o.Out); err != nil {
		return err
	}
	w := lora.WriteOptions{Layout: layout, Overwrite: o.Overwrite, Partial: o.Partial}
	if o.DType != "" {
		d, ok := training.DTypeNamed(o.DType)
		if !ok {
			return usage("--dtype: want %s, got %s", strings.Join(DTypes(), ", "), q.Quoted(o.DType))
		}
		w.DType = &d
	}
	if o.Model == "" {
		if o.Partial {
			return usage("--partial needs --model: the model whose layers the modules are matched with")
		}
		err := f.Write(o.Out, nil, w)
		if errors.Is(err, lora.ErrUnknownBase) {
			return fmt.Errorf("%w; pass it as --model", err)
		}
		return err
	}
	m, err := openModel(o.Model, o.ModelOptions)
	if err != nil {
		return wholeModel("--model", o.Model, false, err)
	}
	defer m.Close()
	if err := f.Write(o.Out, m, w); err != nil {
		return partly(err, "--partial")
	}
	return leftOut(f, m, note)
}

// leftOut is a notice of an adapter's modules without a layer in the model.
func leftOut(f *lora.File, m *weights.Model, note func(string)) error {
	match, err := f.MatchFiles(m)
	if err == nil && len(match.Unmatched) > 0 {
		note(fmt.Sprintf("adapter %s: skipped %s without a layer in the model: %s", q.Text(adapterName(f.Path)), plural.N(len(match.Unmatched), "module"),
			q.Long(strings.Join(match.Unmatched, ", "), 400)))
	}
	return err
}

// MergeLoRA holds the options for merging adapters into a model's weights.
type MergeLoRA struct {
	LoRAs   []string
	Partial bool // skip modules without a layer in the model
	Convert
}

// Run writes the model with the adapters merged. Remarks go to note.
func (o MergeLoRA) Run(ctx context.Context, note func(string)) (_ Converted, err error) {
	if len(o.LoRAs) == 0 {
		return Converted{}, usage("--lora is missing: FILE or FILE=WEIGHT")
	}
	var all []lora.Weighted
	defer func() {
		for _, a := range all {
			_ = a.Close() // no-op if it was used and closed
		}
	}()
	var ofRuns []string
	if o.LoRAs, ofRuns, err = adaptersOfRuns(o.LoRAs); err != nil {
		return Converted{}, err
	}
	for _, n := range ofRuns {
		note(n)
	}
	for _, text := range o.LoRAs {
		a, err := parseAdapter(text)
		if err != nil {
			return Converted{}, err
		}
		reads := Path{"--lora", a.file, wantAdapter, Either}
		if err := There(reads); err != nil {
			return Converted{}, err
		}
		if err := apart(o.Out, "", reads); err != nil {
			return Converted{}, err
		}
		f, err := lora.Open(a.file)
		if err != nil {
			return Converted{}, fmt.Errorf("--lora: %w", err)
		}
		all = append(all, lora.Weighted{File: f, Weights: a.weights, Partial: o.Partial})
		for _, n := range adapterNotes(a.file, f.Notices(), f.Embeddings, "they cannot be merged into a model's weights") {
			note(n)
		}
	}
	return o.Convert.run(ctx, note, func(m *weights.Model, as *torch.DType) (func() error, error) {
		if n := float8s(m); as == nil && n > 0 {
			note(fmt.Sprintf("the model has %s in 8-bit floats: merged weights are written as f16; pass --dtype to choose the type of all weights", plural.N(n, "weight")))
		}
		done, err := lora.MergeWeights(m, as, all...)
		if err != nil {
			return nil, partly(err, "--partial")
		}
		for _, a := range all {
			if err := leftOut(a.File, m, note); err != nil {
				return nil, errors.Join(err, done())
			}
		}
		return done, nil
	})
}

// float8s counts a model's weights in 8-bit floats.
func float8s(m *weights.Model) (n int) {
	for _, c := range []*weights.Component{m.UNet, m.Text, m.Text2} {
		if c == nil {
			continue
		}
		for name := range c.Names() {
			if _, d, _ := c.Info(name); d.IsFloat8() {
				n++
			}
		}
	}
	return n
}

// ExtractLoRA holds the options for extracting an adapter from the difference of two models.
type ExtractLoRA struct {
	Base, Tuned, Out, To, DType string
	Rank                        int
	Variant                     string
	Overwrite                   bool

	Note func(string) // receives notices; may be nil
}

// ExtractedLoRA describes the adapter written.
type ExtractedLoRA struct {
	Path    string           `json:"path"`
	Rank    int              `json:"rank"`
	Modules []lora.Extracted `json:"modules"`
	Others  []string         `json:"others"` // weights that differ but are not in the adapter
}

// Run writes the adapter.
func (o ExtractLoRA) Run(ctx context.Context, progress func(done, all int)) (out ExtractedLoRA, err error) {
	layout, err := lora.ParseLayout(cmp.Or(o.To, "kohya"))
	switch {
	case o.Base == "" || o.Tuned == "":
		return out, usage("--base and --tuned: want both models")
	case o.Out == "" || filepath.Ext(o.Out) != ".safetensors":
		return out, usage("--out: want FILE.safetensors, got %s", q.Quoted(o.Out))
	case err != nil:
		return out, usage("--to: %v", err)
	}
	d, ok := training.DTypeNamed(cmp.Or(o.DType, "f16"))
	if !ok {
		return out, usage("--dtype: want %s, got %s", strings.Join(DTypes(), ", "), q.Quoted(o.DType))
	}
	if err := ofRuns(o.Note, map[string]*string{"--base": &o.Base, "--tuned": &o.Tuned}); err != nil {
		return out, err
	}
	reads := []Path{{"--base", o.Base, wantDiffusion, WholeModel}, {"--tuned", o.Tuned, wantDiffusion, WholeModel}}
	if err := There(reads...); err != nil {
		return out, err
	}
	if err := apart(o.Out, "", reads...); err != nil {
		return out, err
	}
	if err := Writable(o.Out); err != nil {
		return out, err
	}
	base, err := openModel(o.Base, weights.Options{Variant: o.Variant})
	if err != nil {
		return out, wholeModel("--base", o.Base, false, err)
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	tuned, err := openModel(o.Tuned, weights.Options{Variant: o.Variant})
	if err != nil {
		return out, wholeModel("--tuned", o.Tuned, false, err)
	}
	defer func() { err = errors.Join(err, tuned.Close()) }()
	if err := makeDirectories(o.Out); err != nil {
		return out, err
	}
	w := lora.WriteOptions{Layout: layout, DType: &d, Overwrite: o.Overwrite}
	out = ExtractedLoRA{Path: o.Out, Rank: o.Rank, Others: []string{}}
	modules, others, err := lora.Extract(ctx, o.Out, base, tuned, o.Rank, w, progress)
	out.Modules, out.Others = modules, append(out.Others, others...)
	return out, err
}
