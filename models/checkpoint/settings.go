package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/unet/original"
)

// settings are facts about a model of another code that its weights do not show, by the names of that code's flags. They are read from a JSON
// file beside the weights, model.json for model.pt. Zero fields are unknown.
type settings struct {
	ImageSize   int   `json:"image_size"`
	Heads       int   `json:"num_heads"`
	HeadDim     int   `json:"num_head_channels"`
	NewOrder    *bool `json:"use_new_attention_order"`
	LearnedMean bool  `json:"predict_xstart"` // guided-diffusion: the network predicts x_0

	Mode      string  `json:"training_mode"`   // consistency_models: edm, consistency_distillation, consistency_training
	Schedule  string  `json:"noise_schedule"`  // guided-diffusion: linear, cosine
	Steps     int     `json:"diffusion_steps"` // guided-diffusion
	SigmaMin  float64 `json:"sigma_min"`
	SigmaMax  float64 `json:"sigma_max"`
	SigmaData float64 `json:"sigma_data"`

	edm edmSettings
}

// edmSettings are the arguments of EDM's classes, which scripts/edm_weights.py writes into a file's metadata.
type edmSettings struct {
	Class        string  `json:"class"` // of the preconditioning: EDMPrecond, VPPrecond or VEPrecond
	SigmaData    float64 `json:"sigma_data"`
	BetaD        float64 `json:"beta_d"`
	BetaMin      float64 `json:"beta_min"`
	M            float64 `json:"M"`
	Dropout      float64 `json:"dropout"`
	LabelDropout float64 `json:"label_dropout"`
}

// edmKey is the key of edmSettings in a file's metadata.
const edmKey = "edm"

// settingsBeside reads the settings beside a file of weights, if there are any. beside is their path.
func settingsBeside(path string) (s settings, beside string, err error) {
	beside = strings.TrimSuffix(path, filepath.Ext(path)) + ".json"
	data, err := plainfile.Read(beside, configjson.Most)
	if errors.Is(err, fs.ErrNotExist) {
		return s, beside, nil
	}
	if err != nil {
		return s, beside, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err = dec.Decode(&s)
	switch _, more := dec.Token(); {
	case errors.Is(err, io.EOF):
		err = errors.New("the file is empty")
	case err == nil && !errors.Is(more, io.EOF):
		err = errors.New("more text follows the object")
	}
	if err != nil {
		return s, beside, fmt.Errorf("%s: settings of the weights beside it: %w; want an object with any of %s", quote.Path(beside), quote.Error(err), strings.Join(settingNames(), ", ")) //quote: our own names
	}
	if s.ImageSize < 0 || s.Heads < 0 || s.HeadDim < -1 || s.Steps < 0 || s.SigmaMin < 0 || s.SigmaMax < 0 || s.SigmaData < 0 {
		return s, beside, fmt.Errorf("%s: want no negative numbers, but -1 for num_head_channels", quote.Path(beside))
	}
	return s, beside, nil
}

// settingNames lists the names of settings.
func settingNames() (names []string) {
	t := reflect.TypeFor[settings]()
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("json"); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// fromEDM reads the settings in the metadata of a file, if there are any.
func (s *settings) fromEDM(metadata map[string]string) error {
	text, ok := metadata[edmKey]
	if !ok {
		return nil
	}
	if err := configjson.Unmarshal([]byte(text), &s.edm); err != nil {
		return fmt.Errorf("metadata %q: %w", edmKey, err)
	}
	return nil
}

// layout returns the settings of the network.
func (s settings) layout() original.Settings {
	return original.Settings{ImageSize: s.ImageSize, Heads: s.Heads, HeadDim: max(0, s.HeadDim), NewOrder: s.NewOrder} // -1 is the flag's default
}

// describe returns the description of a model, and what was assumed by the published ones.
func (s settings) describe(path string, l original.Layout) (d Description, assumed []string, err error) {
	d = Description{Format: format, Kind: Denoiser, Network: netOf(l), SigmaData: 0.5, SigmaMin: 0.002, SigmaMax: 80, Layout: l.Code}
	assume := func(what string) { assumed = append(assumed, what) }
	switch l.Code {
	case original.ConsistencyModels:
		err = s.consistency(path, &d, assume)
	case original.EDM:
		err = s.precond(&d, l, assume)
	default:
		err = s.guided(&d, l, assume)
	}
	for _, v := range []struct {
		given float64
		to    *float64
	}{{s.SigmaMin, &d.SigmaMin}, {s.SigmaMax, &d.SigmaMax}, {s.SigmaData, &d.SigmaData}} {
		if v.given != 0 {
			*v.to = v.given
		}
	}
	return d, assumed, err
}

// published are the names of consistency models' files, such as cd_imagenet64_l2.pt.
var published = regexp.MustCompile(`^(edm|cd|ct)_`)

// consistency describes a model of openai/consistency_models: an EDM denoiser, or a consistency function distilled from it or trained alone.
func (s settings) consistency(path string, d *Description, assume func(string)) error {
	if in, out := d.channels(); out != in {
		return fmt.Errorf("it predicts %d channels for images of %d: a model of %s predicts as many", out, in, original.ConsistencyModels.Name())
	}
	mode := s.Mode
	if m := published.FindStringSubmatch(strings.ToLower(filepath.Base(path))); mode == "" && m != nil {
		mode = map[string]string{"edm": "edm", "cd": "consistency_distillation", "ct": "consistency_training"}[m[1]]
		assume("training_mode " + mode + " by the file's name")
	}
	d.Form = Form{Type: EDM, Noise: models.ScaledLog}
	switch mode {
	case "edm":
		d.Method = "edm"
	case "consistency_distillation":
		d.Kind, d.Boundary, d.Method = Consistency, models.AtSigmaMin, "cd"
	case "consistency_training":
		d.Kind, d.Boundary, d.Method = Consistency, models.AtSigmaMin, "ct"
	case "":
		return fmt.Errorf(`the weights do not show whether it is a denoiser or a consistency function: let the file's name begin with edm_, cd_ or ct_ as the published ones, or write {"training_mode": "consistency_distillation"} into %s`,
			quote.Path(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))+".json"))
	default:
		return fmt.Errorf("training_mode: want edm, consistency_distillation or consistency_training, got %s", quote.Quoted(mode))
	}
	assume("sigma_data 0.5, noise levels 0.002 to 80")
	return nil
}

// guided describes a denoiser of guided-diffusion.
func (s settings) guided(d *Description, l original.Layout, assume func(string)) error {
	in, out := d.channels()
	betas := noise.Betas{Steps: s.Steps}
	if s.Steps == 0 {
		betas.Steps = 1000
		assume("1000 timesteps")
	}
	schedule := s.Schedule
	if schedule == "" {
		if schedule = "linear"; l.Cosine() {
			schedule = "cosine"
		}
		assume("the " + schedule + " schedule")
	}
	switch schedule {
	case "linear":
		scale := 1000 / float64(betas.Steps)
		betas.First, betas.Last = scale*1e-4, scale*0.02
	case "cosine":
		betas.Schedule = noise.Cosine
	default:
		return fmt.Errorf("noise_schedule: want linear or cosine, got %s", quote.Quoted(schedule))
	}
	d.Form = Form{Type: DDPM, Predict: noise.Epsilon, Betas: &betas, Learned: out == 2*in}
	if s.LearnedMean {
		d.Form.Predict = noise.Sample
	}
	d.Method = "ddpm"
	chain, err := betas.Chain()
	if err != nil {
		return err
	}
	d.SigmaMin, d.SigmaMax = max(d.SigmaMin, chain.Sigma(0)), min(d.SigmaMax, chain.Sigma(chain.Steps()-1))
	return nil
}

// precond describes a network in one of EDM's preconditionings.
func (s settings) precond(d *Description, l original.Layout, assume func(string)) error {
	if in, out := d.channels(); out != in {
		return fmt.Errorf("it predicts %d channels for images of %d: only networks of EDMPrecond, VPPrecond and VEPrecond are supported", out, in)
	}
	c := l.Config
	c.Dropout, c.NullLabel = s.edm.Dropout, s.edm.LabelDropout > 0 && c.Classes > 0
	d.Network.Net = c
	d.Method = "edm"
	switch s.edm.Class {
	case "":
		assume("EDMPrecond with sigma_data 0.5")
		fallthrough
	case "EDMPrecond", "ECMPrecond":
		d.Form = Form{Type: EDM}
		if s.edm.SigmaData != 0 {
			d.SigmaData = s.edm.SigmaData
		}
	case "VPPrecond":
		d.Form = Form{Type: VP, Predict: noise.Epsilon, BetaD: s.edm.BetaD, BetaMin: s.edm.BetaMin}
		if s.edm.M > 1 {
			d.Form.Scale = s.edm.M - 1
		}
	case "VEPrecond":
		d.Form = Form{Type: VE, Scale: 0.5}
	default:
		return fmt.Errorf("its preconditioning is %s: only EDMPrecond, VPPrecond and VEPrecond are supported", quote.Text(s.edm.Class))
	}
	return nil
}

// channels returns the channels of the network's images and of its prediction.
func (d Description) channels() (in, out int) {
	l, err := original.Of(d.Layout, d.Network.Net)
	if err != nil {
		return d.Network.Shape()[0], 0
	}
	return l.Config.InChannels, l.Config.OutChannels
}
