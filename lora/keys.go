package lora

import (
	"regexp"
	"strings"
)

// Layout is a naming scheme of an adapter's tensors. Files may mix layouts, so that each module has its own.
type Layout int

// The layouts.
const (
	Kohya      Layout = iota // lora_unet_…_to_q.lora_down.weight, with the path's dots as underscores: kohya's scripts, A1111's web UI
	PEFT                     // unet.….to_q.lora_A.weight
	Diffusers                // unet.….to_q.lora.down.weight, text_encoder.….q_proj.lora_linear_layer.down.weight
	Processors               // unet.….attn1.processor.to_q_lora.down.weight, diffusers' first
)

var layoutNames = [...]string{"kohya", "peft", "diffusers", "processors"}

// String returns the layout's name.
func (l Layout) String() string { return layoutNames[l] }

// role is a tensor's role in its module.
type role string

const (
	down      role = "down"      // A: [r, in] or [r, in, k, k]
	up        role = "up"        // B: [out, r] or [out, r, 1, 1]
	mid       role = "mid"       // the kernel between 1×1 convolutions: [r, r, k, k]
	alpha     role = "alpha"     // the scale is alpha/r
	magnitude role = "magnitude" // of DoRA
	diff      role = "diff"      // a full difference
	diffBias  role = "diff_b"    // a full difference of the bias
)

// key is the parsed name of a tensor.
type key struct {
	layout Layout
	part   string // "": not in the name
	path   string // of the layer, as in the file
	flat   bool   // with underscores for dots
	stem   string // the name without its suffix, for messages
	role   role   // "": known and not supported
	what   string // what is not supported
}

// ends are the suffixes of tensor names.
var ends = []struct {
	end    string
	role   role
	layout Layout
	more   string // of the path
}{
	{".lora_down.weight", down, Kohya, ""}, {".lora_up.weight", up, Kohya, ""}, {".lora_mid.weight", mid, Kohya, ""},
	{".alpha", alpha, Kohya, ""}, {".dora_scale", magnitude, Kohya, ""}, {".diff", diff, Kohya, ""}, {".diff_b", diffBias, Kohya, ""}, {".w_norm", diff, Kohya, ""}, {".b_norm", diffBias, Kohya, ""},
	{".hada_w1_a", "hada_w1_a", Kohya, ""}, {".hada_w1_b", "hada_w1_b", Kohya, ""}, {".hada_w2_a", "hada_w2_a", Kohya, ""},
	{".hada_w2_b", "hada_w2_b", Kohya, ""}, {".hada_t1", "hada_t1", Kohya, ""}, {".hada_t2", "hada_t2", Kohya, ""},
	{".lokr_w1", "lokr_w1", Kohya, ""}, {".lokr_w1_a", "lokr_w1_a", Kohya, ""}, {".lokr_w1_b", "lokr_w1_b", Kohya, ""},
	{".lokr_w2", "lokr_w2", Kohya, ""}, {".lokr_w2_a", "lokr_w2_a", Kohya, ""}, {".lokr_w2_b", "lokr_w2_b", Kohya, ""},
	{".lokr_t2", "lokr_t2", Kohya, ""}, {".oft_blocks", blocks, Kohya, ""}, {".rescale", rescale, Kohya, ""},
	{".lora.down.weight", down, Diffusers, ""}, {".lora.up.weight", up, Diffusers, ""},
	{".lora_linear_layer.down.weight", down, Diffusers, ""}, {".lora_linear_layer.up.weight", up, Diffusers, ""},
	{".to_q_lora.down.weight", down, Processors, ".to_q"}, {".to_q_lora.up.weight", up, Processors, ".to_q"},
	{".to_k_lora.down.weight", down, Processors, ".to_k"}, {".to_k_lora.up.weight", up, Processors, ".to_k"},
	{".to_v_lora.down.weight", down, Processors, ".to_v"}, {".to_v_lora.up.weight", up, Processors, ".to_v"},
	{".to_out_lora.down.weight", down, Processors, ".to_out.0"}, {".to_out_lora.up.weight", up, Processors, ".to_out.0"},
}

// unsupported are the suffixes of tensors of unsupported adapter types.
var unsupported = []struct{ end, what string }{
	{".lora_A.bias", "a bias of an adapter"}, {".lora_B.bias", "a bias of an adapter"}, {".lora.up.bias", "a bias of an adapter"},
	{".lora_embedding_A", "an adapter of a table"}, {".lora_embedding_B", "an adapter of a table"},
	{".oft_diag", "OFT"}, {".oft_r", "OFT"}, {".oft_R.weight", "OFT"}, {".on_input", "(IA)³"}, {".reshape_weight", "a reshaped LoRA"},
	{".bias_indices", "a sparse bias"}, {".bias_values", "a sparse bias"}, {".bias_size", "a sparse bias"},
	{".a1.weight", "GLoRA"}, {".a2.weight", "GLoRA"}, {".b1.weight", "GLoRA"}, {".b2.weight", "GLoRA"},
	{".vera_lambda_b", "VeRA"}, {".vera_lambda_d", "VeRA"}, {".hra_u", "HRA"}, {".boft_R", "BOFT"}, {".boft_s", "BOFT"}, {".fourierft_spectrum", "FourierFT"},
}

// peft matches PEFT's names, which may contain the adapter's own name.
var peft = regexp.MustCompile(`^(.+)\.(lora_A|lora_B|lora_magnitude_vector)(\.[^.]+)??(\.weight)?$`)

// parse parses a tensor's name. It is not ok if the suffix is unknown.
func parse(name string) (k key, ok bool) {
	if m := peft.FindStringSubmatch(name); m != nil && (m[4] != "" || m[2] == "lora_magnitude_vector") {
		k = key{layout: PEFT, path: m[1], stem: m[1], role: map[string]role{"lora_A": down, "lora_B": up, "lora_magnitude_vector": magnitude}[m[2]]}
		k.place()
		return k, true
	}
	for _, e := range ends {
		if path, found := strings.CutSuffix(name, e.end); found && path != "" {
			if e.layout == Processors {
				path = strings.TrimSuffix(path, ".processor")
			}
			k = key{layout: e.layout, path: path + e.more, stem: path + e.more, role: e.role}
			k.place()
			return k, true
		}
	}
	for _, e := range unsupported {
		if path, found := strings.CutSuffix(name, e.end); found && path != "" {
			k = key{path: path, stem: path, what: e.what}
			k.place()
			return k, true
		}
	}
	return key{}, false
}

// The parts of a model that adapters apply to.
const (
	unetPart  = "unet"
	textPart  = "text_encoder"
	text2Part = "text_encoder_2"
)

var flatPrefixes = []struct{ prefix, part string }{
	{"lora_unet_", unetPart}, {"lora_te1_", textPart}, {"lora_te2_", text2Part}, {"lora_te_", textPart},
	{"lycoris_unet_", unetPart}, {"lycoris_te1_", textPart}, {"lycoris_te2_", text2Part}, {"lycoris_te_", textPart}, {"lycoris_", ""},
}

var dottedPrefixes = []struct{ prefix, part string }{
	{"unet.", unetPart}, {"text_encoder.", textPart}, {"text_encoder_2.", text2Part},
	{"model.diffusion_model.", unetPart}, {"diffusion_model.", unetPart},
	{"text_encoders.clip_l.transformer.", textPart}, {"text_encoders.clip_g.transformer.", text2Part}, {"text_encoders.clip_h.transformer.", textPart}, // ComfyUI's
}

// place splits the part off the path.
func (k *key) place() {
	const wrapped = "base_model.model."
	k.path = strings.TrimPrefix(k.path, wrapped)
	for _, p := range flatPrefixes {
		if rest, ok := strings.CutPrefix(k.path, p.prefix); ok {
			k.part, k.path, k.flat = p.part, rest, !strings.Contains(rest, ".")
			return
		}
	}
	for _, p := range dottedPrefixes {
		if rest, ok := strings.CutPrefix(k.path, p.prefix); ok {
			k.part, k.path = p.part, strings.TrimPrefix(rest, wrapped)
			return
		}
	}
}
