package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
)

// Scheduler classes of diffusers with functions of their own. All others that package noise knows are those of denoisers on a discrete chain.
const veScheduler = "ScoreSdeVeScheduler"

// describe returns the description of a model whose network has that configuration, and what was assumed.
func (f *folder) describe(net network.Config) (Description, []string, error) {
	d := Description{Format: format, Kind: Denoiser, Network: net, SigmaData: 0.5, SigmaMin: 0.002, SigmaMax: 80}
	var notices []string
	scheduler := f.scheduler
	switch {
	case scheduler == nil:
		var assumed string
		scheduler, assumed = assumedScheduler(net)
		notices = append(notices, fmt.Sprintf("there is no %s that says what the network predicts: assuming %s", schedulerFile, assumed))
	case f.beside != "":
		notices = append(notices, fmt.Sprintf("what the network predicts is taken from %s", quote.Path(f.beside)))
	}
	err := d.by(scheduler)
	if err != nil && f.pipeline != "" {
		err = fmt.Errorf("%s: %w", quote.Text(f.pipeline), err)
	}
	return d, notices, err
}

// assumedScheduler returns the configuration of the published models whose networks are most like this one, and says which.
func assumedScheduler(net network.Config) (config []byte, what string) {
	is, _ := net.Traits()
	switch {
	case is.Fourier:
		return []byte(`{"_class_name":"` + veScheduler + `"}`), "a denoiser of the variance-exploding process, as of NCSN++, by the Fourier embedding"
	case is.Residual:
		return []byte(`{"_class_name":"` + noise.ConsistencyScheduler + `"}`), "a consistency function, as of openai's consistency models, by the residual blocks that resample"
	}
	return []byte(`{"_class_name":"DDPMScheduler"}`), "a denoiser of DDPM's chain of 1000 timesteps that predicts the noise"
}

// by sets the function and its noise levels from a scheduler_config.json.
func (d *Description) by(scheduler []byte) error {
	class, err := classOf(scheduler)
	if err != nil {
		return fmt.Errorf("%s: %w", schedulerFile, err)
	}
	is, _ := d.Network.Traits()
	if is.Fourier != (class == veScheduler) {
		if is.Fourier {
			return fmt.Errorf("%s: a UNet2DModel with a Fourier embedding takes noise levels, and %s gives it timesteps: want %s", schedulerFile, quote.Text(class), veScheduler)
		}
		return fmt.Errorf("%s: %s gives the network noise levels, and one with a positional embedding takes timesteps", schedulerFile, veScheduler)
	}
	switch class {
	case noise.ConsistencyScheduler:
		c, err := noise.ParseConsistencyConfig(scheduler)
		if err != nil {
			return err
		}
		d.Kind, d.Boundary, d.Form = Consistency, models.AtSigmaMin, Form{Type: EDM, Noise: models.ScaledLog}
		d.SigmaData, d.SigmaMin, d.SigmaMax = c.SigmaData, c.SigmaMin, c.SigmaMax
	case veScheduler:
		c := struct {
			Min float64 `json:"sigma_min"`
			Max float64 `json:"sigma_max"`
		}{0.01, 1348}
		if err := configjson.Unmarshal(scheduler, &c); err != nil {
			return fmt.Errorf("%s: %w", schedulerFile, err)
		}
		d.Form, d.SigmaMin, d.SigmaMax = Form{Type: VE}, c.Min, c.Max
	default:
		if err := d.byChain(scheduler, class); err != nil {
			return err
		}
	}
	d.Scheduler, err = compactJSON(scheduler)
	return err
}

// byChain is by for a denoiser on a discrete chain.
func (d *Description) byChain(scheduler []byte, class string) error {
	c, err := noise.ParseConfig(scheduler)
	if err != nil {
		return fmt.Errorf("%s: %w (models in pixel space may also have a %s or a %s)", quote.Text(class), err, noise.ConsistencyScheduler, veScheduler)
	}
	chain, err := c.Chain()
	if err != nil {
		return err
	}
	d.Form = Form{Type: DDPM, Predict: c.Predicts}
	d.Form.setChain(chain)
	is, _ := d.Network.Traits()
	if in, out := d.Network.Shape()[0], is.OutChannels; out == 2*in && (c.Variance == "learned" || c.Variance == "learned_range") {
		d.Form.Learned = true
	} else if in != out {
		return fmt.Errorf("the network predicts %d channels for images of %d: want as many, or twice as many with a learned variance", out, in)
	}
	d.SigmaMin, d.SigmaMax = chain.Sigma(0), chain.Sigma(chain.Steps()-1)
	return nil
}

// compactJSON returns a configuration without the spaces, and with numbers that JSON has.
func compactJSON(config []byte) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := configjson.Unmarshal(noise.ValidJSON(config), &all); err != nil {
		return nil, fmt.Errorf("%s: %w", schedulerFile, err)
	}
	return json.Marshal(all)
}

// Chain returns the configuration of the sampler that a denoiser on a discrete chain was published with; false if there is none.
func (d Description) Chain() (noise.Config, bool) {
	if d.Scheduler == nil || d.Kind != Denoiser || d.Form.Type != DDPM {
		return noise.Config{}, false
	}
	c, err := noise.ParseConfig(d.Scheduler)
	return c, err == nil
}

// Grid returns the noise levels that a consistency function was published with; false if there are none.
func (d Description) Grid() (noise.ConsistencyConfig, bool) {
	if d.Scheduler == nil || d.Kind != Consistency {
		return noise.ConsistencyConfig{}, false
	}
	c, err := noise.ParseConsistencyConfig(d.Scheduler)
	return c, err == nil
}

// checkScheduler reports a scheduler that is not of the function.
func (d Description) checkScheduler() error {
	if d.Scheduler == nil {
		return nil
	}
	again := d
	if err := again.by(d.Scheduler); err != nil {
		return err
	}
	if again.Kind != d.Kind || again.Form.Type != d.Form.Type || math.Abs(again.SigmaMax-d.SigmaMax) > 1e-6*d.SigmaMax {
		return fmt.Errorf("scheduler: it is of a %s of the form %s up to noise level %g, the model is a %s of the form %s up to %g",
			quote.Text(again.Kind), quote.Text(again.Form.Type), again.SigmaMax, quote.Text(d.Kind), quote.Text(d.Form.Type), d.SigmaMax)
	}
	return nil
}

// SchedulerClass returns diffusers' class of the scheduler that the model was published with; "" if there is none.
func (d Description) SchedulerClass() string {
	class, err := classOf(d.Scheduler)
	if err != nil {
		return ""
	}
	return class
}
