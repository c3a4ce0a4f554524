package lora

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Networks are the networks that an adapter can apply to, by their part of the model: "unet", "text_encoder" and "text_encoder_2".
type Networks map[string]*nn.Store

// Of returns the networks of a model.
func Of(m *sd.Model) Networks {
	n := Networks{}
	if m.UNet != nil {
		n[unetPart] = m.UNet.Store()
	}
	for i, t := range m.Texts {
		n[textParts[i]] = t.Store()
	}
	return n
}

// open reports networks that were closed.
func (n Networks) open() error {
	for _, part := range slices.Sorted(maps.Keys(n)) {
		if st := n[part]; st == nil || st.Closed() {
			return fmt.Errorf("%s: the network was closed (%w): want an open network", part, torch.ErrFreed)
		}
	}
	return nil
}

var textParts = []string{textPart, text2Part}

// spot is a layer of a model.
type spot struct {
	part, path string   // in diffusers' current names
	shape      []int    // of the weight
	layer      nn.Layer // nil: the model is not loaded, only its shapes are known
	bias       *torch.Tensor
	biased     bool // the layer has a bias
}

// convolution reports whether the layer is a convolution.
func (s spot) convolution() bool { return len(s.shape) == 4 }

// name is the part and the path.
func (s spot) name() string { return s.part + "." + s.path }

// table finds the layers of a model by their names in files. Names are derived from the model's paths and never parsed into paths, since a
// flattened name can be ambiguous.
type table struct {
	spots []*spot
	named map[string]map[string]*spot // by part and name, dotted and flattened
}

// tableOf makes the table of a model.
func tableOf(n Networks) *table {
	t := &table{named: map[string]map[string]*spot{}}
	for _, part := range slices.Sorted(maps.Keys(n)) {
		tensors := maps.Collect(n[part].Tensors())
		for path, l := range n[part].Layers() {
			bias := tensors[path+".bias"]
			t.spots = append(t.spots, &spot{part, path, l.Kernel().Shape(), l, bias, bias != nil})
		}
	}
	t.spell()
	return t
}

// tableOfPlan makes the table of a model that is not loaded.
func tableOfPlan(parts map[string][]nn.Shape) *table {
	t := &table{named: map[string]map[string]*spot{}}
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		has := map[string]bool{}
		for _, s := range parts[part] {
			has[s.Name] = true
		}
		for _, s := range parts[part] {
			path, ok := strings.CutSuffix(s.Name, ".weight")
			if ok && !strings.HasPrefix(path, "text_model.embeddings.") {
				t.spots = append(t.spots, &spot{part: part, path: path, shape: s.Dims, biased: has[path+".bias"]})
			}
		}
	}
	t.spell()
	return t
}

// published returns the tables of the published base models that most adapters are for.
func published() map[string]*table {
	text, text2 := clip.Shapes(clip.L()), clip.Shapes(clip.BigG())
	return map[string]*table{
		"Stable Diffusion 1":  tableOfPlan(map[string][]nn.Shape{unetPart: unet.Shapes(unet.LCM15()), textPart: text}),
		"Stable Diffusion 2":  tableOfPlan(map[string][]nn.Shape{unetPart: unet.Shapes(unet.SD21()), textPart: clip.Shapes(clip.H())}),
		"Stable Diffusion XL": tableOfPlan(map[string][]nn.Shape{unetPart: unet.Shapes(unet.SDXL()), textPart: text, text2Part: text2}),
		"SSD-1B":              tableOfPlan(map[string][]nn.Shape{unetPart: unet.Shapes(unet.SSD1B()), textPart: text, text2Part: text2}),
	}
}

// spell adds all names of the layers.
func (t *table) spell() {
	theirs := weights.CompVis(t.unetNames())
	for _, s := range t.spots {
		t.add(s, s.path)
		if s.part == unetPart {
			if name, ok := theirs(s.path + ".weight"); ok {
				t.add(s, strings.TrimSuffix(name, ".weight"))
			}
			continue
		}
		short := strings.TrimPrefix(s.path, "text_model.")
		t.add(s, short)
		for today, old := range map[string]string{"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out.0"} {
			if head, ok := strings.CutSuffix(s.path, today); ok {
				t.add(s, head+old)
				t.add(s, strings.TrimPrefix(head, "text_model.")+old)
			}
		}
	}
}

// unetNames yields the names of the U-Net's weights.
func (t *table) unetNames() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, s := range t.spots {
			if s.part == unetPart && !yield(s.path+".weight") {
				return
			}
		}
	}
}

// add adds a name, dotted and flattened. The first layer with a name keeps it.
func (t *table) add(s *spot, name string) {
	of := t.named[s.part]
	if of == nil {
		of = map[string]*spot{}
		t.named[s.part] = of
	}
	for _, spelled := range []string{name, flatten(name)} {
		if of[spelled] == nil {
			of[spelled] = s
		}
	}
}

// flatten returns a path as kohya's scripts write it.
func flatten(path string) string { return strings.ReplaceAll(path, ".", "_") }

// find returns the layer of a key, or nil.
func (t *table) find(k key) *spot {
	parts := []string{k.part}
	if k.part == "" {
		parts = []string{unetPart, textPart, text2Part}
	}
	for _, part := range parts {
		if s := t.named[part][k.path]; s != nil {
			return s
		}
	}
	return nil
}

// width returns the width of the text features that the U-Net takes; 0 if it takes none.
func (t *table) width() int {
	for _, s := range t.spots {
		if s.part == unetPart && strings.HasSuffix(s.path, "attn2.to_k") {
			return s.shape[1]
		}
	}
	return 0
}
