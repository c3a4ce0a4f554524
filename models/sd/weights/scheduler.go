package weights

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// predictions are what Options.Prediction may be.
var predictions = []string{"", "epsilon", "v_prediction", "sample"}

// The scheduler_config.json of the published models, without diffusers' version. A key that is not there is as telling as one that is:
// without timestep_spacing, each sampler has the spacing of its own class. Each was compared key by key with a copy of the file in a public
// repository on GitHub, which the comments name; of two there is no copy.
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
	// SimianLuo/LCM_Dreamshaper_v7: no copy was found. These are the values that diffusers' LCMScheduler has by default;
	// darkautism/LCM-Dreamshaper-V7-rs notes the same clip_sample and set_alpha_to_one.
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
	// stabilityai/stable-diffusion-xl-base-1.0: Danielfegapeter/Hotshot-XL and reo224/LoRA_Diffusers, which start from it. Of segmind/SSD-1B,
	// which was distilled from that model, no copy was found; it is taken to have the same.
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

// scheduler returns the scheduler_config.json of the published model of a kind, with another prediction than its own, or with noise that
// ends in noise alone, where the file says so.
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

// predicts is what the network of a scheduler_config.json predicts.
func predicts(config []byte) string {
	v := predictionType.Find(config)
	for _, p := range predictions[1:] {
		if bytes.HasSuffix(v, []byte(`"`+p+`"`)) {
			return p
		}
	}
	return "epsilon"
}

// endsInNoise tells whether the noise of a scheduler_config.json ends in noise alone.
func endsInNoise(config []byte) bool { return bytes.HasSuffix(zeroSNRKey.Find(config), []byte("true")) }

// endingInNoise makes it do so.
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

// predicting changes what a scheduler_config.json says is predicted.
func predicting(config []byte, prediction string) ([]byte, error) {
	return withKey(predictionType, config, "prediction_type", `"`+prediction+`"`)
}

// withKey gives a key of a scheduler_config.json another value. It leaves the rest as it is, for diffusers writes numbers that
// encoding/json does not read.
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

// Empty tensors with these names say what a network predicts, and that its noise ends in noise alone: the programs that read single
// files of SDXL's shape look for them.
const (
	saysVelocity = "v_pred"
	saysZeroSNR  = "ztsnr"
)

// prediction returns what the network predicts, "" for what those of its kind do, and whether its noise ends in noise alone.
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

// telling are the tensors that say what a model of this scheduler_config.json predicts.
func telling(config []byte) (names []string) {
	if predicts(config) == "v_prediction" {
		names = append(names, saysVelocity)
	}
	if endsInNoise(config) {
		names = append(names, saysZeroSNR)
	}
	return names
}

// assumed says what a scheduler_config.json was assumed to be, where the file cannot say it.
func (m *Model) assumed(prediction string) (notices []string) {
	if m.Kind == SD2 && prediction == "" && !m.inpaints() {
		notices = append(notices, fmt.Sprintf("%s: the file does not say what the network predicts: v_prediction is assumed, as in the "+
			"models for 768 pixels; those for 512 pixels (2-base, 2-1-base) predict epsilon", m.Kind))
	}
	return notices
}

// inpaints tells whether the network takes a mask and what lies around it besides the latents.
func (m *Model) inpaints() bool {
	var c struct {
		In int `json:"in_channels"`
	}
	return m.UNet != nil && json.Unmarshal(m.UNet.Config, &c) == nil && c.In == 9
}
