package noise

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
)

// Config is a scheduler_config.json of diffusers: the noise schedule that a network was trained with, its prediction type, and the
// options of the scheduler that it was published with. Zero fields take the defaults of a diffusers class, as they do there: see
// [Config.WithBetas] for the betas; the other fields are used by samplers only.
//
// The cosine schedule is from Nichol & Dhariwal (2021), eq. 17, the timestep spacings from Lin et al. (2024), table 2, and dynamic
// thresholding from Saharia et al. (2022), section 2.3.
type Config struct {
	Class string `json:"_class_name,omitempty"` // the diffusers class that the model was published with

	TrainSteps   int       `json:"num_train_timesteps,omitempty"` // 0: 1000
	BetaStart    float64   `json:"beta_start,omitempty"`          // β of the first timestep; 0: the class's default
	BetaEnd      float64   `json:"beta_end,omitempty"`            // β of the last timestep; 0: the class's default
	BetaSchedule string    `json:"beta_schedule,omitempty"`       // "linear", "scaled_linear" (in √β) or "squaredcos_cap_v2"; "": the class's default
	TrainedBetas []float64 `json:"trained_betas,omitempty"`       // β of every timestep, in place of a schedule
	ZeroSNR      bool      `json:"rescale_betas_zero_snr"`        // the last timestep is pure noise (Lin et al. 2024, algorithm 1)

	Predicts Prediction `json:"-"` // prediction_type: "epsilon", "sample" or "v_prediction"

	Spacing       string `json:"timestep_spacing,omitempty"` // "leading", "trailing" or "linspace"; "": the class's default
	StepsOffset   int    `json:"steps_offset,omitempty"`     // added to timesteps of leading spacing
	OriginalSteps int    `json:"original_inference_steps,omitempty"`
	Karras        bool   `json:"use_karras_sigmas,omitempty"` // noise levels of Karras et al. (2022), eq. 5
	FinalSigma    string `json:"final_sigmas_type,omitempty"` // the last noise level: "zero" or "sigma_min"; "": zero
	AlphaToOne    *bool  `json:"set_alpha_to_one,omitempty"`  // DDIM's last step ends at ᾱ = 1, not at ᾱ of timestep 0; nil: true
	// Variance is that of DDPM's steps: "fixed_small", β̃, "fixed_small_log", the same by its logarithm, or "fixed_large", β; "": fixed_small.
	Variance string `json:"variance_type,omitempty"`

	Scaling float64 `json:"timestep_scaling,omitempty"` // factor of timesteps in LCM's boundary condition; 0: 10

	Clip       *bool   `json:"clip_sample,omitempty"`                // clamp x_0 predictions; nil: the class's default
	ClipRange  float64 `json:"clip_sample_range,omitempty"`          // clamp to ±this; 0: 1
	Threshold  bool    `json:"thresholding,omitempty"`               // dynamic thresholding: clamp x_0 predictions to a quantile and divide by it
	Quantile   float64 `json:"dynamic_thresholding_ratio,omitempty"` // 0: 0.995
	SampleMax  float64 `json:"sample_max_value,omitempty"`           // largest divisor of dynamic thresholding; 0: 1
	Order      int     `json:"solver_order,omitempty"`               // of UniPC, DEIS and DPM-Solver++, 1 to 3; 0: 2
	LowerFinal *bool   `json:"lower_order_final,omitempty"`          // with few steps, the last step has order 1; nil: true
	EulerFinal bool    `json:"euler_at_final,omitempty"`             // the last step of DPM-Solver++ always has order 1

	// Variants of solvers.
	Algorithm   string `json:"algorithm_type,omitempty"`
	Solver      string `json:"solver_type,omitempty"`            // "heun" for DPM-Solver++, "bh1" for UniPC
	Exponential bool   `json:"use_exponential_sigmas,omitempty"` // noise levels spaced evenly in log σ
	BetaSigmas  bool   `json:"use_beta_sigmas,omitempty"`        // noise levels at the quantiles of Beta(0.6, 0.6)
	LuLambdas   bool   `json:"use_lu_lambdas,omitempty"`         // not supported: an error in the samplers that use it

	SkipPRK bool `json:"skip_prk_steps,omitempty"` // PNDM begins with its multistep method, as in Stable Diffusion 1
}

// ddpmClass is the class that uses Variance.
const ddpmClass = "DDPMScheduler"

// maxTrainSteps limits the memory that an untrusted file can make us allocate.
const maxTrainSteps = 100_000

// otherProcess matches diffusers' schedulers of models that are not on a chain of discrete betas: their network has other inputs, or predicts
// something else.
var otherProcess = regexp.MustCompile(`^(FlowMatch|EDM|KarrasVe|ScoreSde|IPNDM|VQDiffusion|DDPMWuerstchen|CosineDPMSolver)`)

// ParseConfig reads a scheduler_config.json. Keys that have no effect on the schedulers of this module are ignored. A value that is not
// supported is an error; if some schedulers do not use it, the error comes from the schedulers that do.
func ParseConfig(data []byte) (Config, error) {
	var file configFile
	var more struct {
		PredictX0     *bool           `json:"predict_x0"`
		Flow          bool            `json:"use_flow_sigmas"`
		Shifting      bool            `json:"use_dynamic_shifting"`
		Interpolation string          `json:"interpolation_type"`
		TimestepType  string          `json:"timestep_type"`
		SigmaMin      *float64        `json:"sigma_min"`
		SigmaMax      *float64        `json:"sigma_max"`
		LambdaMin     json.RawMessage `json:"lambda_min_clipped"`
		Uncorrected   []int           `json:"disable_corrector"`
		Predictor     json.RawMessage `json:"solver_p"`
	}
	var keys map[string]json.RawMessage
	if err := configjson.Check(data); err != nil {
		return Config{}, fmt.Errorf("scheduler config: %w", err)
	}
	data = ValidJSON(data)
	if err := json.Unmarshal(data, &keys); err != nil {
		return Config{}, fmt.Errorf("scheduler config: %w", quote.Error(err))
	}
	if err := errors.Join(json.Unmarshal(data, &file), json.Unmarshal(data, &more)); err != nil {
		return Config{}, fmt.Errorf("scheduler config: %w", quote.Error(err))
	}
	c := Config(file.fields)
	unsupported := func(key string, value any, want string) error {
		return fmt.Errorf("scheduler config: %s is %s, which is not supported: want %s", key, quote.Text(fmt.Sprint(value)), want)
	}
	set := func(v json.RawMessage, but string) bool { return v != nil && string(v) != "null" && string(v) != but }
	const latent = "a model of Stable Diffusion 1, 2 or XL"
	var err error
	switch {
	case keys == nil:
		err = errors.New("scheduler config: want an object, got null")
	case otherProcess.MatchString(c.Class):
		err = unsupported("_class_name", c.Class, latent)
	case more.Flow:
		err = unsupported("use_flow_sigmas", true, latent)
	case more.Shifting:
		err = unsupported("use_dynamic_shifting", true, latent)
	case more.PredictX0 != nil && !*more.PredictX0:
		err = unsupported("predict_x0", false, "true")
	case more.Interpolation != "" && more.Interpolation != "linear":
		err = unsupported("interpolation_type", more.Interpolation, "linear")
	case more.TimestepType != "" && more.TimestepType != "discrete":
		err = unsupported("timestep_type", more.TimestepType, "discrete")
	case c.Class != ddpmClass && c.Variance != "" && c.Variance != "fixed_small":
		err = unsupported("variance_type", c.Variance, "null")
	case more.SigmaMin != nil || more.SigmaMax != nil:
		err = unsupported("sigma_min or sigma_max", "set", "null")
	case set(more.LambdaMin, `"-Infinity"`):
		err = unsupported("lambda_min_clipped", string(more.LambdaMin), "-Infinity")
	case len(more.Uncorrected) > 0:
		err = unsupported("disable_corrector", more.Uncorrected, "[]")
	case set(more.Predictor, "null"):
		err = unsupported("solver_p", string(more.Predictor), "null")
	}
	if err != nil {
		return Config{}, err
	}
	for _, key := range nonzero { // in Config, 0 means that the key is absent
		var v float64
		if data := keys[key]; set(data, "null") && json.Unmarshal(data, &v) == nil && v == 0 {
			return Config{}, fmt.Errorf("scheduler config: %s is 0: want a number above 0", key)
		}
	}
	if c.Predicts, err = predictionOf(file.Prediction); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// fields is a Config without its methods.
type fields Config

// configFile is the JSON form of a Config.
type configFile struct {
	fields
	Prediction string `json:"prediction_type,omitempty"`
}

// MarshalJSON writes a scheduler_config.json; prediction_type is always in it.
func (c Config) MarshalJSON() ([]byte, error) {
	if err := c.Predicts.Validate("scheduler config"); err != nil {
		return nil, err
	}
	return json.Marshal(configFile{fields(c), c.Predicts.Diffusers()})
}

// UnmarshalJSON is [ParseConfig].
func (c *Config) UnmarshalJSON(data []byte) (err error) {
	*c, err = ParseConfig(data)
	return err
}

// predictionOf reads a prediction_type.
func predictionOf(name string) (Prediction, error) {
	for p := Epsilon; p <= Sample; p++ {
		if name == p.Diffusers() || name == "" {
			return p, nil
		}
	}
	return 0, fmt.Errorf("scheduler config: prediction_type is %s: want epsilon, sample or v_prediction", quote.Quoted(name))
}

var nonzero = []string{"num_train_timesteps", "beta_start", "beta_end", "original_inference_steps", "timestep_scaling",
	"clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "solver_order"}

var stringsOrWords = regexp.MustCompile(`(?s)"(?:[^"\\]|\\.)*"|-?Infinity|NaN`)

// ValidJSON puts quotes around Infinity, -Infinity and NaN, which Python writes but JSON does not have: diffusers' own files of DPM-Solver
// contain "lambda_min_clipped": -Infinity. As strings they are errors in number fields.
func ValidJSON(data []byte) []byte {
	if json.Valid(data) { // a file without them; much faster than the regular expression
		return data
	}
	return stringsOrWords.ReplaceAllFunc(data, func(v []byte) []byte {
		if v[0] == '"' {
			return v
		}
		return fmt.Appendf(nil, "%q", v)
	})
}

// Validate reports values that no scheduler accepts.
func (c Config) Validate() error {
	bad := func(key string, value any, want string) error {
		text := quote.Text(fmt.Sprint(value))
		if v, ok := value.(string); ok {
			text = quote.Quoted(v)
		}
		return fmt.Errorf("scheduler config: %s is %s: want %s", key, text, want)
	}
	oneOf := func(v string, all ...string) bool {
		for _, a := range append(all, "") {
			if v == a {
				return true
			}
		}
		return false
	}
	within := func(v, lo, hi float64) bool { return v >= lo && v <= hi } // false for NaN
	switch {
	case c.Steps() < 2 || c.TrainSteps > maxTrainSteps:
		return bad("num_train_timesteps", c.TrainSteps, fmt.Sprintf("2 to %d", maxTrainSteps))
	case c.TrainedBetas != nil && len(c.TrainedBetas) != c.Steps():
		return bad("the length of trained_betas", len(c.TrainedBetas), fmt.Sprintf("num_train_timesteps, %d", c.Steps()))
	case !within(c.BetaStart, 0, 0.999):
		return bad("beta_start", c.BetaStart, "a number between 0 and 1")
	case !within(c.BetaEnd, 0, 0.999):
		return bad("beta_end", c.BetaEnd, "a number between 0 and 1")
	case !oneOf(c.BetaSchedule, "linear", "scaled_linear", "squaredcos_cap_v2"):
		return bad("beta_schedule", c.BetaSchedule, "linear, scaled_linear or squaredcos_cap_v2")
	case !oneOf(c.Spacing, "leading", "trailing", "linspace"):
		return bad("timestep_spacing", c.Spacing, "leading, trailing or linspace")
	case c.StepsOffset < 0 || c.StepsOffset >= c.Steps():
		return bad("steps_offset", c.StepsOffset, fmt.Sprintf("0 to %d", c.Steps()-1))
	case c.OriginalSteps < 0 || c.OriginalSteps > c.Steps():
		return bad("original_inference_steps", c.OriginalSteps, fmt.Sprintf("1 to %d", c.Steps()))
	case !oneOf(c.Variance, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"):
		return bad("variance_type", c.Variance, "fixed_small, fixed_small_log or fixed_large")
	case !oneOf(c.FinalSigma, "zero", "sigma_min"):
		return bad("final_sigmas_type", c.FinalSigma, "zero or sigma_min")
	case !within(c.Scaling, 0, 1e6):
		return bad("timestep_scaling", c.Scaling, "a number above 0")
	case !within(c.ClipRange, 0, 1e6):
		return bad("clip_sample_range", c.ClipRange, "a number above 0")
	case !within(c.Quantile, 0, 1):
		return bad("dynamic_thresholding_ratio", c.Quantile, "a number from 0 to 1")
	case c.SampleMax != 0 && !within(c.SampleMax, 1, 1e6):
		return bad("sample_max_value", c.SampleMax, "a number of at least 1")
	case c.Order < 0 || c.Order > 3:
		return bad("solver_order", c.Order, "1, 2 or 3")
	}
	if err := c.Predicts.Validate("scheduler config"); err != nil {
		return err
	}
	for i, b := range c.TrainedBetas {
		if !within(b, 0, 1) {
			return bad(fmt.Sprintf("trained_betas[%d]", i), b, "a number between 0 and 1")
		}
	}
	return nil
}

// Steps returns the number of timesteps that the network was trained with.
func (c Config) Steps() int { return cmp.Or(c.TrainSteps, 1000) }
