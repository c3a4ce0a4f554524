package weights

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// predictions are the valid values of Options.Prediction.
var predictions = []string{"", "epsilon", "v_prediction", "sample"}

// The scheduler_config.json of the published models, without diffusers' version. Missing keys matter too: without timestep_spacing, each
// sampler uses the default of its own class. Each was compared key by key with a copy of the file in a public GitHub repository, named in
// its comment; for two of them no copy was found.
const (
	// runwayml/stable-diffusion-v1-5: george-polygod/magikaljourney and, with the Flax class, wswplay/stable-diffusion-v1-5
	scheduler1 = `{
  "_class_name": "PNDMScheduler",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "clip_sample": false,
  "num_train_timesteps": 1000,
  "set_alpha_to_one": false,
  "skip_prk_steps": true,
  "steps_offset": 1,
  "trained_betas": null
}
`
	// runwayml/stable-diffusion-inpainting: jack-op11/stable-diffusion-inpainting
	schedulerInpaint1 = `{
  "_class_name": "DDIMScheduler",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "clip_sample": false,
  "num_train_timesteps": 1000,
  "set_alpha_to_one": false,
  "steps_offset": 1,
  "trained_betas": null
}
`
	// SimianLuo/LCM_Dreamshaper_v7: no copy was found. These are the defaults of diffusers' LCMScheduler; darkautism/LCM-Dreamshaper-V7-rs
	// has the same clip_sample and set_alpha_to_one.
	schedulerLCM = `{
  "_class_name": "LCMScheduler",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "clip_sample": false,
  "clip_sample_range": 1.0,
  "dynamic_thresholding_ratio": 0.995,
  "num_train_timesteps": 1000,
  "original_inference_steps": 50,
  "prediction_type": "epsilon",
  "rescale_betas_zero_snr": false,
  "sample_max_value": 1.0,
  "set_alpha_to_one": true,
  "steps_offset": 0,
  "thresholding": false,
  "timestep_scaling": 10.0,
  "timestep_spacing": "leading",
  "trained_betas": null
}
`
	// stabilityai/stable-diffusion-2-base and -2-1-base: jack-op11/stable-diffusion-2-1-base
	schedulerBase2 = `{
  "_class_name": "PNDMScheduler",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "clip_sample": false,
  "num_train_timesteps": 1000,
  "prediction_type": "epsilon",
  "set_alpha_to_one": false,
  "skip_prk_steps": true,
  "steps_offset": 1,
  "trained_betas": null
}
`
	// stabilityai/stable-diffusion-2 and -2-1: Vikas-2025/Hugging_face_sta_dif_2.1, with the Flax class
	schedulerV2 = `{
  "_class_name": "DDIMScheduler",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "clip_sample": false,
  "num_train_timesteps": 1000,
  "prediction_type": "v_prediction",
  "set_alpha_to_one": false,
  "skip_prk_steps": true,
  "steps_offset": 1,
  "trained_betas": null
}
`
	// stabilityai/stable-diffusion-xl-base-1.0: Danielfegapeter/Hotshot-XL and reo224/LoRA_Diffusers, which are based on it. For
	// segmind/SSD-1B, distilled from that model, no copy was found; it is assumed to be the same.
	schedulerXL = `{
  "_class_name": "EulerDiscreteScheduler",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "clip_sample": false,
  "interpolation_type": "linear",
  "num_train_timesteps": 1000,
  "prediction_type": "epsilon",
  "sample_max_value": 1.0,
  "set_alpha_to_one": false,
  "skip_prk_steps": true,
  "steps_offset": 1,
  "timestep_spacing": "leading",
  "trained_betas": null,
  "use_karras_sigmas": false
}
`
)

// scheduler returns the scheduler_config.json of the published model of a kind, with the prediction type and zero terminal SNR of the file,
// if given.
func (k Kind) scheduler(prediction string, zeroSNR bool) (config []byte, err error) {
	own := "epsilon"
	switch k {
	case Inpaint15:
		config = []byte(schedulerInpaint1)
	case LCM15:
		config = []byte(schedulerLCM)
	case SD2:
		config, own = []byte(schedulerV2), "v_prediction"
		if prediction == "epsilon" {
			config, own = []byte(schedulerBase2), prediction
		}
	case SDXL, SSD1B:
		config = []byte(schedulerXL)
	default:
		config = []byte(scheduler1)
	}
	if prediction != "" && prediction != own {
		if config, err = predicting(config, prediction); err != nil {
			return nil, err
		}
	}
	if zeroSNR {
		return endingInNoise(config)
	}
	return config, nil
}

// predicts returns the prediction type of a scheduler_config.json.
func predicts(config []byte) string {
	v := predictionType.Find(config)
	for _, p := range predictions[1:] {
		if bytes.HasSuffix(v, []byte(`"`+p+`"`)) {
			return p
		}
	}
	return "epsilon"
}

// endsInNoise reports whether a scheduler_config.json has zero terminal SNR (rescale_betas_zero_snr).
func endsInNoise(config []byte) bool { return bytes.HasSuffix(zeroSNRKey.Find(config), []byte("true")) }

// endingInNoise sets zero terminal SNR.
func endingInNoise(config []byte) ([]byte, error) {
	if bytes.Contains(config, []byte("PNDMScheduler")) { // diffusers' PNDMScheduler has no such key
		config = schedulerClass.ReplaceAll(config, []byte(`"_class_name": "DDIMScheduler"`))
	}
	return withKey(zeroSNRKey, config, "rescale_betas_zero_snr", "true")
}

var (
	predictionType = regexp.MustCompile(`"prediction_type"\s*:\s*(?:"[^"\\]*"|null)`)
	zeroSNRKey     = regexp.MustCompile(`"rescale_betas_zero_snr"\s*:\s*(?:true|false|null)`)
)

// predicting sets the prediction type of a scheduler_config.json.
func predicting(config []byte, prediction string) ([]byte, error) {
	return withKey(predictionType, config, "prediction_type", `"`+prediction+`"`)
}

// withKey sets a key of a scheduler_config.json without parsing the rest, since diffusers writes numbers that encoding/json cannot read.
func withKey(at *regexp.Regexp, config []byte, key, value string) ([]byte, error) {
	entry := []byte(`"` + key + `": ` + value)
	if at.Match(config) {
		return at.ReplaceAllLiteral(config, entry), nil
	}
	head, rest, ok := bytes.Cut(config, []byte{'{'})
	if !ok || len(bytes.TrimSpace(head)) > 0 {
		return nil, errors.New("scheduler_config.json: want a JSON object")
	}
	if !bytes.HasPrefix(bytes.TrimSpace(rest), []byte{'}'}) {
		entry = append(entry, ',')
	}
	return append([]byte("{\n  "), append(entry, rest...)...), nil
}

// Empty tensors with these names mark v-prediction and zero terminal SNR: other programs look for them in single files of SDXL's shape.
const (
	saysVelocity = "v_pred"
	saysZeroSNR  = "ztsnr"
)

// prediction returns the prediction type, "" for the default of the kind, and whether the noise has zero terminal SNR.
func (o Options) prediction(w file) (string, bool) {
	has := namesOf(w, "")
	zero := has(saysZeroSNR)
	switch {
	case o.Prediction != "":
		return o.Prediction, zero
	case has(saysVelocity):
		return "v_prediction", zero
	}
	meta := metadataOf(w)
	switch meta[specPrediction] {
	case "v", "v_prediction":
		return "v_prediction", zero
	case "epsilon":
		return "epsilon", zero
	}
	switch meta[specArchitecture] {
	case "stable-diffusion-v2-512":
		return "epsilon", zero
	case "stable-diffusion-v2-768-v":
		return "v_prediction", zero
	}
	return "", zero
}

// telling returns the names of the marker tensors for a scheduler_config.json.
func telling(config []byte) (names []string) {
	if predicts(config) == "v_prediction" {
		names = append(names, saysVelocity)
	}
	if endsInNoise(config) {
		names = append(names, saysZeroSNR)
	}
	return names
}

// assumed returns notices about a prediction type that the file does not contain.
func (m *Model) assumed(prediction string) (notices []string) {
	if m.Kind == SD2 && prediction == "" && !m.inpaints() {
		notices = append(notices, fmt.Sprintf("%s: the file does not contain the prediction type: assuming v_prediction, as in the "+
			"models for 768 pixels; those for 512 pixels (2-base, 2-1-base) have epsilon", m.Kind))
	}
	return notices
}

// inpaints reports whether the network is one for inpainting.
func (m *Model) inpaints() bool {
	var c struct {
		In int `json:"in_channels"`
	}
	return m.UNet != nil && json.Unmarshal(m.UNet.Config, &c) == nil && c.In == 9
}
