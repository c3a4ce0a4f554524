package infotext

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const plainSettings = "Steps: 3, Sampler: DDIM, CFG scale: 5, Seed: 7, Size: 64x64"

func TestWhereSettingsBegin(t *testing.T) {
	for _, c := range []struct {
		text, prompt, negative string
		fields                 map[string]string
		n                      int
	}{
		// Lines with three colons and more that are prompts (AUTOMATIC1111#16876).
		{"a castle on a hill, fog,\nfront: tall gate, left: old oak, right: river with boats",
			"a castle on a hill, fog,\nfront: tall gate, left: old oak, right: river with boats", "", nil, 0},
		{"a castle\n<lora:a b:1>, <lora:c d:1>, <lora:e f:1>, detailed", "a castle\n<lora:a b:1>, <lora:c d:1>, <lora:e f:1>, detailed", "", nil, 0},
		{"a castle\nNegative prompt: blurry\nbad: hands, worst: quality, jpeg: artifacts\n" + plainSettings,
			"a castle", "blurry\nbad: hands, worst: quality, jpeg: artifacts", map[string]string{"Seed": "7"}, 5},
		// Values with line breaks (AUTOMATIC1111#12128).
		{"a castle\nNegative prompt: blurry\n" + plainSettings + ", Wildcard prompt: \"a __place__\non a hill\", Version: v1.5.1",
			"a castle", "blurry", map[string]string{"Size": "64x64", "Wildcard prompt": "a __place__\non a hill", "Version": "v1.5.1"}, 7},
		{"a castle\nNegative prompt: blurry\n" + plainSettings + ", Template: a __place__, with trees\nNegative Template: blurry",
			"a castle", "blurry", map[string]string{"Template": "a __place__, with trees", "Negative Template": "blurry"}, 7},
		// Civitai's JSON in values.
		{"a castle\n" + plainSettings + `, Civitai resources: [{"type":"lora","weight":0.8,"modelVersionId":2}], Civitai metadata: {}, Version: 1`,
			"a castle", "", map[string]string{"Civitai resources": `[{"type":"lora","weight":0.8,"modelVersionId":2}]`, "Civitai metadata": "{}", "Version": "1"}, 8},
		// SD.Next's bars.
		{"a castle\nNegative prompt: blurry\nSteps: 3 | Sampler: DDIM | CFG scale: 5 | Size: 64x64", "a castle", "blurry", map[string]string{"Sampler": "DDIM", "Size": "64x64"}, 4},
	} {
		got := Parse(c.text)
		require.Equal(t, c.prompt, got.Prompt)
		require.Equal(t, c.negative, got.Negative)
		require.Len(t, got.Fields, c.n, "%v", got.Fields)
		for name, want := range c.fields {
			require.Equal(t, want, got.Get(name))
		}
	}
}

// Text of a megabyte takes no more than its length: A1111's expression is quadratic on these.
func TestParseIsLinear(t *testing.T) {
	for _, piece := range []string{"a", "a ", ",a", `a: ",`, "a: {,", "aa: [1,", "\n", "Steps: 1,\n", "Negative prompt:\n", "aa: b\n"} {
		text := "Steps: 1, aa: b, cc: d, " + strings.Repeat(piece, (1<<20)/len(piece))
		start := time.Now()
		Parse(text)
		require.Less(t, time.Since(start), 3*time.Second, "%q", piece)
	}
}

func TestSamplerNames(t *testing.T) {
	for _, c := range []struct {
		name, schedule, method, spacing string
		exact                           bool
	}{
		{"DPM++ 2M Karras", "", "dpmpp_2m", "karras", true},   // A1111 before 1.9
		{"DPM++ 2M", "Karras", "dpmpp_2m", "karras", true},    // since
		{"DPM++ 2M", "Automatic", "dpmpp_2m", "karras", true}, // the sampler's own
		{"DPM++ 2M SDE", "Automatic", "dpmpp_2m_sde", "exponential", true},
		{"Euler a", "Automatic", "euler_a", "", true},
		{"Euler", "Simple", "euler", "", false}, // Forge
		{"Euler", "SGM Uniform", "euler", "sgm_uniform", true},
		{"euler_ancestral", "", "euler_a", "", true}, // ComfyUI
		{"euler_a", "", "euler_a", "", true},         // stable-diffusion.cpp
		{"dpm++2m karras", "", "dpmpp_2m", "karras", true},
		{"dpmpp_2m_sde_gpu", "karras", "dpmpp_2m_sde", "karras", true}, // Fooocus
		{"uni_pc", "normal", "unipc_bh1", "", true},
		{"uni_pc_bh2", "karras", "unipc", "karras", true},
		{"UniPC", "", "unipc_bh1", "", true},
		{"UniPC bh2", "", "unipc", "", true}, // with A1111's UniPC variant
		{"UniPC vary_coeff", "", "", "", false},
		{"DPM++ 2M SDE Heun", "Automatic", "dpmpp_2m_sde_heun", "exponential", true},
		{"dpmpp_2s_ancestral", "", "dpmpp_2s_a", "", true},
		{"PLMS", "", "pndm", "", true},
		{"Restart", "", "", "", false},
	} {
		method, spacing, exact := Sampler(c.name, c.schedule)
		require.Equal(t, []any{c.method, c.spacing, c.exact}, []any{method, spacing, exact}, "%s, %s", c.name, c.schedule)
	}
}

func TestFromPrograms(t *testing.T) {
	from := func(pairs ...string) (Text, string, error) {
		return From(func(keyword string) (string, bool) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == keyword {
					return pairs[i+1], true
				}
			}
			return "", false
		})
	}
	got, program, err := from("parameters", `{"adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL", "prompt": "a castle", "negative_prompt": "blurry",
		"seed": "7", "steps": 30, "resolution": "(1152, 896)", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "guidance_scale": 4.5, "styles": "['Fooocus V2']"}`,
		"fooocus_scheme", "fooocus")
	require.NoError(t, err)
	require.Equal(t, "Fooocus", program)
	require.Equal(t, Text{"a castle", "blurry", []Field{{"Steps", "30"}, {"Sampler", "dpmpp_2m_sde_gpu"}, {"Schedule type", "karras"}, {"CFG scale", "4.5"},
		{"Seed", "7"}, {"Size", "1152x896"}, {"Model", "juggernautXL"}, {"adm_guidance", "(1.5, 0.8, 0.3)"}, {"styles", "['Fooocus V2']"}}}, got)

	const graph = `{"3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 20, "cfg": 8.0, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0,
		"model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
		"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
		"5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
		"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a castle", "clip": ["4", 1]}},
		"7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
		"10": {"class_type": "LoraLoader", "inputs": {"lora_name": "x.safetensors", "strength_model": 0.8, "model": ["4", 0], "clip": ["4", 1]}}}`
	got, program, err = from("prompt", graph, "workflow", "{}")
	require.NoError(t, err)
	require.Equal(t, "ComfyUI", program)
	require.Equal(t, Text{"a castle", "blurry", []Field{{"Steps", "20"}, {"Sampler", "dpmpp_2m"}, {"Schedule type", "karras"}, {"CFG scale", "8.0"},
		{"Seed", "7"}, {"Size", "512x768"}, {"LoraLoader", "x.safetensors at 0.8"}, {"Model", "v1-5.safetensors"}}}, got)
	got, _, err = from("prompt", strings.Replace(graph, `"karras"`, `"beta"`, 1)) // which is another than A1111's
	require.NoError(t, err)
	_, spacing, exact := Sampler(got.Get("Sampler"), got.Get("Schedule type"))
	require.Empty(t, spacing)
	require.False(t, exact)

	for _, c := range []struct {
		want, program string
		pairs         []string
	}{
		{"0 samplers", "ComfyUI", []string{"prompt", `{"3": {"inputs": {"seed": 7, "steps": 3}}}`}},
		{"denoising strength", "ComfyUI", []string{"prompt", strings.Replace(graph, `"denoise": 1.0`, `"denoise": 0.5`, 1)}},
		{"VAEEncode", "ComfyUI", []string{"prompt", strings.Replace(graph, "EmptyLatentImage", "VAEEncode", 1)}},
		{"positive", "ComfyUI", []string{"prompt", strings.Replace(graph, `"text": "a castle"`, `"text": ["9", 0]`, 1)}},
		{"InvokeAI", "InvokeAI", []string{"invokeai_metadata", "{}"}},
		{"NovelAI", "NovelAI", []string{"Software", "NovelAI", "Comment", "{}"}},
		{`"a", "b"`, "", []string{"parameters", `{"b": 1, "a": "words"}`}},
		{"no generation parameters", "", []string{"Software", "x"}},
	} {
		_, program, err := from(c.pairs...)
		require.ErrorContains(t, err, c.want)
		require.Equal(t, c.program, program)
	}
	// A loop of nodes ends.
	_, _, err = from("prompt", strings.Replace(graph, `"model": ["4", 0]`, `"model": ["10", 0]`, 1))
	require.NoError(t, err)
}
