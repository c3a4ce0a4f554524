package weights

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/torch/nn"
)

// names tells whether there is a tensor of that name.
type names func(name string) bool

func namesOf(src nn.Source, prefix string) names {
	return func(name string) bool {
		_, _, ok := src.Info(prefix + name)
		return ok
	}
}

// count returns how many of the names that the format makes of 0, 1, 2, … there are before the first that there is not.
func (has names) count(format string, args ...any) int {
	n := 0
	for has(fmt.Sprintf(format, append(args, n)...)) {
		n++
	}
	return n
}

// table pairs names of modules in the layout of CompVis' repositories ("theirs") with today's ("ours"). What comes after a module's
// name stays.
type table struct{ ours, theirs map[string]string }

func newTable() *table { return &table{ours: map[string]string{}, theirs: map[string]string{}} }

func (t *table) add(theirs, ours string) { t.ours[theirs], t.theirs[ours] = ours, theirs }

// rename replaces the longest beginning of a name that there is a pair for.
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

// block is a residual block of a U-Net, and whether a transformer follows it.
type block struct{ attention bool }

// form is what the numbers in the names of a U-Net depend on.
type form struct {
	down, up [][]block // the residual blocks of each level, in the order in which they run
	mid      int       // layers in the middle: 0, 1 (a residual block) or 3 (with a transformer and another)
	hint     int       // of a ControlNet: convolutions that the image goes through; 0: it is not one
}

// theirForm reads the form off a CompVis file.
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

// ourForm reads the form off today's names.
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

// table pairs the names of a U-Net's or a ControlNet's modules.
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

// block pairs a residual block and what follows it.
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

// control pairs what a ControlNet has besides: an output for each of n intermediate results, and convolutions of the image.
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

// vaeTable pairs the names of the modules of an autoencoder of so many levels. Their decoder counts levels from the largest image.
func vaeTable(levels int) *table {
	t := newTable()
	for i := range levels {
		encoder, decoder := fmt.Sprintf("encoder.down.%d", i), fmt.Sprintf("decoder.up.%d", i)
		down, up := fmt.Sprintf("encoder.down_blocks.%d", i), fmt.Sprintf("decoder.up_blocks.%d", levels-1-i)
		t.add(encoder+".block", down+".resnets") // inside, only shortcuts have other names
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

// What the convolution around a residual block of an autoencoder is called, theirs and ours.
const theirShortcut, ourShortcut = ".nin_shortcut.", ".conv_shortcut."

// openCLIPTable pairs the names of the modules of a text encoder of OpenCLIP that has so many layers. The projections to queries, keys
// and values are one tensor there, and the projection of the text is turned; see openCLIP.
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
