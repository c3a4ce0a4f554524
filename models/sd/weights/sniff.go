package weights

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/nn"
)

// textForm is the naming scheme of a text encoder's tensors.
type textForm int

const (
	noText textForm = iota
	transformers
	openCLIP
)

// text is the location of a text encoder in a file.
type text struct {
	prefix string
	form   textForm
}

// layout has the components of a file and their prefixes.
type layout struct {
	kind               Kind
	unet, vae, control *string // prefixes; nil: no such component
	ours               bool    // U-Net or ControlNet have diffusers' names
	oursVAE            bool    // and so has the autoencoder
	texts              []text
}

// Sniff identifies a file by names and shapes. For Unknown, the error says what was found.
func Sniff(src nn.Source) (Kind, error) {
	l, err := sniff(src)
	return l.kind, err
}

// SniffFile identifies a single file without reading its weights; see [Sniff].
func SniffFile(path string) (_ Kind, err error) {
	w, err := openWeights(path)
	if err != nil {
		return Unknown, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	k, err := Sniff(w)
	if err != nil {
		err = fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	return k, err
}

// Unsupported networks, by the name of a tensor in each of them, or a part of the name.
var families = []struct{ name, contains string }{
	{"Playground 2.5, which has EDM's noise levels,", "edm_mean"},
	{"CosXL, whose noise levels are EDM's (with v-prediction),", "edm_vpred.sigma_"},
	{"an adapter for AnimateDiff", ".motion_modules."},
	{"a Control-LoRA", "lora_controlnet"},
	{"an IP-Adapter", "ip_adapter."},
	{"Stable Video Diffusion", ".time_stack."},
	{"Stable Diffusion 3", "joint_blocks.0."},
	{"Flux", "double_blocks.0.img_attn."},
	{"AuraFlow", "double_layers.0.attn."},
	{"Lumina", "cap_embedder.0.weight"},
	{"LTX-Video", "patchify_proj.weight"},
	{"Wan", "head.modulation"},
	{"Stable Cascade", "clip_txt_mapper.weight"},
	{"Stable Cascade", ".channelwise.0.weight"},
	{"PixArt", "adaln_single.linear.weight"},
	{"a T5 text encoder", "encoder.block.0.layer.0.SelfAttention.q.weight"},
}

func sniff(src nn.Source) (layout, error) {
	var l layout
	has := namesOf(src, "")
	first := func(key string, prefixes ...string) *string {
		for _, p := range prefixes {
			if has(p + key) {
				return &p
			}
		}
		return nil
	}
	if IsInversion(src) {
		l.kind = Inversion
		return l, nil
	}
	if isLoRA(src) {
		l.kind = LoRA
		return l, nil
	}
	if has("decoder.layers.0.weight") || has("encoder.layers.0.weight") || has("3.conv.0.weight") { // a lone tiny autoencoder
		l.kind = TAESD
		return l, nil
	}
	l.unet = first("input_blocks.0.0.weight", "model.diffusion_model.", "diffusion_model.", "")
	l.control = first("input_hint_block.0.weight", "control_model.", "")
	if l.control != nil && *l.control == "" {
		l.unet = nil
	}
	if bare := ""; has("time_embedding.linear_1.weight") && has("conv_in.weight") {
		l.ours, l.unet = true, &bare
		if has("controlnet_cond_embedding.conv_in.weight") {
			l.unet, l.control = nil, &bare
		}
	}
	if l.vae = first("encoder.mid_block.resnets.0.norm1.weight", "first_stage_model.", "vae.", ""); l.vae != nil {
		l.oursVAE = true
	} else {
		l.vae = first("encoder.mid.block_1.norm1.weight", "first_stage_model.", "vae.", "")
	}
	for _, prefix := range []string{"cond_stage_model.transformer.", "conditioner.embedders.0.transformer.", ""} {
		if has(prefix+textModel+textTokens) || has(prefix+textTokens) {
			l.texts = append(l.texts, text{prefix, transformers})
		}
	}
	for _, prefix := range []string{sd2Text, "conditioner.embedders.0.model.", "conditioner.embedders.1.model."} {
		if has(prefix + "token_embedding.weight") {
			l.texts = append(l.texts, text{prefix, openCLIP})
		}
	}
	return l, l.name(src)
}

// IsInversion reports whether a file is a textual inversion embedding: A1111's emb_params or "*", the pair of SDXL, or one vector or matrix
// named after its token, as in diffusers.
func IsInversion(src nn.Source) bool {
	var names []string
	for name := range src.Names() {
		if names = append(names, name); len(names) > 2 {
			return false
		}
	}
	for _, name := range names {
		dims, dtype, _ := src.Info(name)
		if len(dims) < 1 || len(dims) > 2 || !dtype.IsFloat() {
			return false
		}
		switch name {
		case "emb_params", "*", "clip_l", "clip_g", "text_encoders_0", "text_encoders_1":
		default:
			if len(names) > 1 || strings.Contains(name, ".") && !strings.HasPrefix(name, "<") { // tokens have no dots, names of network tensors do
				return false
			}
		}
	}
	return len(names) > 0
}

func isLoRA(src nn.Source) bool {
	for name := range src.Names() {
		for _, part := range adapterParts {
			if strings.Contains(name, part) {
				return true
			}
		}
	}
	return false
}

// adapterParts are substrings of names that only adapters' tensors have.
var adapterParts = []string{
	".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "_lora.down.", ".lora.down.", ".lora_linear_layer.down.", ".hada_w1_a", ".lokr_w1", ".oft_blocks",
}

// name sets the kind from the components.
func (l *layout) name(src nn.Source) error {
	for name := range src.Names() {
		for _, f := range families {
			if strings.Contains(name, f.contains) {
				return fmt.Errorf("it looks like %s (it has %s): want a model of Stable Diffusion 1, 2 or XL", f.name, quote.Quoted(name))
			}
		}
	}
	switch {
	case l.control != nil:
		l.kind = ControlNet
	case l.unet != nil:
		l.kind = l.network(src)
	case l.vae != nil:
		l.kind = VAE
	case len(l.texts) > 0:
		l.kind = TextModel
	default:
		return l.unknown(src)
	}
	return nil
}

// network returns the kind of a U-Net.
func (l *layout) network(src nn.Source) Kind {
	has := namesOf(src, *l.unet)
	shape := func(name string) []int {
		dims, _, _ := src.Info(*l.unet + name)
		return dims
	}
	conv, added, mid, cond, proj := "input_blocks.0.0.weight", "label_emb.0.0.weight", "middle_block.1.norm.weight",
		"time_embed.cond_proj.weight", ".1.proj_in.weight"
	if l.ours {
		conv, added, mid, cond, proj = "conv_in.weight", "add_embedding.linear_1.weight", "mid_block.attentions.0.norm.weight",
			"time_embedding.cond_proj.weight", ".attentions.0.proj_in.weight"
	}
	linear := false
	for name := range src.Names() {
		if strings.HasPrefix(name, *l.unet) && strings.HasSuffix(name, proj) {
			linear = linear || len(shape(name[len(*l.unet):])) == 2
		}
	}
	in := shape(conv)
	switch dims := shape(added); {
	case slices.ContainsFunc(l.texts, func(t text) bool { return t.prefix == "conditioner.embedders.0.model." }),
		len(dims) == 2 && dims[1] == 2560: // the pooled text features, 1280, and 5 sizes of 256
		return Refiner
	case dims != nil && !has(mid):
		return SSD1B
	case dims != nil:
		return SDXL
	case linear:
		return SD2
	case len(in) == 4 && in[1] == 9:
		return Inpaint15
	case has(cond):
		return LCM15
	}
	return SD15
}

// unknown describes a file of unknown kind.
func (l *layout) unknown(src nn.Source) error {
	const most = 6
	var some []string
	n := 0
	for name := range src.Names() {
		if n++; len(some) < most {
			some = append(some, quote.Text(name))
		}
	}
	if n == 0 {
		return errors.New("it has no tensors")
	}
	if n > most {
		some = append(some, "...")
	}
	return fmt.Errorf("want a model of Stable Diffusion 1, 2 or XL, or a component; its %d tensors are not recognized, among them %s",
		n, strings.Join(some, ", "))
}
