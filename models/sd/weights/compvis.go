package weights

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/torch/nn"
)

// names reports whether a tensor of that name exists.
type names func(name string) bool

func namesOf(src nn.Source, prefix string) names {
	return func(name string) bool {
		_, _, ok := src.Info(prefix + name)
		return ok
	}
}

// count returns the number of consecutive indices 0, 1, 2, … for which the formatted name exists.
func (has names) count(format string, args ...any) int {
	n := 0
	for has(fmt.Sprintf(format, append(args, n)...)) {
		n++
	}
	return n
}

// table maps module names in the CompVis layout ("theirs") to diffusers' ("ours") and back. Names inside a module stay the same.
type table struct{ ours, theirs map[string]string }

func newTable() *table { return &table{ours: map[string]string{}, theirs: map[string]string{}} }

func (t *table) add(theirs, ours string) { t.ours[theirs], t.theirs[ours] = ours, theirs }

// rename replaces the longest prefix of a name that is in pairs.
func rename(pairs map[string]string, name string) (string, bool) {
	for head, tail := name, ""; ; {
		if other, ok := pairs[head]; ok {
			return other + tail, true
		}
		i := strings.LastIndexByte(head, '.')
		if i < 0 {
			return "", false
		}
		head, tail = name[:i], name[i:]
	}
}

// block is a residual block of a U-Net, with or without a transformer after it.
type block struct{ attention bool }

// form is the structure of a U-Net that determines the indices in its names.
type form struct {
	down, up [][]block // the residual blocks of each level, in the order of execution
	mid      int       // layers of the middle block: 0, 1 (a residual block) or 3 (residual block, transformer, residual block)
	hint     int       // of a ControlNet: convolutions of the control image; 0: not a ControlNet
}

// theirForm infers the form from CompVis names.
func theirForm(has names) form {
	f := form{mid: min(1, has.count("middle_block.%d.in_layers.0.weight"))}
	if has("middle_block.1.norm.weight") {
		f.mid = 3
	}
	next := true // a level begins
	add := func(levels *[][]block, attention bool) {
		if next {
			*levels = append(*levels, nil)
		}
		next = false
		last := &(*levels)[len(*levels)-1]
		*last = append(*last, block{attention})
	}
	at := func(format string, i int) bool { return has(fmt.Sprintf(format, i)) }
	for i := 1; ; i++ {
		if at("input_blocks.%d.0.op.weight", i) {
			next = true
			continue
		}
		if !at("input_blocks.%d.0.in_layers.0.weight", i) {
			break
		}
		add(&f.down, at("input_blocks.%d.1.norm.weight", i))
	}
	next = true
	for i := range has.count("output_blocks.%d.0.in_layers.0.weight") {
		add(&f.up, at("output_blocks.%d.1.norm.weight", i))
		next = at("output_blocks.%d.1.conv.weight", i) || at("output_blocks.%d.2.conv.weight", i)
	}
	for at("input_hint_block.%d.weight", 2*f.hint) {
		f.hint++
	}
	return f
}

// ourForm infers the form from diffusers' names.
func ourForm(has names) form {
	f := form{mid: min(1, has.count("mid_block.resnets.%d.norm1.weight"))}
	if has("mid_block.attentions.0.norm.weight") {
		f.mid = 3
	}
	levels := func(kind string) (all [][]block) {
		for i := range has.count(kind + ".%d.resnets.0.norm1.weight") {
			blocks := make([]block, has.count(kind+".%d.resnets.%d.norm1.weight", i))
			for j := range blocks {
				blocks[j].attention = has(fmt.Sprintf("%s.%d.attentions.%d.norm.weight", kind, i, j))
			}
			all = append(all, blocks)
		}
		return all
	}
	f.down, f.up = levels("down_blocks"), levels("up_blocks")
	if has("controlnet_cond_embedding.conv_in.weight") {
		f.hint = has.count("controlnet_cond_embedding.blocks.%d.weight") + 2
	}
	return f
}

// table returns the module names of a U-Net or a ControlNet.
func (f form) table() *table {
	t := newTable()
	t.add("time_embed.0", "time_embedding.linear_1")
	t.add("time_embed.2", "time_embedding.linear_2")
	t.add("time_embed.cond_proj", "time_embedding.cond_proj")
	t.add("label_emb.0.0", "add_embedding.linear_1")
	t.add("label_emb.0.2", "add_embedding.linear_2")
	t.add("input_blocks.0.0", "conv_in")
	n := 1
	for i, blocks := range f.down {
		for j, b := range blocks {
			t.block(fmt.Sprintf("input_blocks.%d", n), fmt.Sprintf("down_blocks.%d", i), j, b)
			n++
		}
		if i < len(f.down)-1 {
			t.add(fmt.Sprintf("input_blocks.%d.0.op", n), fmt.Sprintf("down_blocks.%d.downsamplers.0.conv", i))
			n++
		}
	}
	if f.mid > 0 {
		t.resnet("middle_block.0", "mid_block.resnets.0")
	}
	if f.mid == 3 {
		t.add("middle_block.1", "mid_block.attentions.0")
		t.resnet("middle_block.2", "mid_block.resnets.1")
	}
	if f.hint > 0 {
		t.control(n, f.hint)
		return t
	}
	m := 0
	for i, blocks := range f.up {
		for j, b := range blocks {
			at := fmt.Sprintf("output_blocks.%d", m)
			t.block(at, fmt.Sprintf("up_blocks.%d", i), j, b)
			if j == len(blocks)-1 && i < len(f.up)-1 {
				place := ".1"
				if b.attention {
					place = ".2"
				}
				t.add(at+place+".conv", fmt.Sprintf("up_blocks.%d.upsamplers.0.conv", i))
			}
			m++
		}
	}
	t.add("out.0", "conv_norm_out")
	t.add("out.2", "conv_out")
	return t
}

// block adds a residual block and the transformer after it.
func (t *table) block(theirs, ours string, j int, b block) {
	t.resnet(theirs+".0", fmt.Sprintf("%s.resnets.%d", ours, j))
	if b.attention {
		t.add(theirs+".1", fmt.Sprintf("%s.attentions.%d", ours, j))
	}
}

func (t *table) resnet(theirs, ours string) {
	for _, p := range [][2]string{
		{"in_layers.0", "norm1"}, {"in_layers.2", "conv1"}, {"emb_layers.1", "time_emb_proj"}, {"out_layers.0", "norm2"},
		{"out_layers.3", "conv2"}, {"skip_connection", "conv_shortcut"},
	} {
		t.add(theirs+"."+p[0], ours+"."+p[1])
	}
}

// control adds the modules that only a ControlNet has: an output for each of n skip connections, and the convolutions of the control image.
func (t *table) control(n, hint int) {
	for i := range n {
		t.add(fmt.Sprintf("zero_convs.%d.0", i), "controlnet_down_blocks."+strconv.Itoa(i))
	}
	t.add("middle_block_out.0", "controlnet_mid_block")
	t.add("input_hint_block.0", "controlnet_cond_embedding.conv_in")
	for i := range hint - 2 {
		t.add("input_hint_block."+strconv.Itoa(2*i+2), "controlnet_cond_embedding.blocks."+strconv.Itoa(i))
	}
	t.add("input_hint_block."+strconv.Itoa(2*hint-2), "controlnet_cond_embedding.conv_out")
}

// vaeTable returns the module names of an autoencoder. CompVis numbers the decoder's levels from the highest resolution.
func vaeTable(levels int) *table {
	t := newTable()
	for i := range levels {
		encoder, decoder := fmt.Sprintf("encoder.down.%d", i), fmt.Sprintf("decoder.up.%d", i)
		down, up := fmt.Sprintf("encoder.down_blocks.%d", i), fmt.Sprintf("decoder.up_blocks.%d", levels-1-i)
		t.add(encoder+".block", down+".resnets") // inside, only the names of shortcuts differ
		t.add(decoder+".block", up+".resnets")
		t.add(encoder+".downsample.conv", down+".downsamplers.0.conv")
		t.add(decoder+".upsample.conv", up+".upsamplers.0.conv")
	}
	for _, side := range []string{"encoder", "decoder"} {
		for i := range 2 {
			t.add(fmt.Sprintf("%s.mid.block_%d", side, i+1), fmt.Sprintf("%s.mid_block.resnets.%d", side, i))
		}
		for _, p := range [][2]string{{"norm", "group_norm"}, {"q", "to_q"}, {"k", "to_k"}, {"v", "to_v"}, {"proj_out", "to_out.0"}} {
			t.add(side+".mid.attn_1."+p[0], side+".mid_block.attentions.0."+p[1])
		}
		t.add(side+".conv_in", side+".conv_in")
		t.add(side+".conv_out", side+".conv_out")
		t.add(side+".norm_out", side+".conv_norm_out")
	}
	t.add("quant_conv", "quant_conv")
	t.add("post_quant_conv", "post_quant_conv")
	return t
}

// Names of the shortcut convolution of an autoencoder's residual block.
const theirShortcut, ourShortcut = ".nin_shortcut.", ".conv_shortcut."

// openCLIPTable returns the module names of an OpenCLIP text encoder. There, the query, key and value projections are one tensor, and
// text_projection is transposed; see openCLIP.
func openCLIPTable(layers int) *table {
	t := newTable()
	t.add("token_embedding", "text_model.embeddings.token_embedding")
	t.add("positional_embedding", "text_model.embeddings.position_embedding.weight")
	t.add("ln_final", "text_model.final_layer_norm")
	for i := range layers {
		theirs, ours := fmt.Sprintf("transformer.resblocks.%d.", i), fmt.Sprintf("text_model.encoder.layers.%d.", i)
		for _, p := range [][2]string{
			{"ln_1", "layer_norm1"}, {"ln_2", "layer_norm2"}, {"attn.out_proj", "self_attn.out_proj"}, {"mlp.c_fc", "mlp.fc1"}, {"mlp.c_proj", "mlp.fc2"},
		} {
			t.add(theirs+p[0], ours+p[1])
		}
	}
	return t
}
