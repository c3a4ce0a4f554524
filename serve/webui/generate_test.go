package webui

import (
	"encoding/json"
	"image"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch/vision"
)

// The request's fields become the engine's, and the reply has what clients parse.
func TestTextToImage(t *testing.T) {
	f, h := newFake()
	got := post(t, h, "a", "/sdapi/v1/txt2img", `{"prompt": "a red <lora:ink:0.5> apple", "negative_prompt": "blurry", "seed": 40, "steps": 4, "cfg_scale": 1.5,
		"width": 48, "height": 32, "sampler_name": "DPM++ 2M", "scheduler": "Karras", "batch_size": 2, "n_iter": 3}`)
	r := f.last()
	require.Equal(t, "a", r.Client)
	require.Equal(t, []any{"a red <lora:ink:0.5> apple", "blurry", uint64(40), 4, 1.5, 48, 32, "dpmpp_2m_karras", 6},
		[]any{r.Prompt, r.Negative, *r.Seed, r.Steps, r.Guidance, r.Width, r.Height, r.Sampler, r.N})
	require.Zero(t, r.Previews)

	require.Len(t, got.Images, 6)
	for i, text := range got.Images {
		m, texts := decode(t, text)
		require.Equal(t, image.Pt(48, 32), m.Bounds().Size())
		require.Equal(t, 40+i, shade(m, 0, 0))
		require.Equal(t, got.info.Texts[i], texts[0].Value)
	}
	require.Equal(t, []uint64{40, 41, 42, 43, 44, 45}, got.info.AllSeeds)
	require.Equal(t, []any{uint64(40), 48, 32, 4, 1.5, 2, "DPM++ 2M Karras", "tiny-sd"},
		[]any{got.info.Seed, got.info.Width, got.info.Height, got.info.Steps, got.info.Guidance, got.info.Batch, got.info.Sampler, got.info.Model})
	require.Len(t, got.info.AllPrompts, 6)
	require.Empty(t, got.info.Notices)
	first := infotext.Parse(got.info.Texts[0])
	require.Equal(t, []string{"a red <lora:ink:0.5> apple", "blurry", "40", "48x32"}, []string{first.Prompt, first.Negative, first.Get("Seed"), first.Get("Size")})

	// The parameters are repeated, with A1111's defaults.
	for name, want := range map[string]any{"seed": 40.0, "n_iter": 3.0, "tiling": nil, "enable_hr": false, "sampler_index": "Euler", "prompt": "a red <lora:ink:0.5> apple"} {
		require.Contains(t, got.Parameters, name)
		require.Equal(t, want, got.Parameters[name], name)
	}
	require.NotContains(t, got.Parameters, "init_images")

	// What is left out is what the model was run with, in the parameters as in the info.
	got = post(t, h, "a", "/sdapi/v1/txt2img", `{"prompt": "a"}`)
	require.Equal(t, []any{float64(got.info.Steps), got.info.Guidance, float64(got.info.Width), float64(got.info.Height)},
		[]any{got.Parameters["steps"], got.Parameters["cfg_scale"], got.Parameters["width"], got.Parameters["height"]})
}

// A1111's info has these keys; clients look for them.
func TestInfoKeys(t *testing.T) {
	_, h := newFake()
	var all map[string]any
	require.NoError(t, json.Unmarshal([]byte(post(t, h, "a", "/sdapi/v1/txt2img", `{}`).Info), &all))
	for _, key := range strings.Fields(`prompt all_prompts negative_prompt all_negative_prompts seed all_seeds subseed all_subseeds subseed_strength width height
		sampler_name cfg_scale steps batch_size restore_faces face_restoration_model sd_model_name sd_model_hash sd_vae_name sd_vae_hash seed_resize_from_w
		seed_resize_from_h denoising_strength extra_generation_params index_of_first_image infotexts styles job_timestamp clip_skip
		is_using_inpainting_conditioning version`) {
		require.Contains(t, all, key)
	}
}

// Defaults are the model's; a seed of -1 is random and small enough for numbers of JavaScript.
func TestDefaults(t *testing.T) {
	f, h := newFake()
	seeds := map[uint64]bool{}
	for _, body := range []string{`{}`, `{"seed": -1}`, `{"seed": null, "steps": null, "prompt": null}`, `{"seed": ""}`, `{"seed": "-1"}`} {
		got := post(t, h, "a", "/sdapi/v1/txt2img", body)
		require.Less(t, got.info.Seed, uint64(1)<<32)
		seeds[got.info.Seed] = true
		r := f.last()
		require.Equal(t, []any{0, 0, 0, 0.0, "", "", 1}, []any{r.Steps, r.Width, r.Height, r.Guidance, r.Sampler, r.Model, r.N})
	}
	require.Greater(t, len(seeds), 1)
}

// Clients write numbers and switches in many ways.
func TestLenient(t *testing.T) {
	f, h := newFake()
	post(t, h, "a", "/sdapi/v1/txt2img", `{"seed": "7", "steps": "3.0", "cfg_scale": "2", "width": 64.0, "batch_size": 2e0, "send_images": "true", "tiling": "false",
		"restore_faces": 0, "s_churn": "0.0", "styles": []}`)
	r := f.last()
	require.Equal(t, []any{uint64(7), 3, 2.0, 64, 2}, []any{*r.Seed, r.Steps, r.Guidance, r.Width, r.N})
	got := post(t, h, "a", "/sdapi/v1/txt2img", `{"seed": 18446744073709551000, "send_images": false, "cfg_scale": 0}`)
	require.Equal(t, uint64(18446744073709551000), *f.last().Seed)
	require.Empty(t, got.Images)
	require.Len(t, got.info.Texts, 1)
	require.Equal(t, 1.0, f.last().Guidance)
	requireNotices(t, got, "cfg_scale")
}

func requireNotices(t *testing.T, got parsed, with ...string) {
	t.Helper()
	require.Len(t, got.info.Notices, len(with), "%q", got.info.Notices)
	for i, want := range with {
		require.Contains(t, got.info.Notices[i], want)
	}
}

// What is asked for and is not there is said; what asks for nothing is not.
func TestNotices(t *testing.T) {
	f, h := newFake()
	for _, c := range []struct {
		body string
		want []string
	}{
		{`{"enable_hr": true, "hr_scale": 2}`, []string{"enable_hr"}},
		{`{"enable_hr": false, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}`, nil},
		{`{"save_images": true}`, []string{"save_images"}},
		{`{"tiling": true, "restore_faces": 1}`, []string{"restore_faces", "tiling"}},
		{`{"eta": 1.0, "s_noise": 1, "s_tmax": 0}`, nil},
		{`{"eta": 0.3}`, []string{"eta"}},
		{`{"subseed": 3, "subseed_strength": 0.1}`, []string{"subseed_strength"}},
		{`{"subseed": 3, "subseed_strength": "0"}`, nil},
		{`{"styles": ["photo"]}`, []string{"1 style"}},
		{`{"override_settings": {"CLIP_stop_at_last_layers": 2, "sd_vae": "x.safetensors"}}`, []string{"CLIP_stop_at_last_layers, sd_vae"}},
		{`{"override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"}}`, nil},
		{`{"alwayson_scripts": {"ADetailer": {"args": [false, true]}, "ControlNet": {"args": []}, "x": {}, "y": {"args": [{"enabled": false}]}}}`, nil},
		{`{"alwayson_scripts": {"ADetailer": {"args": [true]}, "ControlNet": {"args": [{"image": "AAAA"}]}}}`, []string{"ADetailer", "ControlNet"}},
		{`{"refiner_checkpoint": "x", "refiner_switch_at": 0.8}`, []string{"refiner_checkpoint"}},
		{`{"auth": "user:secret", "url": "http://127.0.0.1", "clip_skip": 1}`, []string{"auth, clip_skip, url"}},
		{`{"sampler_name": "Euler", "scheduler": "Align Your Steps"}`, []string{"Align Your Steps"}},
		{`{"scheduler": "Karras"}`, []string{"Karras"}},
		{`{"sampler_name": "LCM", "scheduler": "automatic"}`, nil},
	} {
		got := post(t, h, "a", "/sdapi/v1/txt2img", c.body)
		require.Len(t, got.info.Notices, len(c.want), "%s: %q", c.body, got.info.Notices)
		for i, want := range c.want {
			require.Contains(t, got.info.Notices[i], want, c.body)
		}
		require.NotContains(t, got.Parameters, "auth")
	}
	f.notices = []string{"22 steps are more than the model is for: 8"}
	requireNotices(t, post(t, h, "a", "/sdapi/v1/txt2img", `{"steps": 22, "tiling": true}`), "tiling", "22 steps")
}

func TestSamplers(t *testing.T) {
	f, h := newFake()
	for _, c := range []struct{ fields, want string }{
		{`"sampler_name": "Euler a"`, "euler_a"},
		{`"sampler_name": "Euler a", "scheduler": "automatic"`, "euler_a"},
		{`"sampler_index": "DDIM"`, "ddim"},
		{`"sampler_name": "DPM++ 2M"`, "dpmpp_2m_karras"}, // A1111's automatic
		{`"sampler_name": "DPM++ 2M Karras", "scheduler": "Automatic"`, "dpmpp_2m_karras"},
		{`"sampler_name": "Euler Karras", "scheduler": "Automatic"`, "euler_karras"},
		{`"sampler_name": "DPM++ 2M", "scheduler": "Uniform"`, "dpmpp_2m"},
		{`"sampler_name": "Euler", "scheduler": "sgm_uniform"`, "euler_trailing"},
		{`"sampler_name": "LCM"`, "lcm"},
		{`"sampler_name": "euler_a"`, "euler_a"},
		{`"sampler_name": null, "sampler_index": null, "scheduler": null`, ""},
	} {
		got := post(t, h, "a", "/sdapi/v1/txt2img", `{`+c.fields+`}`)
		require.Equal(t, c.want, f.last().Sampler, c.fields)
		require.Empty(t, got.info.Notices, c.fields)
	}
	status, body, _ := call(t, h, "a", "POST", "/sdapi/v1/txt2img", `{"sampler_name": "Restart"}`)
	require.Equal(t, 422, status)
	require.Contains(t, string(body), "Restart")

	// A1111's clients always send a sampler, also to models that have none of those.
	got := post(t, h, "a", "/sdapi/v1/txt2img", `{"sampler_name": "Euler a", "override_settings": {"sd_model_checkpoint": "emoji"}}`)
	requireNotices(t, got, "euler_a")
	require.Equal(t, "multistep", got.info.Sampler)
}

// The model of a request is that of override_settings, or the client's.
func TestPixelModel(t *testing.T) {
	f, h := newFake()
	got := post(t, h, "a", "/sdapi/v1/txt2img", `{"prompt": "dog", "seed": 3, "override_settings": {"sd_model_checkpoint": "emoji"}}`)
	require.Equal(t, "emoji", f.last().Model)
	m, texts := decode(t, got.Images[0])
	require.Equal(t, image.Pt(32, 32), m.Bounds().Size())
	require.Equal(t, vision.Text{Keyword: "parameters", Value: got.info.Texts[0]}, texts[0])
	settings := infotext.Parse(got.info.Texts[0])
	require.Equal(t, []string{"dog", "1", "multistep", "3", "32x32", "emoji", "dog"},
		[]string{settings.Prompt, settings.Get("Steps"), settings.Get("Sampler"), settings.Get("Seed"), settings.Get("Size"), settings.Get("Model"), settings.Get("Class")})
	post(t, h, "a", "/sdapi/v1/txt2img", `{}`)
	require.Empty(t, f.last().Model, "for one request only")
	post(t, h, "a", "/sdapi/v1/txt2img", `{"override_settings": {"sd_model_checkpoint": "emoji"}, "override_settings_restore_afterwards": false}`)
	post(t, h, "a", "/sdapi/v1/txt2img", `{}`)
	require.Equal(t, "emoji", f.last().Model)
}

func TestFormats(t *testing.T) {
	_, h := newFake()
	for format, want := range map[string]string{"png": "iVBOR", "jpg": "/9j/", "webp": "UklGR"} {
		got := post(t, h, "a", "/sdapi/v1/txt2img", `{"override_settings": {"samples_format": "`+format+`"}}`)
		require.True(t, strings.HasPrefix(got.Images[0], want), format)
		_, texts := decode(t, got.Images[0])
		require.Equal(t, got.info.Texts[0], texts[0].Value, format)
		require.Empty(t, got.info.Notices)
	}
}
