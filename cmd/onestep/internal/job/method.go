package job

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// method is a way to train: what its options mean, and how its objective is built.
type method struct {
	name, about string
	options     []string // those that other methods may lack
	// resolve fills in what was left to the method, by the run's length.
	resolve func(o *Train)
	// function is what a network becomes by the method.
	function func(net models.Network) any
	// chosen lists what resolve has chosen, for the log.
	chosen func(o Train) []any
	// objective builds the loss. What it makes besides is closed by the caller, by p.own.
	objective func(o *Train, p *parts) (training.Objective, error)
}

// parts is what objectives are built from.
type parts struct {
	net     *unet.UNet
	teacher models.Denoiser // nil without --teacher
	closers []func()
}

// own has something closed at the end of the run.
func (p *parts) own(closer func()) { p.closers = append(p.closers, closer) }

func (p *parts) close() {
	for _, c := range slices.Backward(p.closers) {
		c()
	}
}

// copy returns a copy of the network, for a target.
func (p *parts) copy() (*unet.UNet, error) {
	c, err := p.net.Clone()
	if err != nil {
		return nil, err
	}
	p.own(c.Close)
	return c, nil
}

// methods are all of them, in the order of help texts.
var methods = []method{
	{
		name: "ct", about: "consistency training (Song et al. 2023)",
		options:  []string{"distance", "s0", "s1", "mu0"},
		resolve:  func(o *Train) { o.levels(2, training.FitLevels(o.Steps)) },
		function: consistency,
		chosen:   growing,
		objective: func(o *Train, p *parts) (training.Objective, error) {
			target, err := p.copy()
			if err != nil {
				return nil, err
			}
			distance, err := training.ParseDistance(o.Distance)
			return &training.CT{Model: &models.Consistency{Net: p.net}, Target: &models.Consistency{Net: target}, Distance: distance,
				Schedule: training.Progressive{S0: o.S0, S1: o.S1, Mu0: o.Mu0, Steps: o.Steps}}, err
		},
	},
	{
		name: "ict", about: "improved consistency training (Song & Dhariwal 2023)",
		options:  []string{"distance", "s0", "s1"},
		resolve:  func(o *Train) { o.levels(10, max(20, min(1280, o.Steps/125))) },
		function: consistency,
		chosen:   growing,
		objective: func(o *Train, p *parts) (training.Objective, error) {
			distance, err := training.ParseDistance(o.Distance)
			return &training.CT{Model: &models.Consistency{Net: p.net}, Distance: distance, Index: training.LogNormal{},
				Weight: training.InverseGap, Schedule: training.Doubling{S0: o.S0, S1: o.S1, Steps: o.Steps}}, err
		},
	},
	{
		name: "ect", about: "easy consistency tuning (Geng et al. 2024), best from a denoiser given by --init",
		options: []string{"distance", "stages", "q"},
		resolve: func(o *Train) {
			if o.Stages == 0 {
				o.Stages = max(1, min(8, o.Steps/250))
			}
			if o.Q == 0 {
				// Fewer stages end with levels as near to each other as the published 8 with q = 2.
				o.Q = math.Pow(256, 1/float64(o.Stages))
			}
		},
		function: func(net models.Network) any { return &models.Consistency{Net: net, Boundary: models.AtZero} },
		chosen:   func(o Train) []any { return []any{"stages", o.Stages, "q", o.Q} },
		objective: func(o *Train, p *parts) (training.Objective, error) {
			distance, err := training.ParseDistance(o.Distance)
			return &training.ECT{Model: &models.Consistency{Net: p.net, Boundary: models.AtZero}, Distance: distance, Steps: o.Steps,
				Stages: o.Stages, Q: o.Q}, err
		},
	},
	{
		name: "cd", about: "consistency distillation (Song et al. 2023) of the denoiser given by --teacher",
		options: []string{"distance", "teacher", "solver", "levels", "mu"},
		resolve: func(o *Train) {
			if o.Levels == 0 {
				o.Levels = 18
			}
			if o.Init == "" {
				o.Init = o.Teacher
			}
		},
		function: consistency,
		chosen: func(o Train) []any {
			return []any{"teacher", o.Teacher, "init", o.Init, "solver", o.Solver, "levels", o.Levels}
		},
		objective: func(o *Train, p *parts) (training.Objective, error) {
			if p.teacher == nil {
				return nil, usage("--method cd needs a denoiser: train one with --method edm and give it by --teacher")
			}
			distance, err := training.ParseDistance(o.Distance)
			if err != nil {
				return nil, err
			}
			target, err := p.copy()
			return &training.CD{CT: training.CT{Model: &models.Consistency{Net: p.net}, Target: &models.Consistency{Net: target}, Distance: distance,
				Schedule: training.Fixed{Levels: o.Levels, Decay: o.Mu}}, Teacher: p.teacher, Solver: solvers[o.Solver]}, err
		},
	},
	{
		name: "edm", about: "a denoiser, for a teacher (Karras et al. 2022)",
		options:  []string{"high"},
		resolve:  func(*Train) {},
		function: func(net models.Network) any { return &models.EDM{Net: net} },
		objective: func(o *Train, p *parts) (training.Objective, error) {
			return &training.EDM{Model: &models.EDM{Net: p.net}, High: o.High}, nil
		},
	},
}

// Chosen lists the method's own choices, as keys and values for a log.
func (o Train) Chosen() []any {
	m, err := methodNamed(o.Method)
	if err != nil || m.chosen == nil {
		return nil
	}
	return m.chosen(o)
}

// growing are the choices of methods with a growing number of levels.
func growing(o Train) []any { return []any{"levels", fmt.Sprintf("%d to %d", o.S0, o.S1+1)} }

func consistency(net models.Network) any { return &models.Consistency{Net: net} }

// Lacks tells whether an option, by the name of its flag, is one of other methods and not of this run's.
func (o Train) Lacks(option string) bool {
	has := false
	for _, m := range methods {
		if slices.Contains(m.options, option) {
			if m.name == o.Method {
				return false
			}
			has = true
		}
	}
	return has
}

// Methods returns the methods' names.
func Methods() []string {
	var names []string
	for _, m := range methods {
		names = append(names, m.name)
	}
	return names
}

// AboutMethods returns a line for each method.
func AboutMethods() string {
	var b strings.Builder
	for _, m := range methods {
		fmt.Fprintf(&b, "  %-5s %s\n", m.name, m.about)
	}
	return b.String()
}

func methodNamed(name string) (method, error) {
	for _, m := range methods {
		if m.name == name {
			return m, nil
		}
	}
	return method{}, usage("--method: want one of %s, got %q", strings.Join(Methods(), ", "), name)
}

// solvers are the teacher's steps in distillation.
var solvers = map[string]training.Solver{"euler": sampling.Euler{}, "heun": sampling.Heun{}}

// Solvers returns the names of what steps along a teacher's trajectory.
func Solvers() []string { return []string{"euler", "heun"} }

// levels fills in the ends of a growing number of noise levels.
func (o *Train) levels(s0, s1 int) {
	if o.S0 == 0 {
		o.S0 = s0
	}
	if o.S1 == 0 {
		o.S1 = max(s1, o.S0)
	}
}

// checkTeacher refuses what cannot be distilled into a network for the run's images, before anything is made.
func (o *Train) checkTeacher(cfg unet.Config) error {
	if o.Teacher == "" {
		return nil
	}
	d, err := describes(o.Teacher)
	if err != nil {
		return fmt.Errorf("--teacher: %w", err)
	}
	if d.Kind != checkpoint.Denoiser {
		return usage("--teacher: want a denoiser, such as one trained with --method edm, and %s holds a %s function", o.Teacher, d.Kind)
	}
	return sameImages("--teacher", d.Network, cfg)
}

// openTeacher reads the denoiser to distil.
func (o *Train) openTeacher(dev torch.Device, p *parts) error {
	if o.Teacher == "" {
		return nil
	}
	t, err := checkpoint.OpenTeacher(o.Teacher, dev)
	if err != nil {
		return fmt.Errorf("--teacher: %w", err)
	}
	p.own(t.Close)
	p.teacher = t
	return nil
}

// sameImages refuses networks for other images than the run's.
func sameImages(flag string, got, want unet.Config) error {
	switch {
	case got.Resolution != want.Resolution || got.InChannels != want.InChannels:
		return usage("%s: it is for images of %d×%d×%d, the run has %d×%d×%d: choose --resolution and --colors to match",
			flag, got.InChannels, got.Resolution, got.Resolution, want.InChannels, want.Resolution, want.Resolution)
	case got.Classes > 0 && want.Classes == 0:
		return usage("%s: it was trained with %d classes: give --classes, with data that has them", flag, got.Classes)
	case got.Classes > 0 && got.Classes != want.Classes:
		return usage("%s: it was trained with %d classes, the data has %d", flag, got.Classes, want.Classes)
	}
	return nil
}

// start loads the weights that a run starts from.
func (o *Train) start(net *unet.UNet, dev torch.Device) error {
	if !o.starts() {
		return nil
	}
	f, err := openFile(o.Init, dev)
	if err != nil {
		return fmt.Errorf("--init: %w", err)
	}
	defer f.Close()
	if err := net.Load(f.Network.Tensors()); err != nil {
		return fmt.Errorf("--init: %s: %w", f.Path, err)
	}
	return nil
}

// describes reads what a model file, a run directory or the builtin model says of its model.
func describes(path string) (checkpoint.Description, error) {
	if path != "builtin" {
		return checkpoint.Describes(path)
	}
	f, err := builtin.File()
	if err != nil {
		return checkpoint.Description{}, err
	}
	return checkpoint.ReadDescription(f.Metadata())
}

// openFile reads any model that describes names.
func openFile(path string, dev torch.Device) (*checkpoint.File, error) {
	if path != "builtin" {
		return checkpoint.OpenFile(path, dev)
	}
	m, err := builtin.Open(dev)
	if err != nil {
		return nil, err
	}
	return m.File, nil
}

// errNoFunction is a mistake of this package: a method with a function that nothing can be drawn from.
var errNoFunction = errors.New("nothing can be drawn from the method's function")
