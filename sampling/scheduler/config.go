package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// Config describes the chain of noise that a network was trained with, and how its predictions are to be read. It is the
// scheduler_config.json of diffusers. Fields that are left at zero take the defaults of the diffusers class that a [Method] stands
// for, as they do there.
//
// The cosine schedule is by Nichol & Dhariwal (2021), eq. 17, the spacings are those of Lin et al. (2024), table 2, and thresholds
// are by Saharia et al. (2022), section 2.3.
type Config struct {
	Class string `json:"_class_name,omitempty"` // the diffusers class that the model was published with

	TrainSteps   int       `json:"num_train_timesteps,omitempty"` // 0: 1000
	BetaStart    float64   `json:"beta_start,omitempty"`          // of noise added in the first step; 0: by the class
	BetaEnd      float64   `json:"beta_end,omitempty"`            // and in the last
	BetaSchedule string    `json:"beta_schedule,omitempty"`       // "linear", "scaled_linear" (in √β) or "squaredcos_cap_v2"; "": by the class
	TrainedBetas []float64 `json:"trained_betas,omitempty"`       // in place of a schedule
	ZeroSNR      bool      `json:"rescale_betas_zero_snr"`        // the last step is pure noise (Lin et al. 2024, algorithm 1)

	Predicts string `json:"prediction_type,omitempty"` // "epsilon", "sample" or "v_prediction" (Salimans & Ho 2022); "": epsilon

	Spacing       string `json:"timestep_spacing,omitempty"` // "leading", "trailing" or "linspace"; "": by the class
	StepsOffset   int    `json:"steps_offset,omitempty"`     // added to leading timesteps
	OriginalSteps int    `json:"original_inference_steps,omitempty"`
	Karras        bool   `json:"use_karras_sigmas,omitempty"` // noise levels spaced as by Karras et al. (2022), eq. 5
	FinalSigma    string `json:"final_sigmas_type,omitempty"` // where levels end: "zero" or "sigma_min"; "": zero
	AlphaToOne    *bool  `json:"set_alpha_to_one,omitempty"`  // DDIM ends without noise, not at the first level; nil: true

	Scaling float64 `json:"timestep_scaling,omitempty"` // of timesteps in LCM's boundary condition; 0: 10

	Clip       *bool   `json:"clip_sample,omitempty"`                // predictions of the clean sample are clamped; nil: as the class does
	ClipRange  float64 `json:"clip_sample_range,omitempty"`          // to ±this; 0: 1
	Threshold  bool    `json:"thresholding,omitempty"`               // they are clamped to a quantile and divided by it
	Quantile   float64 `json:"dynamic_thresholding_ratio,omitempty"` // 0: 0.995
	SampleMax  float64 `json:"sample_max_value,omitempty"`           // the largest divisor; 0: 1
	Order      int     `json:"solver_order,omitempty"`               // of UniPC and DEIS, 1 to 3; of DPM-Solver++ 1, and see [Config.Default]; 0: 2
	LowerFinal *bool   `json:"lower_order_final,omitempty"`          // they end in the first order when steps are few; nil: true
	EulerFinal bool    `json:"euler_at_final,omitempty"`             // DPM-Solver++ does so always

	// Variants: see [Config.Default].
	Algorithm   string `json:"algorithm_type,omitempty"`
	Solver      string `json:"solver_type,omitempty"`            // "heun" for DPM-Solver++, "bh1" for UniPC
	Exponential bool   `json:"use_exponential_sigmas,omitempty"` // noise levels spaced evenly in log σ
	BetaSigmas  bool   `json:"use_beta_sigmas,omitempty"`        // by the quantiles of Beta(0.6, 0.6)
	LuLambdas   bool   `json:"use_lu_lambdas,omitempty"`         // not supported: methods that would have to do so refuse to start

	SkipPRK bool `json:"skip_prk_steps,omitempty"` // PNDM begins with its multistep method, as in Stable Diffusion 1
}

// The limit keeps hostile files from asking for memory.
const maxTrainSteps = 100_000

// ParseConfig reads a scheduler_config.json. Keys of other classes that change nothing here are ignored; what asks for something
// that is not built is an error, unless other methods can do without it: then it is one where a method starts that cannot.
func ParseConfig(data []byte) (Config, error) {
	var c Config
	var more struct {
		PredictX0     *bool           `json:"predict_x0"`
		Flow          bool            `json:"use_flow_sigmas"`
		Shifting      bool            `json:"use_dynamic_shifting"`
		Interpolation string          `json:"interpolation_type"`
		TimestepType  string          `json:"timestep_type"`
		Variance      json.RawMessage `json:"variance_type"`
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
	data = quoted(data)
	if err := json.Unmarshal(data, &keys); err != nil {
		return Config{}, fmt.Errorf("scheduler config: %w", quote.Error(err))
	}
	if err := errors.Join(json.Unmarshal(data, &c), json.Unmarshal(data, &more)); err != nil {
		return Config{}, fmt.Errorf("scheduler config: %w", quote.Error(err))
	}
	unbuilt := func(key string, value any, want string) error {
		return fmt.Errorf("scheduler config: %s is %s, which is not supported: want %s", key, quote.Text(fmt.Sprint(value)), want)
	}
	set := func(v json.RawMessage, but string) bool { return v != nil && string(v) != "null" && string(v) != but }
	const latent = "a model of Stable Diffusion 1, 2 or XL"
	var err error
	switch {
	case keys == nil:
		err = errors.New("scheduler config: want an object, got null")
	case strings.HasPrefix(c.Class, "FlowMatch"):
		err = unbuilt("_class_name", c.Class, latent)
	case more.Flow:
		err = unbuilt("use_flow_sigmas", true, latent)
	case more.Shifting:
		err = unbuilt("use_dynamic_shifting", true, latent)
	case more.PredictX0 != nil && !*more.PredictX0:
		err = unbuilt("predict_x0", false, "true")
	case more.Interpolation != "" && more.Interpolation != "linear":
		err = unbuilt("interpolation_type", more.Interpolation, "linear")
	case more.TimestepType != "" && more.TimestepType != "discrete":
		err = unbuilt("timestep_type", more.TimestepType, "discrete")
	case set(more.Variance, `"fixed_small"`):
		err = unbuilt("variance_type", string(more.Variance), "null")
	case more.SigmaMin != nil || more.SigmaMax != nil:
		err = unbuilt("sigma_min or sigma_max", "set", "null")
	case set(more.LambdaMin, `"-Infinity"`):
		err = unbuilt("lambda_min_clipped", string(more.LambdaMin), "-Infinity")
	case len(more.Uncorrected) > 0:
		err = unbuilt("disable_corrector", more.Uncorrected, "[]")
	case set(more.Predictor, "null"):
		err = unbuilt("solver_p", string(more.Predictor), "null")
	}
	if err != nil {
		return Config{}, err
	}
	for _, key := range nonzero { // whose zero means in Config that it is left out
		var v float64
		if data := keys[key]; set(data, "null") && json.Unmarshal(data, &v) == nil && v == 0 {
			return Config{}, fmt.Errorf("scheduler config: %s is 0: want a number above 0", key)
		}
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

var nonzero = []string{"num_train_timesteps", "beta_start", "beta_end", "original_inference_steps", "timestep_scaling",
	"clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "solver_order"}

var stringsOrWords = regexp.MustCompile(`(?s)"(?:[^"\\]|\\.)*"|-?Infinity|NaN`)

// quoted puts quotes around the numbers that Python writes and JSON does not have: diffusers' own files of DPM-Solver say
// "lambda_min_clipped": -Infinity. As strings they are errors where numbers are wanted.
func quoted(data []byte) []byte {
	if json.Valid(data) { // a file without them, and far quicker than the expression
		return data
	}
	return stringsOrWords.ReplaceAllFunc(data, func(v []byte) []byte {
		if v[0] == '"' {
			return v
		}
		return fmt.Appendf(nil, "%q", v)
	})
}

// Validate reports what cannot work, whatever the method.
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
	case c.trainSteps() < 2 || c.TrainSteps > maxTrainSteps:
		return bad("num_train_timesteps", c.TrainSteps, fmt.Sprintf("2 to %d", maxTrainSteps))
	case c.TrainedBetas != nil && len(c.TrainedBetas) != c.trainSteps():
		return bad("the length of trained_betas", len(c.TrainedBetas), fmt.Sprintf("num_train_timesteps, %d", c.trainSteps()))
	case !within(c.BetaStart, 0, 0.999):
		return bad("beta_start", c.BetaStart, "a number between 0 and 1")
	case !within(c.BetaEnd, 0, 0.999):
		return bad("beta_end", c.BetaEnd, "a number between 0 and 1")
	case !oneOf(c.BetaSchedule, "linear", "scaled_linear", "squaredcos_cap_v2"):
		return bad("beta_schedule", c.BetaSchedule, "linear, scaled_linear or squaredcos_cap_v2")
	case !oneOf(c.Predicts, epsilon, sample, velocity):
		return bad("prediction_type", c.Predicts, "epsilon, sample or v_prediction")
	case !oneOf(c.Spacing, "leading", "trailing", "linspace"):
		return bad("timestep_spacing", c.Spacing, "leading, trailing or linspace")
	case c.StepsOffset < 0 || c.StepsOffset >= c.trainSteps():
		return bad("steps_offset", c.StepsOffset, fmt.Sprintf("0 to %d", c.trainSteps()-1))
	case c.OriginalSteps < 0 || c.OriginalSteps > c.trainSteps():
		return bad("original_inference_steps", c.OriginalSteps, fmt.Sprintf("1 to %d", c.trainSteps()))
	case !oneOf(c.FinalSigma, "zero", "sigma_min"):
		return bad("final_sigmas_type", c.FinalSigma, "zero or sigma_min")
	case !within(c.Scaling, 0, 1e6):
		return bad("timestep_scaling", c.Scaling, "a number above 0")
	case !within(c.ClipRange, 0, 1e6):
		return bad("clip_sample_range", c.ClipRange, "a number above 0")
	case !within(c.Quantile, 0, 1):
		return bad("dynamic_thresholding_ratio", c.Quantile, "a number from 0 to 1")
	case c.SampleMax != 0 && !within(c.SampleMax, 1, 1e6):
		return bad("sample_max_value", c.SampleMax, "a number from 1 on")
	case c.Order < 0 || c.Order > 3:
		return bad("solver_order", c.Order, "1, 2 or 3")
	}
	for i, b := range c.TrainedBetas {
		if !within(b, 0, 1) {
			return bad(fmt.Sprintf("trained_betas[%d]", i), b, "a number between 0 and 1")
		}
	}
	return nil
}

// Variants of solvers, by solver_type.
const (
	heunSolver = "heun"
	bh1Solver  = "bh1"
)

// What networks predict.
const (
	epsilon  = "epsilon"
	sample   = "sample"
	velocity = "v_prediction"
)

func (c Config) trainSteps() int { return or(c.TrainSteps, 1000) }

// or returns v, or the default where v is zero.
func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// is returns what a flag points to, or the default where it is not set.
func is(flag *bool, otherwise bool) bool {
	if flag == nil {
		return otherwise
	}
	return *flag
}

// class is what diffusers' classes have for keys that a file leaves out.
type class struct {
	start, end float64
	schedule   string
	spacing    string
	clip       bool
	uni        bool // UniPC's and DEIS's ways with spaced levels: Karras's have whole timesteps always, and "sigma_min" is the last level
	whole      bool // timesteps of Karras's levels are rounded, although others are not
}

var (
	latentClass = class{start: 0.00085, end: 0.012, schedule: "scaled_linear", spacing: "leading"} // LCM, TCD
	ddimClass   = class{start: 0.0001, end: 0.02, schedule: "linear", spacing: "leading", clip: true}
	sigmaClass  = class{start: 0.0001, end: 0.02, schedule: "linear", spacing: "linspace"} // Euler, DPM-Solver++
	uniClass    = class{start: 0.0001, end: 0.02, schedule: "linear", spacing: "linspace", uni: true}
	heunClass   = class{start: 0.00085, end: 0.012, schedule: "linear", spacing: "linspace"}
)

// chain is a configuration with a class's defaults filled in, and its levels.
type chain struct {
	Config
	alphas []float32 // ᾱ_t: the part of the clean sample's variance that is left at timestep t
	clip   bool
}

func newChain(c Config, k class) (*chain, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.TrainSteps = c.trainSteps()
	c.BetaStart, c.BetaEnd = or(c.BetaStart, k.start), or(c.BetaEnd, k.end)
	c.BetaSchedule, c.Spacing = or(c.BetaSchedule, k.schedule), or(c.Spacing, k.spacing)
	c.Predicts, c.FinalSigma = or(c.Predicts, epsilon), or(c.FinalSigma, "zero")
	c.OriginalSteps, c.Scaling = or(c.OriginalSteps, min(50, c.TrainSteps)), or(c.Scaling, 10)
	c.ClipRange, c.Quantile, c.SampleMax, c.Order = or(c.ClipRange, 1), or(c.Quantile, 0.995), or(c.SampleMax, 1), or(c.Order, 2)
	ch := &chain{Config: c, clip: is(c.Clip, k.clip)}
	if c.ZeroSNR && c.Predicts == epsilon {
		return nil, errors.New("scheduler config: rescale_betas_zero_snr with prediction_type epsilon cannot work: " +
			"pure noise says nothing about the sample; want v_prediction or sample")
	}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		alphas := c.betas(s).Neg(s).AddScalar(s, 1).CumProd(s, 0)
		if c.ZeroSNR {
			alphas = zeroTerminal(s, alphas)
		}
		ch.alphas = torch.ToSlice[float32](alphas)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ch, ch.rising()
}

// rising reports a chain in which some step adds no noise, or the samples are lost before the end.
func (c *chain) rising() error {
	before := float32(1)
	for t, a := range c.alphas {
		end := c.ZeroSNR && t == len(c.alphas)-1
		if !(a < before && (a > 1e-12 || end)) {
			return fmt.Errorf("scheduler config: its betas leave %g of the sample at timestep %d, after %g before: "+
				"want the part to fall in each step and to stay above 0", a, t, before)
		}
		before = a
	}
	return nil
}

// betas are the variances of the noise that is added in each step, in float32, [TrainSteps].
func (c Config) betas(s *torch.Scope) *torch.Tensor {
	n := c.TrainSteps
	switch {
	case c.TrainedBetas != nil:
		return torch.FromSlice(s, c.TrainedBetas, n).To(s, torch.Float32)
	case c.BetaSchedule == "linear":
		return torch.Linspace(s, c.BetaStart, c.BetaEnd, n, torch.Float32)
	case c.BetaSchedule == "scaled_linear":
		return torch.Linspace(s, math.Sqrt(c.BetaStart), math.Sqrt(c.BetaEnd), n, torch.Float32).Square(s)
	}
	left := func(t float64) float64 { c := math.Cos((t + 0.008) / 1.008 * math.Pi / 2); return c * c }
	betas := make([]float64, n)
	for i := range betas {
		betas[i] = min(1-left(float64(i+1)/float64(n))/left(float64(i)/float64(n)), 0.999)
	}
	return torch.FromSlice(s, betas, n).To(s, torch.Float32)
}

// zeroTerminal shifts and scales √ᾱ so that the last is 0 and the first stays (Lin et al. 2024, algorithm 1). It goes by way of
// the betas again, as diffusers does.
func zeroTerminal(s *torch.Scope, alphas *torch.Tensor) *torch.Tensor {
	n := alphas.Dim(0)
	root := alphas.Sqrt(s)
	first, last := root.Narrow(s, 0, 0, 1), root.Narrow(s, 0, n-1, 1)
	root = root.Sub(s, last).Mul(s, first.Div(s, first.Sub(s, last)))
	bar := root.Square(s)
	ratios := bar.Narrow(s, 0, 1, n-1).Div(s, bar.Narrow(s, 0, 0, n-1))
	betas := torch.Cat(s, []*torch.Tensor{bar.Narrow(s, 0, 0, 1), ratios}, 0).Neg(s).AddScalar(s, 1)
	return betas.Neg(s).AddScalar(s, 1).CumProd(s, 0)
}
