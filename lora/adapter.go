package lora

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Options say how an adapter is attached.
type Options struct {
	Partial bool // skip modules without a layer in the model and list them in Adapter.Unmatched; otherwise they are an error
	// DType is the type of the adapter's weights; nil: the model's. Use float32 to continue training with a half-precision model.
	DType *torch.DType
}

// Adapter is an adapter for the layers of a model, which it does not modify. It owns its weights. Several goroutines may use it.
type Adapter struct {
	Modules   []Module // the applied modules
	Unmatched []string // skipped modules, which have no layer in the model

	store *nn.Store
	spots []*spot // of Modules
	made  []made
	file  *File // nil: it was not read

	second bool // the model has a second text encoder
}

// made is the delta of one weight or bias, ready to run.
type made struct {
	spot *spot
	at   func(weight float64) nn.Adapter
	base float64 // the module's scale
	bias bool    // the delta is of the bias, not the weight
	rank int     // of a plain LoRA; 0: another kind
}

// target is the tensor that the delta applies to; nil: the model is not loaded.
func (m made) target() *torch.Tensor {
	switch {
	case m.bias:
		return m.spot.bias
	case m.spot.layer != nil:
		return m.spot.layer.Kernel()
	}
	return nil
}

// Load opens an adapter and attaches it to a model; see [Open] and [Attach].
func Load(m *sd.Model, path string, o Options) (*Adapter, error) {
	if err := m.Loaded(); err != nil {
		return nil, err
	}
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	a, err := Attach(Of(m), f, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

// Attach makes an adapter from a file's modules for the layers of networks, on their device. The adapter owns the file from
// then on. NaN and infinite values are an error.
func Attach(n Networks, f *File, o Options) (*Adapter, error) {
	if err := n.open(); err != nil {
		return nil, err
	}
	for _, st := range n {
		return attach(tableOf(n), f, st.Device(), st.DType(), o)
	}
	return nil, errors.New("want networks to attach an adapter to")
}

func attach(t *table, f *File, dev torch.Device, d torch.DType, o Options) (*Adapter, error) {
	if o.DType != nil {
		if d = *o.DType; !d.IsFloat() {
			return nil, fmt.Errorf("DType: want a floating-point type, got %s", d)
		}
	}
	match := f.match(t, "the model")
	if err := match.Err(o.Partial); err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(f.Path), err)
	}
	if err := f.finite(match.pairs); err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(f.Path), err)
	}
	a := &Adapter{Unmatched: match.Unmatched, file: f, second: t.named[text2Part] != nil}
	src := factors{f: f, by: map[string]factor{}}
	for _, p := range match.pairs {
		src.add(p)
	}
	var err error
	a.store, err = nn.BuildFrom(src, dev, d, func(root nn.Path) {
		for _, p := range match.pairs {
			a.add(p, root.Sub(p.spot.part, p.spot.path))
		}
	})
	if err == nil {
		err = a.held(src, d)
	}
	if err != nil {
		a.store.Close()
		return nil, fmt.Errorf("%s: %w", quote.Path(f.Path), err)
	}
	return a, nil
}

// held reports values that overflow in the type d.
func (a *Adapter) held(src factors, d torch.DType) error {
	var bad []string
	err := torch.Run(a.store.Device(), func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for name, t := range a.store.Tensors() {
				if _, from, _ := src.Info(name); from == d || from == torch.Float16 || d == torch.Float64 || (from == torch.BFloat16 && d == torch.Float32) {
					continue
				}
				whole := s.Tidy(func(s *torch.Scope) *torch.Tensor { return t.To(s, d).IsFinite(s).All(s) })
				if whole.Item() == 0 {
					bad = append(bad, quote.Text(src.by[name].name))
				}
			}
			return nil
		})
	})
	if err != nil || bad == nil {
		return err
	}
	return errors.New(list("tensor", fmt.Sprintf(" with values that %s, the model's type, cannot hold", d), bad))
}

// Names of an adapter's tensors, below the layer's path.
const downName, upName = "lora_A", "lora_B"

// factorNames are the names of a LoRA's two weights there.
var factorNames = map[role]string{down: downName + ".weight", up: upName + ".weight"}

// add makes a module's adapter from the tensors below the path.
func (a *Adapter) add(p pair, path nn.Path) {
	a.Modules, a.spots = append(a.Modules, *p.Module), append(a.spots, p.spot)
	if shape, ok := p.shapes[diffBias]; ok {
		d := path.Param(string(diffBias), nil, shape...)
		change := func(s *torch.Scope, t torch.DType) *torch.Tensor { return d.To(s, t) }
		a.made = append(a.made, made{p.spot, func(weight float64) nn.Adapter {
			return &fullRank{change: change, scale: weight, of: []*torch.Tensor{d}}
		}, 1, true, 0})
		if p.Kind == Difference && p.shapes[diff] == nil {
			return
		}
	}
	var change func(s *torch.Scope, d torch.DType) *torch.Tensor // of the weight, without scale
	var of []*torch.Tensor
	switch {
	case p.Kind.rotates():
		a.made = append(a.made, made{p.spot, p.rotary(path), 1, false, 0})
		return
	case p.Kind == LowRank && !p.DoRA:
		a.made = append(a.made, plain(p.spot, p.Rank, p.Scale, lowRank(p.spot, p.Rank, path, nil, nil)))
		return
	case p.Kind == LowRank:
		one := lowRank(p.spot, p.Rank, path, nil, nil)
		of = []*torch.Tensor{one.Up.Kernel(), one.Down.Kernel()}
		change = func(s *torch.Scope, d torch.DType) *torch.Tensor {
			return one.Up.Kernel().To(s, d).Flatten(s, 1, -1).MatMul(s, one.Down.Kernel().To(s, d).Flatten(s, 1, -1))
		}
	default:
		change, of = p.full(path)
	}
	var lengths *torch.Tensor
	if p.DoRA {
		lengths = path.Param(string(magnitude), nil, p.shapes[magnitude]...)
		of = append(of, lengths)
	}
	a.made = append(a.made, made{p.spot, func(weight float64) nn.Adapter {
		return &fullRank{change, lengths, p.Layout == PEFT, weight, of}
	}, p.Scale, false, 0})
}

// plain is a LoRA, ready to run.
func plain(s *spot, rank int, scale float64, one nn.LowRank) made {
	return made{s, func(weight float64) nn.Adapter { return nn.LowRank{Down: one.Down, Up: one.Up, Scale: weight} }, scale, false, rank}
}

// lowRank makes the two layers of a LoRA.
func lowRank(s *spot, rank int, path nn.Path, a, b nn.Init) nn.LowRank {
	out, in := s.shape[0], s.shape[1]
	if s.convolution() {
		var opt torch.Conv2DOptions
		if c, ok := s.layer.(nn.Conv2D); ok {
			opt = c.Opt
		}
		return nn.LowRank{
			Down: nn.NewConv2DInit(path.Sub(downName), in, rank, s.shape[2], opt, a, nil),
			Up:   nn.NewConv2DInit(path.Sub(upName), rank, out, 1, torch.Conv2DOptions{}, b, nil),
		}
	}
	return nn.LowRank{Down: nn.NewLinearInit(path.Sub(downName), in, rank, a, nil), Up: nn.NewLinearInit(path.Sub(upName), rank, out, b, nil)}
}

// finite reports modules with NaN or infinite values.
func (f *File) finite(pairs []pair) error {
	var bad []string
	for _, p := range pairs {
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				for _, name := range p.tensors {
					t, err := f.src.Get(s, name)
					if err != nil {
						return err
					}
					if t.DType().IsFloat8() { // to compute with
						t = t.To(s, torch.Float32)
					}
					if t.IsFinite(s).All(s).Item() == 0 {
						bad = append(bad, quote.Text(name))
					}
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	if bad == nil {
		return nil
	}
	slices.Sort(bad)
	return fmt.Errorf("the adapter would destroy the model: %s", list("tensor", " with values that are not finite", bad))
}

// At returns the adapter with a LoRA weight, for a network to run with; 0 disables it. For DoRA the weight multiplies the low-rank delta,
// before normalisation, as in peft; other programs multiply the whole difference.
func (a *Adapter) At(weight float64) nn.Adapters { return a.By(Weights{"": weight}) }

// Weights are an adapter's LoRA weights by prefixes of layer names, such as "unet.down_blocks.1", "unet", or "text_encoder"; "" is for all
// layers. The longest matching prefix is used; layers that match none have weight 1.
type Weights map[string]float64

// of returns the weight of a layer.
func (w Weights) of(name string) float64 {
	for {
		if v, ok := w[name]; ok {
			return v
		}
		i := strings.LastIndexByte(name, '.')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	if v, ok := w[""]; ok {
		return v
	}
	return 1
}

// Check reports weights that are not finite, and prefixes that match no adapted layer. A whole part of a model, such as "text_encoder", may
// always have a weight: many adapters have no layers in it.
func (a *Adapter) Check(w Weights) error {
	for _, name := range slices.Sorted(maps.Keys(w)) {
		if v := w[name]; math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("weight: want a finite number, got %g", v)
		}
		if name == "" || name == "unet" || name == "text_encoder" || name == "text_encoder_2" || slices.ContainsFunc(a.made, func(m made) bool { return m.spot.name() == name || strings.HasPrefix(m.spot.name(), name+".") }) {
			continue
		}
		return fmt.Errorf("weights by block: no adapted layer has the prefix %s: want one of the adapter's, such as %s", quote.Quoted(name), strings.Join(a.prefixes(3), ", "))
	}
	return nil
}

// prefixes returns the first n prefixes of two or three words that adapted layers have, such as unet.down_blocks.1.
func (a *Adapter) prefixes(n int) (some []string) {
	for _, m := range a.made {
		words := strings.SplitN(m.spot.name(), ".", 4)
		if len(words) == 4 && words[1] != "mid_block" {
			words = words[:3]
		} else {
			words = words[:min(2, len(words))]
		}
		if p := quote.Text(strings.Join(words, ".")); !slices.Contains(some, p) && len(some) < n {
			some = append(some, p)
		}
	}
	return some
}

// By returns the adapter with weights by block.
func (a *Adapter) By(w Weights) nn.Adapters {
	all := nn.Adapters{}
	for _, m := range a.made {
		if v, at := w.of(m.spot.name()), m.target(); v != 0 && at != nil {
			all[at] = []nn.Adapter{m.at(v * m.base)}
		}
	}
	return all
}

// Parameters yields the adapter's own weights. Their names are the layers' with PEFT's suffixes, ".lora_A.weight" and ".lora_B.weight".
func (a *Adapter) Parameters() iter.Seq2[string, *torch.Tensor] { return a.store.Parameters() }

// Store returns the owner of the adapter's weights.
func (a *Adapter) Store() *nn.Store { return a.store }

// File returns the file that the adapter was read from, which the adapter owns; nil for an adapter made by [New].
func (a *Adapter) File() *File { return a.file }

// Close frees the adapter's weights and closes its file. No network may be running with it or have it merged.
func (a *Adapter) Close() error {
	a.store.Close()
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// Merge merges adapters into the weights that a model computes with, so that they cost nothing at each step. With nil it unmerges them: the
// model's own weights are kept, so that the results are the same as before to the bit. The adapters have to stay open until then. If their
// values change, merge again. Merge must not be called while the model runs. Adapters of another model are an error.
func Merge(m *sd.Model, a nn.Adapters) error {
	if err := m.Loaded(); err != nil {
		return err
	}
	if err := m.CheckAdapters(a); err != nil {
		return err
	}
	var err error
	for _, st := range Of(m) {
		err = errors.Join(err, st.Merge(a))
	}
	return err
}
