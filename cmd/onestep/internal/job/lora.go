package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

// LoRAInfo is what an adapter's file says, and what would fit a model.
type LoRAInfo struct {
	Path      string            `json:"path"`
	Kinds     map[string]int    `json:"kinds"`   // modules by what they are
	Layouts   map[string]int    `json:"layouts"` // modules by how they are called
	Parts     map[string]int    `json:"parts"`   // modules by the part of the model, where the model is known
	Ranks     map[string]int    `json:"ranks"`   // modules by rank
	Alphas    map[string]int    `json:"alphas"`  // modules by alpha
	DTypes    map[string]int    `json:"dtypes"`
	Base      []string          `json:"base"` // published models that all modules fit
	Metadata  map[string]string `json:"metadata,omitempty"`
	Hash      string            `json:"hash"`
	Modules   []LoRAModule      `json:"modules"`
	Model     string            `json:"model,omitempty"` // that was asked for
	Fits      *bool             `json:"fits,omitempty"`
	For       string            `json:"for,omitempty"` // another model than that
	Unmatched []string          `json:"unmatched,omitempty"`
	Misshapen []string          `json:"misshapen,omitempty"`
	Twice     []string          `json:"twice,omitempty"`
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

// InspectLoRA describes an adapter, and with a model what of it fits that.
func InspectLoRA(path, model string, o weights.Options) (LoRAInfo, error) {
	out := LoRAInfo{
		Path: path, Kinds: map[string]int{}, Layouts: map[string]int{}, Parts: map[string]int{}, Ranks: map[string]int{}, Alphas: map[string]int{},
		DTypes: map[string]int{}, Model: model, Base: []string{},
	}
	f, err := lora.Open(path)
	if err != nil {
		return out, err
	}
	defer f.Close()
	out.Metadata = f.Metadata
	if out.Hash, err = adapterHash(f.Tensors); err != nil {
		return out, err
	}
	out.Base = append(out.Base, f.Base()...)
	if model != "" {
		m, err := weights.Open(model, o)
		if err != nil {
			return out, err
		}
		defer m.Close()
		match, err := f.MatchFiles(m)
		if err != nil {
			return out, fmt.Errorf("%s: %w", model, err)
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
		out.Alphas[fmt.Sprintf("%g", m.Alpha)]++
		out.DTypes[short(m.DType)]++
		if part, _, _ := strings.Cut(m.Name, "."); slices.Contains([]string{"unet", "text_encoder", "text_encoder_2"}, part) {
			out.Parts[part]++
		}
		out.Modules = append(out.Modules, LoRAModule{m.Name, kind, m.Rank, m.Alpha, m.Scale, m.Layout.String()})
	}
	return out, nil
}

// String is the description for people; all lists every module.
func (v LoRAInfo) String(all bool) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("adapter", "%s", v.Path)
	line("modules", "%s", counts(v.Kinds))
	if len(v.Parts) > 0 {
		line("parts", "%s", counts(v.Parts))
	}
	line("layout", "%s", counts(v.Layouts))
	line("rank", "%s", counts(v.Ranks))
	line("alpha", "%s", counts(v.Alphas))
	line("type", "%s", counts(v.DTypes))
	base := "another model than the published ones, or another version of one"
	if len(v.Base) > 0 {
		base = strings.Join(v.Base, ", ")
	}
	line("fits", "%s", base)
	line("hash", "%s", v.Hash)
	for _, key := range slices.Sorted(maps.Keys(v.Metadata)) {
		if text := oneLine(v.Metadata[key]); key != "format" {
			line("metadata", "%s: %s", oneLine(key), text)
		}
	}
	if v.Fits != nil {
		switch {
		case *v.Fits:
			line("model", "%s: every module fits", v.Model)
		case v.For != "":
			line("model", "%s: does not fit: the adapter is for %s", v.Model, v.For)
		default:
			line("model", "%s: does not fit", v.Model)
		}
		for _, l := range []struct {
			what  string
			names []string
		}{{"no layer for", v.Unmatched}, {"misshapen", v.Misshapen}, {"twice", v.Twice}} {
			for _, name := range l.names {
				line("", "%s %s", l.what, name)
			}
		}
	}
	if all {
		for _, m := range v.Modules {
			line("module", "%s: %s, rank %d, alpha %g", m.Name, m.Kind, m.Rank, m.Alpha)
		}
	}
	return b.String()
}

// counts writes how many there are of each, the most first; of a single one without a number.
func counts(of map[string]int) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int { return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b)) })
	var words []string
	for _, name := range names {
		words = append(words, fmt.Sprintf("%s (%d)", name, of[name]))
	}
	return strings.Join(words, ", ")
}

// oneLine shortens free-form text for a line.
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

// ConvertLoRA are the options of writing an adapter in another layout.
type ConvertLoRA struct {
	File, To, Out, Model, DType string
	ModelOptions                weights.Options
	Overwrite                   bool
}

// Run writes the adapter.
func (o ConvertLoRA) Run() error {
	layout, err := lora.ParseLayout(o.To)
	switch {
	case o.Out == "":
		return usage("--out is missing: FILE.safetensors")
	case err != nil:
		return usage("--to: %v", err)
	case filepath.Ext(o.Out) != ".safetensors":
		return usage("--out: want FILE.safetensors, got %q", o.Out)
	}
	f, err := lora.Open(o.File)
	if err != nil {
		return err
	}
	defer f.Close()
	w := lora.WriteOptions{Layout: layout, Overwrite: o.Overwrite}
	if o.DType != "" {
		d, ok := dtypes[o.DType]
		if !ok {
			return usage("--dtype: want %s, got %q", strings.Join(DTypes(), ", "), o.DType)
		}
		w.DType = &d
	}
	if o.Model == "" {
		return f.Write(o.Out, nil, w)
	}
	m, err := weights.Open(o.Model, o.ModelOptions)
	if err != nil {
		return err
	}
	defer m.Close()
	return f.Write(o.Out, m, w)
}

// MergeLoRA are the options of making adapters part of a model's weights.
type MergeLoRA struct {
	LoRAs []string
	Convert
}

// Run writes the model with the adapters in it. Remarks go to note.
func (o MergeLoRA) Run(ctx context.Context, note func(string)) (_ Converted, err error) {
	if len(o.LoRAs) == 0 {
		return Converted{}, usage("--lora is missing: FILE or FILE=WEIGHT")
	}
	var all []lora.Weighted
	defer func() {
		for _, a := range all {
			_ = a.Close() // closed already, where it was used
		}
	}()
	for _, text := range o.LoRAs {
		a, err := parseAdapter(text)
		if err != nil {
			return Converted{}, err
		}
		f, err := lora.Open(a.file)
		if err != nil {
			return Converted{}, fmt.Errorf("--lora: %w", err)
		}
		all = append(all, lora.Weighted{File: f, Weights: a.weights})
	}
	return o.Convert.run(ctx, note, func(m *weights.Model, as *torch.DType) (func() error, error) { return lora.Bake(m, as, all...) })
}

// ExtractLoRA are the options of making an adapter of the difference of two models.
type ExtractLoRA struct {
	Base, Tuned, Out, To, DType string
	Rank                        int
	Variant                     string
	Overwrite                   bool
}

// ExtractedLoRA is what was written.
type ExtractedLoRA struct {
	Path    string           `json:"path"`
	Rank    int              `json:"rank"`
	Modules []lora.Extracted `json:"modules"`
	Others  []string         `json:"others"` // weights that differ, and that the adapter does not change
}

// Run writes the adapter.
func (o ExtractLoRA) Run(ctx context.Context, progress func(done, all int)) (out ExtractedLoRA, err error) {
	layout, err := lora.ParseLayout(cmp.Or(o.To, "kohya"))
	switch {
	case o.Base == "" || o.Tuned == "":
		return out, usage("--base and --tuned: want two models")
	case o.Out == "" || filepath.Ext(o.Out) != ".safetensors":
		return out, usage("--out: want FILE.safetensors, got %q", o.Out)
	case err != nil:
		return out, usage("--to: %v", err)
	}
	d, ok := dtypes[cmp.Or(o.DType, "f16")]
	if !ok {
		return out, usage("--dtype: want %s, got %q", strings.Join(DTypes(), ", "), o.DType)
	}
	base, err := weights.Open(o.Base, weights.Options{Variant: o.Variant})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	tuned, err := weights.Open(o.Tuned, weights.Options{Variant: o.Variant})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, tuned.Close()) }()
	w := lora.WriteOptions{Layout: layout, DType: &d, Overwrite: o.Overwrite}
	out = ExtractedLoRA{Path: o.Out, Rank: o.Rank, Others: []string{}}
	modules, others, err := lora.Extract(ctx, o.Out, base, tuned, o.Rank, w, progress)
	out.Modules, out.Others = modules, append(out.Others, others...)
	return out, err
}
