package lora

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// WriteOptions configure the writing of an adapter.
type WriteOptions struct {
	Layout    Layout            // Kohya, which all programs read, PEFT or Diffusers
	DType     *torch.DType      // type of the written values; nil: unchanged
	Overwrite bool              // replace an existing file
	Partial   bool              // skip modules without a layer in the model; otherwise they are an error
	Metadata  map[string]string // additional metadata of the file; see [Adapter.Metadata]
	Hashes    bool              // add the hashes of kohya's scripts, sshs_model_hash and sshs_legacy_hash, which depend on the tensors and the entries ss_*
}

// ParseLayout returns the layout of a name that can be written: "kohya", "peft" or "diffusers".
func ParseLayout(name string) (Layout, error) {
	for _, l := range []Layout{Kohya, PEFT, Diffusers} {
		if l.String() == name {
			return l, nil
		}
	}
	return 0, fmt.Errorf("layout: want kohya, peft or diffusers, got %s", quote.Quoted(name))
}

// output is a module to be written.
type output struct {
	part, path string
	kind       Kind
	rank       int
	alpha      float64 // the scale is alpha/rank
	alphaType  torch.DType
	order      []role
	get        func(s *torch.Scope, r role) (*torch.Tensor, error)
	info       func(r role) ([]int, torch.DType)
}

// ErrUnknownBase is the error of an adapter whose names cannot be converted: it matches no published base model, and no model was given.
var ErrUnknownBase = errors.New("its modules match none of the published base models (Stable Diffusion 1, 2 and XL, SSD-1B): want the model that the adapter is for")

// Write writes the file's adapter in another layout. Names are resolved by the layers of model, or, if it is nil, by those of the published
// base model that all modules match. The factors are unchanged; their scale is stored in the layout's way. Of the metadata, only the size of a
// few-step adapter's grid of timesteps is kept. Bundled embeddings are written in layout [Kohya] only.
func (f *File) Write(path string, model *weights.Model, o WriteOptions) error {
	var t *table
	if model != nil {
		plans, err := plansOf(model)
		if err != nil {
			return err
		}
		t = tableOfPlan(plans)
	} else if _, t = f.published(); t == nil {
		if t = f.own(o.Layout); t == nil {
			return fmt.Errorf("%s: %w", quote.Path(f.Path), ErrUnknownBase)
		}
	}
	m := f.match(t, "the model")
	if err := m.Err(o.Partial); err != nil {
		return fmt.Errorf("%s: %w", quote.Path(f.Path), err)
	}
	if err := f.finite(m.pairs); err != nil {
		return fmt.Errorf("%s: %w", quote.Path(f.Path), err)
	}
	own := map[string]string{} // of the metadata what says how the adapter is used
	if n := f.OriginalSteps(); n > 0 {
		own[gridKey] = strconv.Itoa(n)
	}
	if r := f.Run(); r != (sd.AdapterRun{}) {
		own[sd.RunEntry] = f.Metadata[sd.RunEntry]
	}
	maps.Copy(own, o.Metadata)
	o.Metadata = own
	var all []output
	for _, p := range m.pairs {
		one := output{
			part: p.spot.part, path: p.spot.path, kind: p.Kind, rank: p.Rank, alpha: p.written(), alphaType: p.DType, order: p.order,
			get: func(s *torch.Scope, r role) (*torch.Tensor, error) { return f.src.Get(s, p.tensors[r]) },
			info: func(r role) ([]int, torch.DType) {
				shape, d, _ := f.src.Info(p.tensors[r])
				return shape, d
			},
		}
		if err := p.keeps(o.Layout); err != nil {
			return fmt.Errorf("%s: %w", quote.Path(f.Path), err)
		}
		all = append(all, one)
	}
	return write(path, all, f.bundles(o), t.named[text2Part] != nil, o)
}

// bundles are the tensors of the file's bundled embeddings, for a layout that can hold them.
func (f *File) bundles(o WriteOptions) (all []named) {
	if o.Layout != Kohya {
		return nil
	}
	for _, e := range f.Embeddings {
		for _, key := range e.Keys {
			name := bundled + e.Name + "." + key
			shape, d, _ := f.src.Info(name)
			if o.DType != nil && (d.IsFloat() || d.IsFloat8()) {
				d = *o.DType
			}
			all = append(all, named{name, d, shape, func(s *torch.Scope) (*torch.Tensor, error) { return e.Get(s, key) }})
		}
	}
	return all
}

// own makes a table from the file's own names, if names in the other layout follow from them; otherwise nil.
func (f *File) own(to Layout) *table {
	t := &table{named: map[string]map[string]*spot{}}
	for _, m := range f.Modules {
		got, err := f.shape(m)
		old := slices.ContainsFunc([]string{"input_blocks", "middle_block", "output_blocks"}, func(s string) bool { return strings.HasPrefix(m.key.path, s) })
		if err != nil || m.key.part == "" || old || (m.key.flat && to != Kohya) {
			return nil
		}
		s := &spot{part: m.key.part, path: m.key.path, shape: got[:2], biased: true}
		if product(got[2:]) > 1 {
			s.shape = got
		}
		t.spots = append(t.spots, s)
	}
	t.spell()
	return t
}

// Write writes the adapter's current weights. Every layout can hold a plain LoRA; other kinds need a layout that has names for them.
func (a *Adapter) Write(path string, o WriteOptions) error {
	all, err := a.outputs(o.Layout)
	if err != nil {
		return fmt.Errorf("write %s: %w", quote.Path(path), err)
	}
	var beside []named
	if a.file != nil {
		beside = a.file.bundles(o)
	}
	return write(path, all, beside, a.second, o)
}

// outputs are the adapter's modules with their weights, to be written in a layout.
func (a *Adapter) outputs(layout Layout) ([]output, error) {
	tensors := maps.Collect(a.store.Tensors())
	var all []output
	for i, m := range a.Modules {
		s := a.spots[i]
		if err := m.keeps(layout); err != nil {
			return nil, err
		}
		tensor := func(r role) *torch.Tensor {
			if end, ok := factorNames[r]; ok && m.Kind == LowRank {
				return tensors[s.name()+"."+end]
			}
			return tensors[s.name()+"."+string(r)]
		}
		one := output{
			part: s.part, path: s.path, kind: m.Kind, rank: m.Rank, alpha: m.written(),
			order: slices.DeleteFunc(slices.Clone(m.order), func(r role) bool { return r == alpha }),
			get:   func(s *torch.Scope, r role) (*torch.Tensor, error) { return tensor(r).Detach(s), nil },
			info:  func(r role) ([]int, torch.DType) { return tensor(r).Shape(), tensor(r).DType() },
		}
		one.alphaType = tensor(one.order[0]).DType()
		all = append(all, one)
	}
	return all, nil
}

// written is a module's alpha in files: with which its scale is alpha/rank, or the limit of a rotation.
func (m *Module) written() float64 {
	if m.Kind.rotates() {
		return m.Alpha
	}
	return m.Scale * float64(m.Rank)
}

// keeps reports a module that cannot be converted to another layout exactly.
func (m *Module) keeps(layout Layout) error {
	if m.DoRA && m.Layout != layout && (m.Layout == PEFT || layout == PEFT) {
		return fmt.Errorf("%s: the layout %s defines DoRA's magnitudes differently: want the adapter's own layout, %s", quote.Text(m.Name), layout, m.Layout)
	}
	return nil
}

// names of roles in each layout.
var written = map[Layout]map[role]string{
	Kohya:     {down: ".lora_down.weight", up: ".lora_up.weight", mid: ".lora_mid.weight", magnitude: ".dora_scale"},
	PEFT:      {down: ".lora_A.weight", up: ".lora_B.weight", magnitude: ".lora_magnitude_vector"},
	Diffusers: {down: ".lora.down.weight", up: ".lora.up.weight"},
}

// stem is the name of a module in the layout.
func (o WriteOptions) stem(m output, xl bool) string {
	if o.Layout != Kohya {
		return m.part + "." + m.path
	}
	prefix := map[string]string{unetPart: "lora_unet_", textPart: "lora_te_", text2Part: "lora_te2_"}[m.part]
	if m.part == textPart && xl {
		prefix = "lora_te1_"
	}
	return prefix + flatten(m.path)
}

// end is the suffix of a module's role in the layout.
func (o WriteOptions) end(m output, r role) (string, error) {
	if end, ok := written[o.Layout][r]; ok {
		if o.Layout == Diffusers && m.part != unetPart {
			return strings.Replace(end, ".lora.", ".lora_linear_layer.", 1), nil
		}
		return end, nil
	}
	if o.Layout == Kohya && r != alpha {
		return "." + string(r), nil // LyCORIS
	}
	return "", fmt.Errorf("%s.%s: the layout %s has no name for %s of a %s: want kohya", m.part, quote.Text(m.path), o.Layout, r, m.kind)
}

// named is a tensor to be written.
type named struct {
	name  string
	dtype torch.DType
	shape []int
	get   func(s *torch.Scope) (*torch.Tensor, error)
}

// name returns the tensors of modules with the layout's names, and the layout's metadata for them.
func (o WriteOptions) name(modules []output, xl bool) (all []named, metadata map[string]string, err error) {
	as := func(d torch.DType) torch.DType {
		if o.DType != nil {
			return *o.DType
		}
		return d
	}
	for _, m := range modules {
		stem := o.stem(m, xl)
		for _, r := range m.order {
			if r == alpha {
				continue
			}
			end, err := o.end(m, r)
			if err != nil {
				return nil, nil, err
			}
			shape, d := m.info(r)
			all = append(all, named{stem + end, as(d), shape, func(s *torch.Scope) (*torch.Tensor, error) {
				t, err := m.get(s, r)
				if err == nil && r == "lokr_w1" && m.whole() { // there is no alpha to scale it
					t = t.To(s, torch.Float32).MulScalar(s, m.alpha/float64(m.rank))
				}
				return t, err
			}})
		}
		if o.Layout != Kohya || m.kind == Difference || m.rank == 0 && !m.kind.rotates() || m.whole() {
			continue
		}
		all = append(all, named{stem + ".alpha", exact(as(m.alphaType), m.alpha), nil, func(s *torch.Scope) (*torch.Tensor, error) {
			return torch.Scalar(s, m.alpha), nil
		}})
	}
	if o.Layout == Kohya {
		return all, nil, nil
	}
	data, err := peftSettings(modules)
	return all, map[string]string{metadataKey: data}, err
}

// whole reports whether it is a LoKr of two full factors with a scale, which peft supports and LyCORIS does not.
func (m output) whole() bool {
	return m.kind == Kronecker && m.rank > 0 && m.alpha != float64(m.rank) &&
		!slices.ContainsFunc(m.order, func(r role) bool { return r == "lokr_w1_b" || r == "lokr_w2_b" })
}

// write writes modules and additional tensors to a file.
func write(path string, modules []output, beside []named, xl bool, o WriteOptions) error {
	fail := func(err error) error { return fmt.Errorf("write %s: %w", quote.Path(path), err) }
	if o.DType != nil && !o.DType.IsFloat() {
		return fail(fmt.Errorf("want values of a floating-point type, got %s", *o.DType))
	}
	if o.Layout == Processors {
		return fail(fmt.Errorf("the layout %s is read only: want kohya, peft or diffusers", o.Layout))
	}
	tensors, described, err := o.name(modules, xl)
	if err != nil {
		return fail(err)
	}
	metadata := map[string]string{"format": "pt"}
	maps.Copy(metadata, o.Metadata)
	maps.Copy(metadata, described)
	var all []safetensors.Source
	for _, t := range append(tensors, beside...) {
		src, err := source(t)
		if err != nil {
			return fail(err)
		}
		all = append(all, src)
	}
	if o.Hashes {
		if err := addHashes(metadata, all); err != nil {
			return fail(err)
		}
	}
	return safetensors.Write(path, all, safetensors.Options{Metadata: metadata, Overwrite: o.Overwrite})
}

// Snapshot returns the tensors and metadata of a file that restores this adapter with its scales. A plain LoRA has the names of
// [Adapter.Parameters], with PEFT's settings in the metadata; other kinds have the names of kohya's scripts, with alphas as tensors.
func (a *Adapter) Snapshot(s *torch.Scope) (iter.Seq2[string, *torch.Tensor], map[string]string, error) {
	o := WriteOptions{Layout: PEFT}
	if slices.ContainsFunc(a.Modules, func(m Module) bool {
		return m.Kind != LowRank || m.DoRA && m.Layout != PEFT || m.shapes[diffBias] != nil
	}) {
		o.Layout = Kohya
	}
	modules, err := a.outputs(o.Layout)
	if err != nil {
		return nil, nil, err
	}
	all, metadata, err := o.name(modules, a.second)
	if err != nil {
		return nil, nil, err
	}
	tensors := make([]*torch.Tensor, len(all))
	for i, n := range all {
		t, err := n.get(s)
		if err != nil {
			return nil, nil, err
		}
		tensors[i] = t.To(s, n.dtype)
	}
	return func(yield func(string, *torch.Tensor) bool) {
		for i, n := range all {
			if !yield(n.name, tensors[i]) {
				return
			}
		}
	}, metadata, nil
}

// exact returns the type d, or float32 if d cannot represent v exactly.
func exact(d torch.DType, v float64) torch.DType {
	holds := false
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		holds = torch.Scalar(s, v).To(s, d).To(s, torch.Float64).Item() == v
		return nil
	})
	if err != nil || !holds {
		return torch.Float32
	}
	return d
}

var fileTypes = map[torch.DType]safetensors.DType{
	torch.Float32: safetensors.F32, torch.Float64: safetensors.F64, torch.Float16: safetensors.F16, torch.BFloat16: safetensors.BF16,
	torch.Float8E4M3: safetensors.F8E4M3, torch.Float8E5M2: safetensors.F8E5M2,
}

func source(n named) (safetensors.Source, error) {
	kind, ok := fileTypes[n.dtype]
	if !ok {
		return safetensors.Source{}, fmt.Errorf("%s: adapter files do not support type %s", quote.Text(n.name), n.dtype)
	}
	return safetensors.Source{Name: n.name, DType: kind, Shape: n.shape, Data: func() (data []byte, err error) {
		err = torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				t, err := n.get(s)
				if err == nil {
					data = t.ToDevice(s, torch.CPU).To(s, n.dtype).Contiguous(s).Bytes()
				}
				return err
			})
		})
		return data, err
	}}, nil
}

// peftSettings returns peft's configuration of the modules, by part, with patterns for ranks and alphas that differ from the most common.
func peftSettings(modules []output) (string, error) {
	all := map[string]any{}
	for _, part := range []string{unetPart, textPart, text2Part} {
		var of []output
		for _, m := range modules {
			if m.part == part {
				of = append(of, m)
			}
		}
		if of == nil {
			continue
		}
		rank, alpha := usual(of, func(m output) int { return m.rank }), usual(of, func(m output) float64 { return m.alpha })
		ranks, alphas, targets := map[string]int{}, map[string]float64{}, []string{}
		for _, m := range of {
			path := strings.TrimPrefix(m.path, "text_model.") // transformers 5 has it no more; peft looks at the ends of paths
			targets = append(targets, path)
			if m.rank != rank {
				ranks[path] = m.rank
			}
			if m.alpha != alpha {
				alphas[path] = m.alpha
			}
		}
		slices.Sort(targets)
		for key, v := range map[string]any{
			"peft_type": "LORA", "r": rank, "lora_alpha": number(alpha), "rank_pattern": ranks, "alpha_pattern": alphas, "target_modules": targets,
			"use_rslora": false, "use_dora": slices.ContainsFunc(of, func(m output) bool { return slices.Contains(m.order, magnitude) }),
			"bias": "none", "lora_dropout": 0.0, "init_lora_weights": true, "lora_bias": false,
		} {
			all[part+"."+key] = v
		}
	}
	data, err := json.Marshal(all)
	return string(data), err
}

// number returns integral values as integers, as peft writes them.
func number(v float64) any {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return int64(v)
	}
	return v
}

// usual returns the most common value of the modules.
func usual[T comparable](modules []output, of func(m output) T) T {
	count := map[T]int{}
	best := of(modules[0])
	for _, m := range modules {
		v := of(m)
		count[v]++
		if count[v] > count[best] {
			best = v
		}
	}
	return best
}
