package original

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/models/unet"
)

// how says how a tensor of a code is made of ours.
type how int

const (
	plain   how = iota // the same elements, perhaps in another shape
	fixedAs            // plain, and not trained
	qkv                // queries, keys and values in the code's order
	turned             // transposed, without the null class
	filter             // the resampling filter: a constant
)

// tensor is a tensor of a code.
type tensor struct {
	name  string
	dims  []int
	how   how
	ours  []string // the names of ours: one, three for qkv, at most one for the filter
	heads int      // of qkv
}

// walk collects a network's tensors in the order of a code's state dict.
type walk struct {
	Layout
	ours map[string][]int // shapes
	all  []tensor
}

// tensors returns the tensors of the layout.
func (l Layout) tensors() []tensor {
	w := walk{Layout: l, ours: map[string][]int{}}
	for _, t := range l.Config.Shapes() {
		w.ours[t.Name] = t.Dims
	}
	if l.Code == EDM {
		w.edm()
	} else {
		w.openAI()
	}
	return w.all
}

func (w *walk) add(t tensor) {
	t.name = w.Prefix + t.name
	w.all = append(w.all, t)
}

// layer adds weight and bias under other names.
func (w *walk) layer(theirs, ours string) {
	for _, part := range []string{".weight", ".bias"} {
		w.add(tensor{name: theirs + part, dims: w.ours[ours+part], ours: []string{ours + part}})
	}
}

// heads is the number of attention heads at that many channels.
func (w *walk) heads(channels int) int {
	if d := w.Config.HeadDim; d > 0 {
		return channels / d
	}
	return max(1, w.Config.Heads)
}

// projections adds the two layers of an attention layer, which are convolutions of one pixel; ones are the kernel's sizes.
func (w *walk) projections(in, out, ours string, ones ...int) {
	c := w.ours[ours+".group_norm.weight"][0]
	three := func(part string) []string {
		return []string{ours + ".to_q" + part, ours + ".to_k" + part, ours + ".to_v" + part}
	}
	heads := w.heads(c)
	w.add(tensor{name: in + ".weight", dims: append([]int{3 * c, c}, ones...), how: qkv, ours: three(".weight"), heads: heads})
	w.add(tensor{name: in + ".bias", dims: []int{3 * c}, how: qkv, ours: three(".bias"), heads: heads})
	w.add(tensor{name: out + ".weight", dims: append([]int{c, c}, ones...), ours: []string{ours + ".to_out.0.weight"}})
	w.add(tensor{name: out + ".bias", dims: []int{c}, ours: []string{ours + ".to_out.0.bias"}})
}

// openAI adds the tensors of openai's UNetModel.
func (w *walk) openAI() {
	c := w.Config
	w.layer("time_embed.0", "time_embedding.linear_1")
	w.layer("time_embed.2", "time_embedding.linear_2")
	if c.Classes > 0 {
		w.add(tensor{name: "label_emb.weight", dims: w.ours[classes], ours: []string{classes}})
	}
	w.layer("input_blocks.0.0", "conv_in")
	i, last := 1, len(c.Mult)-1
	for level := range c.Mult {
		ours := fmt.Sprintf("down_blocks.%d.", level)
		for j := range c.Blocks {
			at := fmt.Sprintf("input_blocks.%d.", i)
			w.resBlock(at+"0", ours+fmt.Sprint("resnets.", j))
			if w.attends(level) {
				w.attentionBlock(at+"1", ours+fmt.Sprint("attentions.", j))
			}
			i++
		}
		if level < last {
			w.resample(fmt.Sprintf("input_blocks.%d.0", i), "op", ours+"downsamplers.0")
			i++
		}
	}
	w.resBlock("middle_block.0", "mid_block.resnets.0")
	w.attentionBlock("middle_block.1", "mid_block.attentions.0")
	w.resBlock("middle_block.2", "mid_block.resnets.1")
	i = 0
	for up := range c.Mult {
		ours, level := fmt.Sprintf("up_blocks.%d.", up), last-up
		for j := range c.Blocks + 1 {
			at, part := fmt.Sprintf("output_blocks.%d.", i), 1
			w.resBlock(at+"0", ours+fmt.Sprint("resnets.", j))
			if w.attends(level) {
				w.attentionBlock(at+"1", ours+fmt.Sprint("attentions.", j))
				part++
			}
			if j == c.Blocks && level > 0 {
				w.resample(at+fmt.Sprint(part), "conv", ours+"upsamplers.0")
			}
			i++
		}
	}
	w.layer("out.0", "conv_norm_out")
	w.layer("out.2", "conv_out")
}

const classes = "class_embedding.weight"

// attends reports whether a level's blocks have attention.
func (w *walk) attends(level int) bool {
	for _, side := range w.Config.Attention {
		if side == w.Config.Resolution>>level {
			return true
		}
	}
	return false
}

func (w *walk) resBlock(theirs, ours string) {
	w.layer(theirs+".in_layers.0", ours+".norm1")
	w.layer(theirs+".in_layers.2", ours+".conv1")
	w.layer(theirs+".emb_layers.1", ours+".time_emb_proj")
	w.layer(theirs+".out_layers.0", ours+".norm2")
	w.layer(theirs+".out_layers.3", ours+".conv2")
	if _, ok := w.ours[ours+".conv_shortcut.weight"]; ok {
		w.layer(theirs+".skip_connection", ours+".conv_shortcut")
	}
}

func (w *walk) attentionBlock(theirs, ours string) {
	w.layer(theirs+".norm", ours+".group_norm")
	ones := []int{1} // guided-diffusion's are one-dimensional convolutions
	if w.Code == ConsistencyModels {
		ones = []int{1, 1}
	}
	w.projections(theirs+".qkv", theirs+".proj_out", ours, ones...)
}

// resample adds a residual block that changes the image size, or its lone convolution.
func (w *walk) resample(theirs, conv, ours string) {
	if w.Config.Resample == unet.ResampleConv {
		w.layer(theirs+"."+conv, ours+".conv")
		return
	}
	w.resBlock(theirs, ours)
}

// edm adds the tensors of EDM's SongUNet or DhariwalUNet.
func (w *walk) edm() {
	c := w.Config
	song := !c.ScaleShift
	if c.Embedding == unet.Fourier {
		w.add(tensor{name: "map_noise.freqs", dims: w.ours["time_proj.weight"], how: fixedAs, ours: []string{"time_proj.weight"}})
	}
	if c.Classes > 0 && song {
		w.layer("map_label", "class_embedding")
	}
	if c.Augment > 0 {
		const ours = "augment_embedding.weight"
		w.add(tensor{name: "map_augment.weight", dims: w.ours[ours], how: fixedAs, ours: []string{ours}})
	}
	w.layer("map_layer0", "time_embedding.linear_1")
	w.layer("map_layer1", "time_embedding.linear_2")
	if c.Classes > 0 && !song {
		w.add(tensor{name: "map_label.weight", dims: []int{w.ours[classes][1], c.Classes}, how: turned, ours: []string{classes}})
	}
	last := len(c.Mult) - 1
	for level := range c.Mult {
		at, ours := w.at("enc", level), fmt.Sprintf("down_blocks.%d.", level)
		if level == 0 {
			w.layer(at+"conv", "conv_in")
		} else {
			before := fmt.Sprintf("down_blocks.%d.", level-1)
			w.unetBlock(at+"down", before+"downsamplers.0", "")
			if c.ResidualInput {
				w.layer(at+"aux_residual", before+"aux_residual")
				w.filter(at + "aux_residual")
			}
		}
		for j := range c.Blocks {
			w.unetBlock(at+fmt.Sprint("block", j), ours+fmt.Sprint("resnets.", j), ours+fmt.Sprint("attentions.", j))
		}
	}
	for up := range c.Mult {
		level := last - up
		at, ours := w.at("dec", level), fmt.Sprintf("up_blocks.%d.", up)
		if up == 0 {
			w.unetBlock(at+"in0", "mid_block.resnets.0", "mid_block.attentions.0")
			w.unetBlock(at+"in1", "mid_block.resnets.1", "")
		} else {
			w.unetBlock(at+"up", fmt.Sprintf("up_blocks.%d.upsamplers.0", up-1), "")
		}
		for j := range c.Blocks + 1 {
			attention := fmt.Sprint("attentions.", j)
			if c.LastDecoderAttention {
				attention = map[bool]string{true: "attentions.0"}[j == c.Blocks]
			}
			if attention != "" {
				attention = ours + attention
			}
			w.unetBlock(at+fmt.Sprint("block", j), ours+fmt.Sprint("resnets.", j), attention)
		}
	}
	if song {
		w.layer(w.at("dec", 0)+"aux_norm", "conv_norm_out")
		w.layer(w.at("dec", 0)+"aux_conv", "conv_out")
		return
	}
	w.layer("out_norm", "conv_norm_out")
	w.layer("out_conv", "conv_out")
}

// at is the prefix of a level's blocks.
func (w *walk) at(part string, level int) string {
	side := w.Config.Resolution >> level
	return fmt.Sprintf("%s.%dx%d_", part, side, side)
}

// unetBlock adds a UNetBlock of EDM, with the attention layer of that name if we have it. Blocks that change the image size have the filter.
func (w *walk) unetBlock(theirs, ours, attention string) {
	_, skip := w.ours[ours+".conv_shortcut.weight"]
	resamples := attention == "" && w.resamples(ours)
	w.layer(theirs+".norm0", ours+".norm1")
	w.layer(theirs+".conv0", ours+".conv1")
	if resamples {
		w.filter(theirs + ".conv0")
	}
	w.layer(theirs+".affine", ours+".time_emb_proj")
	w.layer(theirs+".norm1", ours+".norm2")
	w.layer(theirs+".conv1", ours+".conv2")
	if skip {
		w.layer(theirs+".skip", ours+".conv_shortcut")
	}
	if resamples {
		w.filter(theirs + ".skip")
	}
	if _, ok := w.ours[attention+".group_norm.weight"]; ok && attention != "" {
		w.layer(theirs+".norm2", attention+".group_norm")
		w.projections(theirs+".qkv", theirs+".proj", attention, 1, 1)
	}
}

// resamples reports whether a block of ours changes the image size.
func (w *walk) resamples(ours string) bool { return strings.HasSuffix(ours, "samplers.0") }

// filter adds the resampling filter of a layer.
func (w *walk) filter(theirs string) {
	n := max(2, len(w.Config.Filter))
	t := tensor{name: theirs + ".resample_filter", dims: []int{1, 1, n, n}, how: filter}
	if w.Config.Filter != nil {
		t.ours = []string{"resample_filter"}
	}
	w.add(t)
}
