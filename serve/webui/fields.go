package webui

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/engine"
)

// field is a field of A1111's requests.
type field struct {
	name string
	// neutral are the values, as JSON, that ask for nothing; null is always one. A field without any is used, or belongs to one that is
	// said not to be.
	neutral []string
	say     string // what is said of other values
	img2img bool   // a field of img2img only
	first   string // A1111's default, as JSON, for the echo of the parameters; "": null
}

// fields are all fields of A1111's requests, in its order.
var fields = []field{
	{name: "prompt", first: `""`},
	{name: "negative_prompt", first: `""`},
	{name: "styles"},
	{name: "seed", first: "-1"},
	{name: "subseed", first: "-1"},
	{name: "subseed_strength", neutral: []string{"0"}, say: "variations of a seed are not supported", first: "0"},
	{name: "seed_resize_from_h", neutral: []string{"0", "-1"}, say: "resizing of seeds is not supported", first: "-1"},
	{name: "seed_resize_from_w", neutral: []string{"0", "-1"}, say: "resizing of seeds is not supported", first: "-1"},
	{name: "sampler_name"},
	{name: "scheduler"},
	{name: "batch_size", first: "1"},
	{name: "n_iter", first: "1"},
	{name: "steps"}, // what is left out, as of the next three, is the model's
	{name: "cfg_scale"},
	{name: "width"},
	{name: "height"},
	{name: "restore_faces", neutral: []string{"false", "0"}, say: "face restoration is not supported"},
	{name: "tiling", neutral: []string{"false", "0"}, say: "tiling is not supported"},
	{name: "do_not_save_samples", first: "false"},
	{name: "do_not_save_grid", first: "false"},
	{name: "eta", neutral: []string{"0", "1"}, say: "the sampler's own is used"},
	{name: "denoising_strength"},
	{name: "s_min_uncond", neutral: []string{"0"}, say: "the sampler's own is used"},
	{name: "s_churn", neutral: []string{"0"}, say: "the sampler's own is used"},
	{name: "s_tmax", neutral: []string{"0"}, say: "the sampler's own is used"},
	{name: "s_tmin", neutral: []string{"0"}, say: "the sampler's own is used"},
	{name: "s_noise", neutral: []string{"0", "1"}, say: "the sampler's own is used"},
	{name: "override_settings"},
	{name: "override_settings_restore_afterwards", first: "true"},
	{name: "refiner_checkpoint", neutral: []string{`""`, `"None"`}, say: "refiners are not supported"},
	{name: "refiner_switch_at"},
	{name: "disable_extra_networks", neutral: []string{"false", "0"}, say: "adapters in the prompt are applied", first: "false"},
	{name: "firstpass_image", neutral: []string{`""`}, say: "the highres fix is not supported"},
	{name: "comments"},
	{name: "enable_hr", neutral: []string{"false", "0"}, say: "the highres fix is not supported", first: "false"},
	{name: "firstphase_width", first: "0"},
	{name: "firstphase_height", first: "0"},
	{name: "hr_scale", first: "2.0"},
	{name: "hr_upscaler"},
	{name: "hr_second_pass_steps", first: "0"},
	{name: "hr_resize_x", first: "0"},
	{name: "hr_resize_y", first: "0"},
	{name: "hr_checkpoint_name"},
	{name: "hr_sampler_name"},
	{name: "hr_scheduler"},
	{name: "hr_prompt", first: `""`},
	{name: "hr_negative_prompt", first: `""`},
	{name: "force_task_id"},
	{name: "sampler_index", first: `"Euler"`},
	{name: "script_name"},
	{name: "script_args", first: "[]"},
	{name: "send_images", first: "true"},
	{name: "save_images", neutral: []string{"false", "0"}, say: "this server writes no files", first: "false"},
	{name: "alwayson_scripts", first: "{}"},
	{name: "infotext", neutral: []string{`""`}, say: "pass the settings as fields"},

	{name: "init_images", img2img: true},
	{name: "resize_mode", img2img: true, first: "0"},
	{name: "image_cfg_scale", img2img: true, neutral: []string{"0", "1", "1.5"}, say: "models that are guided by an image are not supported"},
	{name: "mask", img2img: true},
	{name: "mask_blur_x", img2img: true, first: "4"},
	{name: "mask_blur_y", img2img: true, first: "4"},
	{name: "mask_blur", img2img: true},
	{name: "mask_round", img2img: true, neutral: []string{"true", "1"}, say: "the mask is repainted where it is white by half or more", first: "true"},
	{name: "inpainting_fill", img2img: true, first: "0"},
	{name: "inpaint_full_res", img2img: true, first: "true"},
	{name: "inpaint_full_res_padding", img2img: true, first: "0"},
	{name: "inpainting_mask_invert", img2img: true, first: "0"},
	{name: "initial_noise_multiplier", img2img: true, neutral: []string{"1"}, say: "the noise is not scaled"},
	{name: "latent_mask", img2img: true, neutral: []string{`""`}, say: "only mask is used"},
}

// unsupported notes the fields that ask for what is not there, and those that A1111 does not know either.
func (q *request) unsupported() {
	known := map[string]bool{"include_init_images": true}
	for _, field := range fields {
		known[field.name] = true
		if field.neutral == nil || !q.form.has(field.name) {
			continue
		}
		if v, _ := json.Marshal(q.form.value(field.name)); !slices.Contains(field.neutral, string(v)) {
			q.note("%s is not used: %s", field.name, field.say)
		}
	}
	var unknown []string
	for _, name := range sortedKeys(q.form.fields) {
		if !known[name] && q.form.has(name) {
			unknown = append(unknown, quote.Text(name))
		}
	}
	if len(unknown) > 0 {
		q.note("unknown and not used: %s", strings.Join(firstFew(unknown), ", "))
	}
}

// value returns a field's value; text that has a number or a boolean is one.
func (f form) value(name string) any {
	var v any
	if json.Unmarshal(f.fields[name], &v) != nil {
		return nil
	}
	if text, ok := v.(string); ok {
		var inner any
		_ = json.Unmarshal([]byte(strings.ToLower(strings.TrimSpace(text))), &inner) // nil for other text
		switch inner.(type) {
		case float64, bool:
			return inner
		}
	}
	return v
}

// parameters is the request with defaults filled in, A1111's and those of the model with which it was served, as A1111's replies repeat it: without
// images unless they are asked for, and without what A1111 does not know, which can be a client's secrets.
func (f form) parameters(img2img bool, as engine.Resolved) map[string]json.RawMessage {
	own := map[string]string{
		"steps": strconv.Itoa(as.Steps), "cfg_scale": plainNumber(as.Guidance), "width": strconv.Itoa(as.Width), "height": strconv.Itoa(as.Height),
	}
	images := f.flag("include_init_images", false)
	all := map[string]json.RawMessage{}
	for _, field := range fields {
		v := f.fields[field.name]
		switch {
		case field.img2img && !img2img:
			continue
		case !images && slices.Contains([]string{"init_images", "mask", "latent_mask", "firstpass_image"}, field.name):
			v = nil
		case v == nil && own[field.name] != "":
			v = json.RawMessage(own[field.name])
		case v == nil && field.name == "denoising_strength" && img2img:
			v = json.RawMessage("0.75")
		case v == nil && field.first != "":
			v = json.RawMessage(field.first)
		}
		if v == nil {
			v = json.RawMessage("null")
		}
		all[field.name] = v
	}
	return all
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// firstFew cuts a list for a message.
func firstFew(list []string) []string {
	const most = 20
	if len(list) > most {
		return append(list[:most:most], "…")
	}
	return list
}
