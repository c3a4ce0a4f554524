package scheduler

import (
	"cmp"

	"github.com/onestep-go/onestep/models/noise"
)

// Values of solver_type.
const (
	heunSolver = "heun"
	bh1Solver  = "bh1"
)

// is returns *flag, or the default if flag is nil.
func is(flag *bool, otherwise bool) bool {
	if flag == nil {
		return otherwise
	}
	return *flag
}

// class has the defaults of a diffusers class for keys missing in a file.
type class struct {
	betas   noise.Betas
	spacing string
	clip    bool
	uni     bool // as in UniPC and DEIS: Karras's levels always have integer timesteps, and the final level "sigma_min" is the last one
	whole   bool // timesteps of Karras's levels are rounded, although others are not
}

var (
	latentClass = class{betas: noise.ClassBetas("LCMScheduler"), spacing: "leading"} // also TCD
	ddimClass   = class{betas: noise.ClassBetas("DDIMScheduler"), spacing: "leading", clip: true}
	pndmClass   = class{betas: noise.ClassBetas("PNDMScheduler"), spacing: "leading"}
	sigmaClass  = class{betas: noise.ClassBetas("EulerDiscreteScheduler"), spacing: "linspace"} // also DPM-Solver++
	uniClass    = class{betas: noise.ClassBetas("UniPCMultistepScheduler"), spacing: "linspace", uni: true}
	heunClass   = class{betas: noise.ClassBetas("HeunDiscreteScheduler"), spacing: "linspace"}
)

// chain is a configuration with a class's defaults filled in, and its noise levels.
type chain struct {
	noise.Config
	alphas []float32 // ᾱ_t: the fraction of the clean sample's variance at timestep t
	clip   bool
}

func newChain(c noise.Config, k class) (*chain, error) {
	c = c.WithBetas(k.betas)
	alphas, err := c.Alphas()
	if err != nil {
		return nil, err
	}
	c.Spacing, c.FinalSigma = cmp.Or(c.Spacing, k.spacing), cmp.Or(c.FinalSigma, "zero")
	c.OriginalSteps, c.Scaling = c.Grid(), cmp.Or(c.Scaling, 10)
	c.ClipRange, c.Quantile, c.SampleMax, c.Order = cmp.Or(c.ClipRange, 1), cmp.Or(c.Quantile, 0.995), cmp.Or(c.SampleMax, 1), cmp.Or(c.Order, 2)
	return &chain{Config: c, alphas: alphas, clip: is(c.Clip, k.clip)}, nil
}

// begun starts a run of n timesteps, of which the first skip are skipped.
func begun(c noise.Config, o Options, k class) (ch *chain, n, skip int, err error) {
	if ch, err = newChain(c, k); err != nil {
		return nil, 0, 0, err
	}
	if n, err = o.steps(ch.TrainSteps); err != nil {
		return nil, 0, 0, err
	}
	if skip, err = o.skip(n); err != nil {
		return nil, 0, 0, err
	}
	return ch, n, skip, nil
}
