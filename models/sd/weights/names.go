package weights

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// renamed is a source under other names.
type renamed struct {
	src    nn.Source
	theirs map[string]string // the source's names, by ours
	order  []string          // ours, in the source's order
	shapes map[string][]int  // ours that are read in another shape
}

// today gives a diffusers or transformers file today's names: attention of old autoencoders was called query, key, value and proj_attn and
// may have been 1×1 convolutions; transformers 5 leaves the prefix text_model out; old text encoders hold the numbers of positions,
// and those of a whole CLIP model what is not text.
func today(src nn.Source) nn.Source {
	r := &renamed{src: src, theirs: map[string]string{}, shapes: map[string][]int{}}
	text, projected := false, false
	for name := range src.Names() {
		text = text || strings.HasSuffix(name, "embeddings.token_embedding.weight")
		projected = projected || name == "text_projection.weight"
	}
	for name := range src.Names() {
		ours := name
		if text {
			switch {
			case strings.HasSuffix(name, "position_ids"), strings.HasPrefix(name, "vision_model."), name == "logit_scale",
				strings.HasPrefix(name, "visual_projection."):
				continue
			case !strings.HasPrefix(name, "text_model.") && !strings.HasPrefix(name, "text_projection."):
				ours = "text_model." + name
			}
		}
		if head, tail, ok := cutAttention(name); ok {
			ours = head + tail
			if shape, _, _ := src.Info(name); len(shape) == 4 && shape[2] == 1 && shape[3] == 1 {
				r.shapes[ours] = shape[:2]
			}
		}
		r.theirs[ours] = name
		r.order = append(r.order, ours)
	}
	return r
}

// cutAttention divides the name of an old autoencoder's attention into what stays and today's end.
func cutAttention(name string) (head, tail string, ok bool) {
	i := strings.Index(name, ".mid_block.attentions.")
	if i < 0 {
		return "", "", false
	}
	for old, now := range map[string]string{"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"} {
		for _, end := range []string{".weight", ".bias"} {
			if head, ok := strings.CutSuffix(name, "."+old+end); ok {
				return head, "." + now + end, true
			}
		}
	}
	return "", "", false
}

// Info implements nn.Source.
func (r *renamed) Info(name string) ([]int, torch.DType, bool) {
	theirs, ok := r.theirs[name]
	if !ok {
		return nil, 0, false
	}
	shape, d, ok := r.src.Info(theirs)
	if other, has := r.shapes[name]; has {
		shape = other
	}
	return shape, d, ok
}

// Names implements nn.Source.
func (r *renamed) Names() iter.Seq[string] { return slices.Values(r.order) }

// Get implements nn.Source.
func (r *renamed) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	theirs, ok := r.theirs[name]
	if !ok {
		return nil, fmt.Errorf("there is no tensor %q", name)
	}
	t, err := r.src.Get(s, theirs)
	if err != nil {
		return nil, err
	}
	if shape, has := r.shapes[name]; has {
		v := t.View(s, shape...)
		t.Free()
		t = v
	}
	return t, nil
}

// Release implements nn.Source.
func (r *renamed) Release(name string) {
	if theirs, ok := r.theirs[name]; ok {
		r.src.Release(theirs)
	}
}
