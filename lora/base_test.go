package lora

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/safetensors"
)

// An adapter that does not fit says for which base model it seems to be, by its shapes, names or metadata, and which the model is.
func TestLikelyBase(t *testing.T) {
	const attn2 = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_"
	models := published()
	for name, c := range map[string]struct {
		model   string
		shapes  map[string][]int
		meta    map[string]string
		want    []string
		another bool // Base is set
	}{
		"SDXL on 1": {"Stable Diffusion 1", map[string][]int{attn2 + "k.lora_down.weight": {4, 2048}, attn2 + "k.lora_up.weight": {640, 4}}, nil,
			[]string{"Stable Diffusion XL", "2048", "768 (Stable Diffusion 1)"}, true},
		"1 on SDXL": {"Stable Diffusion XL", map[string][]int{attn2 + "k.lora_down.weight": {4, 768}, attn2 + "k.lora_up.weight": {640, 4}}, nil,
			[]string{"for Stable Diffusion 1", "768", "2048 (Stable Diffusion XL"}, true},
		"2 as LoHa": {"Stable Diffusion 1", map[string][]int{
			attn2 + "v.hada_w1_a": {640, 4}, attn2 + "v.hada_w1_b": {4, 1024}, attn2 + "v.hada_w2_a": {640, 4}, attn2 + "v.hada_w2_b": {4, 1024},
		}, nil, []string{"Stable Diffusion 2", "1024", "768 (Stable Diffusion 1)"}, true},
		"SDXL as a difference": {"Stable Diffusion 2", map[string][]int{attn2 + "k.diff": {640, 2048}}, nil, []string{"Stable Diffusion XL", "2048", "1024 (Stable Diffusion 2)"}, true},
		"second text encoder": {"Stable Diffusion 1", map[string][]int{
			"lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": {4, 1280}, "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": {1280, 4},
		}, nil, []string{"Stable Diffusion XL", "second text encoder", "Stable Diffusion 1"}, true},
		"text encoder of 2": {"Stable Diffusion 1", map[string][]int{
			"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": {4, 1024}, "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": {1024, 4},
		}, nil, []string{"Stable Diffusion 2", "1024", "Stable Diffusion 1"}, true},
		"metadata": {"Stable Diffusion 1", map[string][]int{
			"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": {4, 64, 3, 3}, "lora_unet_mid_block_resnets_0_conv1.lora_up.weight": {64, 4, 1, 1},
		}, map[string]string{"ss_base_model_version": "sdxl_base_v1-0"}, []string{"Stable Diffusion XL", "sdxl_base_v1-0", "is of Stable Diffusion 1"}, true},
		"nothing tells": {"Stable Diffusion 1", map[string][]int{
			"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": {4, 64, 3, 3}, "lora_unet_mid_block_resnets_0_conv1.lora_up.weight": {64, 4, 1, 1},
		}, nil, []string{"[1280 1280 3 3]"}, false},
		"the same base": {"Stable Diffusion XL", map[string][]int{
			"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": {4, 64, 3, 3}, "lora_unet_mid_block_resnets_0_conv1.lora_up.weight": {64, 4, 1, 1},
		}, map[string]string{"ss_base_model_version": "sdxl_base_v1-0"}, []string{"[1280 1280 3 3]"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var all []safetensors.Source
			for tensor, shape := range c.shapes {
				all = append(all, safetensors.Source{Name: tensor, DType: safetensors.F16, Shape: shape, Data: safetensors.Bytes(make([]byte, 2*product(shape)))})
			}
			path := filepath.Join(t.TempDir(), "a.safetensors")
			require.NoError(t, safetensors.Write(path, all, safetensors.Options{Metadata: c.meta}))
			f, err := Open(path)
			require.NoError(t, err)
			defer f.Close()
			m := f.match(models[c.model], "the model")
			err = m.Err(false)
			require.Equal(t, c.another, m.Base != "", "%v", err)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}
