package job

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/lpips"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
)

// method is a way to train: what its options mean, and how its objective is built.
type method struct {
	name, about string
	formulas    string                // what it minimises, a line each
	options     []string              // those that it reads and other methods may not
	stages      bool                  // whether the learning rate falls to 0 in every stage, and not by LRDecay
	guidable    bool                  // whether what it trains is a denoiser, which guidance can use without a class
	until       bool                  // whether its network is told where a jump ends
	distils     bool                  // whether it is nothing without a teacher
	forms       []checkpoint.FormType // what its network may predict; the first is that of a network that starts from nothing
	teachers    []checkpoint.FormType // what a teacher's network may predict; nil: the same
	// resolve fills in what was left to the method, by the run's length.
	resolve func(o *Train)
	// check refuses what cannot work after resolve; nil: nothing.
	check func(o Train) error
	// chosen lists what resolve has chosen, for the log.
	chosen func(o Train) []any
	// schedule shows what changes in a run as a Markdown table, with a note; nil: nothing does.
	schedule func(o Train) (table, note string, err error)
	// function is what a network becomes by the method.
	function func(m model) (any, error)
	// objective builds the loss of what function returned. What it makes besides is closed by the caller, by p.own.
	objective func(o *Train, p *parts, f any) (training.Objective, error)
}

// every is the forms of networks whose labels are continuous in time, and of all.
var (
	continuous = []checkpoint.FormType{checkpoint.EDM, checkpoint.VP, checkpoint.Flow, checkpoint.TrigFlow}
	every      = append(slices.Clip(continuous), checkpoint.DDPM)
)

// model is a network and what it is, or starts as.
type model struct {
	net   network.Network
	start checkpoint.Description
}

// consistency is the consistency function that a model becomes.
func consistency(at models.Boundary) func(m model) (any, error) {
	return func(m model) (any, error) {
		return m.start.Form.Consistency(m.net, m.start.SigmaData, at, m.start.SigmaMin)
	}
}

// denoiser is the denoiser that a model becomes.
func denoiser(m model) (any, error) { return m.start.Form.Denoiser(m.net, m.start.SigmaData) }

// parts is what objectives are built from.
type parts struct {
	model
	method  method
	teacher models.Denoiser // nil without --teacher
	device  torch.Device
	closers []func()
}

// own has something closed at the end of the run.
func (p *parts) own(closer func()) { p.closers = append(p.closers, closer) }

func (p *parts) close() {
	for _, c := range slices.Backward(p.closers) {
		c()
	}
}

// copy returns the method's function of a copy of the network, for a target.
func (p *parts) copy() (any, error) {
	c, err := network.Clone(p.net)
	if err != nil {
		return nil, err
	}
	p.own(c.Close)
	return p.method.function(model{c, p.start})
}

// methods are all of them, in the order of help texts.
var methods = []method{
	{
		name: "ct", about: "consistency training (Song et al. 2023)",
		formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = d(f_θ(x + t'·z, t'), f_θ⁻(x + t·z, t)), t and t' neighbours of N(k) levels, all alike
N(k) = ⌈√(k/K·((s1+1)² - s0²) + s0²) - 1⌉ + 1
θ⁻ ← μ(k)·θ⁻ + (1-μ(k))·θ, μ(k) = exp(s0·ln μ0/N(k))`,
		schedule: func(o Train) (string, string, error) {
			return o.levelsCard(training.Progressive{S0: o.S0, S1: o.S1, Mu0: o.Mu0, Steps: o.Steps}, euler, false)
		},
		options:  []string{"distance", "lpips", "lpips-resize", "s0", "s1", "mu0"},
		forms:    every,
		resolve:  func(o *Train) { o.levels(2, training.FitLevels(o.Steps)) },
		chosen:   levelsChosen,
		function: consistency(models.AtSigmaMin),
		objective: func(o *Train, p *parts, f any) (training.Objective, error) {
			target, err := p.copy()
			if err != nil {
				return nil, err
			}
			distance, err := o.distance(p)
			return &training.CT{Model: f.(*models.Consistency), Target: target.(*models.Consistency), Distance: distance,
				Schedule: training.Progressive{S0: o.S0, S1: o.S1, Mu0: o.Mu0, Steps: o.Steps}}, err
		},
	},
	{
		name: "ict", about: "improved consistency training (Song & Dhariwal 2023)",
		formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = λ·d(f_θ(x + t'·z, t'), f_θ(x + t·z, t) without gradients), λ = 1/(t' - t)
t and t' neighbours of N(k) levels: p ∝ erf((ln t' + 1.1)/(√2·2)) - erf((ln t + 1.1)/(√2·2))
N(k) = min(s0·2^⌊k/K'⌋, s1) + 1, K' = ⌊K/(log2⌊s1/s0⌋ + 1)⌋; or --schedule linear: 1/(N(k)-1) falls linearly from 1/s0 to 1/s1`,
		schedule: func(o Train) (string, string, error) {
			return o.levelsCard(o.growing(), euler, true)
		},
		options:  []string{"distance", "lpips", "lpips-resize", "s0", "s1", "schedule"},
		forms:    every,
		resolve:  func(o *Train) { o.levels(10, max(20, min(1280, o.Steps/125))) },
		chosen:   levelsChosen,
		function: consistency(models.AtSigmaMin),
		objective: func(o *Train, p *parts, f any) (training.Objective, error) {
			distance, err := o.distance(p)
			return &training.CT{Model: f.(*models.Consistency), Distance: distance, Index: training.LogNormal{},
				Weight: training.InverseGap, Schedule: o.growing()}, err
		},
	},
	{
		name: "ect", about: "easy consistency tuning (Geng et al. 2024), best from a denoiser (--init)",
		formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4), the denoiser's own coefficients
L = d(f_θ(x + t·z, t), f_θ(x + r·z, r) without gradients)/(t - r), ln t ~ N(-1.1, 2²)
r = max(0, t·(1 - n(t)/q^(a+1))), n(t) = 1 + 8·sigmoid(-t), stage a`,
		schedule: stagesCard,
		options:  []string{"distance", "lpips", "lpips-resize", "stages", "q"},
		forms:    every,
		resolve: func(o *Train) {
			if o.Stages == 0 {
				o.Stages = max(1, min(8, o.Steps/250))
			}
			if o.Q == 0 {
				// Fewer stages end with levels as near to each other as the published 8 with q = 2.
				o.Q = math.Pow(256, 1/float64(o.Stages))
			}
		},
		chosen:   func(o Train) []any { return []any{"stages", o.Stages, "q", number.Short(o.Q)} },
		function: consistency(models.AtZero),
		objective: func(o *Train, p *parts, f any) (training.Objective, error) {
			distance, err := o.distance(p)
			return &training.ECT{Model: f.(*models.Consistency), Distance: distance, Steps: o.Steps, Stages: o.Stages, Q: o.Q}, err
		},
	},
	{
		name: "cd", about: "consistency distillation (Song et al. 2023) of a denoiser (--teacher)",
		formulas: `f(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = λ·d(f_θ(x + t'·z, t'), f_θ⁻(x̂, t)), t and t' neighbours of N levels, all alike
λ = 1/(t' - t), where the paper has 1: the student comes much closer to the solver
x̂ = one step of the solver along the teacher's trajectory, from x + t'·z at t' to t
θ⁻ ← μ·θ⁻ + (1-μ)·θ`,
		schedule: func(o Train) (string, string, error) {
			return o.levelsCard(training.Fixed{Levels: o.Levels, Decay: o.Mu}, solvers[o.Solver], true)
		},
		options: []string{"distance", "lpips", "lpips-resize", "teacher", "solver", "levels", "mu", "guidance"},
		distils: true,
		forms:   every,
		resolve: func(o *Train) {
			if o.Levels == 0 {
				o.Levels = 18
			}
		},
		chosen: func(o Train) []any {
			return []any{"teacher", o.Teacher, "init", orNone(o.Init), "solver", o.Solver, "levels", o.Levels}
		},
		function: consistency(models.AtSigmaMin),
		objective: func(o *Train, p *parts, f any) (training.Objective, error) {
			distance, err := o.distance(p)
			if err != nil {
				return nil, err
			}
			target, err := p.copy()
			if err != nil {
				return nil, err
			}
			return &training.CD{CT: training.CT{Model: f.(*models.Consistency), Target: target.(*models.Consistency), Distance: distance,
				Schedule: training.Fixed{Levels: o.Levels, Decay: o.Mu}, Weight: training.InverseGap}, Teacher: p.teacher, Solver: solvers[o.Solver]}, nil
		},
	},
	continuously("sct", "continuous-time consistency training (Lu & Song 2024)", false),
	continuously("scd", "its distillation of a denoiser (--teacher)", true),
	{
		name: "ctm", about: "a consistency trajectory model (Kim et al. 2024) of a denoiser (--teacher)",
		guidable: true,
		formulas: `G(x, t, s) = s/t·x + (1 - s/t)·g(x, t, s), g = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4, ln(s)/4)
x_est = G_θ⁻(G_θ(x_t, t, s), s, ε), x_target = G_θ⁻(G_θ⁻(Solver(x_t; t → u), u, s), s, ε), t > u ≥ s of N levels
L = d(x_est, x_target) + (t'² + σ_d²)/(t'·σ_d)²·‖g_θ(x + t'·z', t', t') - x‖²/D`,
		schedule: func(o Train) (string, string, error) {
			return o.levelsCard(training.Fixed{Levels: o.Levels, Decay: o.Mu}, solvers[o.Solver], false)
		},
		options:  []string{"distance", "lpips", "lpips-resize", "teacher", "solver", "levels", "mu"},
		until:    true,
		distils:  true,
		forms:    []checkpoint.FormType{checkpoint.EDM},
		teachers: every,
		resolve: func(o *Train) {
			if o.Levels == 0 {
				o.Levels = 18
			}
		},
		chosen: func(o Train) []any {
			return []any{"teacher", o.Teacher, "init", orNone(o.Init), "solver", o.Solver, "levels", o.Levels}
		},
		function: func(m model) (any, error) {
			return &models.Trajectory{Net: m.net, Noise: m.start.Form.Noise, SigmaData: m.start.SigmaData, SigmaMin: m.start.SigmaMin}, nil
		},
		objective: func(o *Train, p *parts, f any) (training.Objective, error) {
			distance, err := o.distance(p)
			if err != nil {
				return nil, err
			}
			target, err := p.copy()
			if err != nil {
				return nil, err
			}
			return &training.CTM{Model: f.(*models.Trajectory), Target: target.(*models.Trajectory), Teacher: p.teacher, Solver: solvers[o.Solver],
				Distance: distance, Schedule: training.Fixed{Levels: o.Levels, Decay: o.Mu}}, nil
		},
	},
	{
		name: "meanflow", about: "average velocities, without a teacher (Geng et al. 2025)",
		guidable: true,
		formulas: `y = (1-τ)·x + τ·z, v = z - x, the data at y - τ·u(y, 0, τ)
L = ‖Δ‖²/(‖Δ‖² + 0.001)^p, Δ = u_θ(y, r, τ) - v + (τ-r)·d/dτ u_θ(y, r, τ)
ln(τ/(1-τ)) ~ N(-2, 2²), and r too for a part of the samples (--ratio), else r = τ`,
		options: []string{"ratio", "power"},
		until:   true,
		forms:   []checkpoint.FormType{checkpoint.Flow},
		resolve: func(*Train) {},
		chosen:  func(o Train) []any { return []any{"ratio", number.Short(o.Ratio), "power", number.Short(o.Power)} },
		function: func(m model) (any, error) {
			if m.start.Form.Reversed {
				return nil, usage("--init: its time runs from noise to data, which --method meanflow does not know")
			}
			return &models.MeanFlow{Net: m.net, Scale: m.start.Form.Scale, Interval: m.start.Form.Interval}, nil
		},
		objective: func(o *Train, _ *parts, f any) (training.Objective, error) {
			return &training.MeanFlow{Model: f.(*models.MeanFlow), Mean: -2, Std: 2, Ratio: o.Ratio, Power: o.Power}, nil
		},
	},
	{
		name: "pd", about: "progressive distillation (Salimans & Ho 2022) of a denoiser (--teacher)",
		guidable: true,
		formulas: `D(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = max(1/t², 1)·‖D_θ(x_t, t) - D*‖²/D, D* the answer whose one step ends where two of the teacher's do
N steps, halved in each stage, after which the student is the teacher`,
		schedule: func(o Train) (string, string, error) {
			var b strings.Builder
			b.WriteString("| step | the student's steps |\n|---|---|\n")
			stages := &training.PD{First: o.First, Last: o.Last, Steps: o.Steps}
			last := 0.0
			for k := range o.Steps {
				if n := stages.Stats(k)["steps"]; n != last {
					fmt.Fprintf(&b, "| %d | %.0f |\n", k, n)
					last = n
				}
			}
			return b.String(), "", nil
		},
		options: []string{"teacher", "first", "last"},
		stages:  true,
		check: func(o Train) error {
			if least := (&training.PD{First: o.First, Last: o.Last, Steps: o.Steps}).LeastSteps(); o.Steps < least {
				return usage("--steps: want at least %d for the stages from %d steps of the student to %d, and some 200 for each to learn, got %d", least, o.First, o.Last, o.Steps)
			}
			return nil
		},
		distils:  true,
		forms:    []checkpoint.FormType{checkpoint.EDM},
		teachers: every,
		resolve: func(o *Train) {
			if o.First == 0 {
				// A stage of fewer than some 200 steps learns little. There are log2(First)+1 of them, and the last two count twice.
				for o.First = 16; o.First > max(2, o.Last) && o.Steps < 200*(bits.Len(uint(o.First))+2); {
					o.First /= 2
				}
			}
		},
		chosen: func(o Train) []any {
			return []any{"teacher", o.Teacher, "init", orNone(o.Init), "first", o.First, "last", o.Last}
		},
		function: denoiser,
		objective: func(o *Train, p *parts, f any) (training.Objective, error) {
			c, err := p.copy()
			if err != nil {
				return nil, err
			}
			return &training.PD{Model: f.(*models.EDM), Teacher: p.teacher, Copy: c.(*models.EDM), First: o.First, Last: o.Last, Steps: o.Steps}, nil
		},
	},
	{
		name: "edm", about: "a denoiser, for a teacher (Karras et al. 2022)",
		guidable: true,
		formulas: `D(x, t) = c_skip·x + c_out·F(x/√(t² + σ_d²), ln(t)/4)
L = (t² + σ_d²)/(t·σ_d)²·‖D_θ(x + t·z, t) - x‖²/D
ln t ~ N(-1.2, 1.2²), for a part of the draws (--high) uniform from ln 1 to ln 80`,
		options:  []string{"high"},
		forms:    []checkpoint.FormType{checkpoint.EDM},
		resolve:  func(*Train) {},
		function: denoiser,
		objective: func(o *Train, _ *parts, f any) (training.Objective, error) {
			return &training.EDM{Model: f.(*models.EDM), High: o.High}, nil
		},
	},
	{
		name: "ddpm", about: "a denoiser of a discrete chain, predicting the noise (Ho et al. 2020)",
		guidable: true,
		formulas: `L = ‖F_θ(√ᾱ_i·x + √(1-ᾱ_i)·z, i) - z‖²/D, i uniform`,
		options:  []string{"betas", "chain"},
		forms:    []checkpoint.FormType{checkpoint.DDPM},
		resolve:  func(*Train) {},
		function: denoiser,
		objective: func(_ *Train, _ *parts, f any) (training.Objective, error) {
			return &training.DDPM{Model: f.(*models.DDPM)}, nil
		},
	},
	{
		name: "flow", about: "a rectified flow (Liu et al. 2022), for a teacher; with --teacher, a flow, that one's reflow",
		guidable: true,
		formulas: `L = ‖v_θ((1-τ)·x + τ·z, τ) - (z - x)‖²/D, τ uniform in [0, 1]
reflow: x is where the teacher carries z, in 50 of Euler's steps`,
		options:  []string{"teacher"},
		forms:    []checkpoint.FormType{checkpoint.Flow},
		resolve:  func(*Train) {},
		function: denoiser,
		objective: func(o *Train, p *parts, f any) (training.Objective, error) {
			flow := &training.Flow{Model: f.(*models.Flow)}
			if p.teacher != nil {
				straightens, ok := p.teacher.(*models.Flow)
				if !ok {
					return nil, usage("--teacher: --method flow straightens a flow's trajectories: want one that was trained with --method flow, and %s was not", quote.Path(o.Teacher))
				}
				flow.Reflow = straightens
			}
			return flow, nil
		},
	},
}

// continuously is training in continuous time, with a teacher or without.
func continuously(name, about string, distils bool) method {
	m := method{
		name: name, about: about, distils: distils,
		formulas: `y = cos(a)·x + sin(a)·σ_d·z, a = arctan(t/σ_d), ln t ~ N(-1, 1.4²)
f(y, a) = cos(a)·y - sin(a)·σ_d·F(y/σ_d, a)
g = -cos²(a)·(σ_d·F⁻ - dy/da) - r·cos(a)·sin(a)·(y + σ_d·dF⁻/da), r = min(1, k/warmup)
L = e^w(a)/D·‖F_θ - F⁻ - g/(‖g‖ + 0.1)‖² - w(a), w learned or 0
dy/da = cos(a)·σ_d·z - sin(a)·x, or of the teacher's trajectory`,
		options: []string{"warmup", "weight", "step"},
		forms:   []checkpoint.FormType{checkpoint.TrigFlow, checkpoint.EDM, checkpoint.VP, checkpoint.Flow},
		resolve: func(o *Train) {
			if o.Warmup == Unset {
				o.Warmup = o.Steps / 10
			}
		},
		chosen:   func(o Train) []any { return []any{"warmup", o.Warmup, "weight", o.Weight} },
		function: func(m model) (any, error) { return m.start.Form.Trig(m.net, m.start.SigmaData) },
		objective: func(o *Train, p *parts, f any) (training.Objective, error) {
			c := &training.SCM{Model: f.(*models.TrigConsistency), Teacher: p.teacher, Warmup: o.Warmup, Step: o.Step}
			if o.Weight == "prior" {
				return c, nil
			}
			w, err := training.NewAdaptiveWeight(p.device, o.Seed)
			if err != nil {
				return nil, err
			}
			p.own(w.Close)
			c.Weight = w
			return c, nil
		},
	}
	if distils {
		m.options = append(m.options, "teacher")
		m.chosen = func(o Train) []any {
			return []any{"teacher", o.Teacher, "init", orNone(o.Init), "warmup", o.Warmup, "weight", o.Weight}
		}
	}
	return m
}

// Weights returns the ways to weigh noise levels in continuous time.
func Weights() []string { return []string{"learned", "prior"} }

// fromTeacher starts the run from the teacher's weights where nothing else is said, if the method's network can.
func (o *Train) fromTeacher(m method) error {
	if o.Init != "" || o.Teacher == "" || o.Teacher == empirical {
		return nil
	}
	d, err := describes(o.Teacher)
	if err != nil {
		return instead("--teacher", o.Teacher, err)
	}
	if slices.Contains(m.forms, d.Form.Type) && d.Kind == checkpoint.Denoiser && o.adoptable(m, d.Network) {
		o.Init = o.Teacher
	}
	return nil
}

// adoptable tells whether the run's network can have the weights of that one, though it may be told more.
func (o *Train) adoptable(m method, c network.Config) bool {
	told := c.Told(m.until, len(o.Guidance) == 2, o.Drop > 0)
	return c.Adopts() || told.Until() == c.Until() && told.Guidance() == c.Guidance()
}

// empirical is the teacher that is the exact denoiser of the data itself.
const empirical = "empirical"

// Chosen lists the method's own choices, as keys and values for a log.
func (o Train) Chosen() []any {
	m, err := methodNamed(o.Method)
	if err != nil || m.chosen == nil {
		return nil
	}
	return m.chosen(o)
}

// growing is the schedule of improved consistency training.
func (o Train) growing() training.Schedule {
	if o.Schedule == "linear" {
		return training.Linear{S0: o.S0, S1: o.S1, Steps: o.Steps}
	}
	return training.Doubling{S0: o.S0, S1: o.S1, Steps: o.Steps}
}

// Schedules returns the names of how noise levels grow in improved consistency training.
func Schedules() []string { return []string{"doubling", "linear"} }

// levelsChosen are the choices of methods with a growing number of levels.
func levelsChosen(o Train) []any { return []any{"levels", fmt.Sprintf("%d to %d", o.S0, o.S1+1)} }

// Methods returns the methods' names.
func Methods() []string {
	var names []string
	for _, m := range methods {
		names = append(names, m.name)
	}
	return names
}

// orNone is what the log calls a file that was not given.
func orNone(path string) string {
	if path == "" {
		return "none"
	}
	return path
}

// AboutMethods returns a line for each method.
func AboutMethods() string {
	var b strings.Builder
	longest := 0
	for _, m := range methods {
		longest = max(longest, len(m.name))
	}
	for _, m := range methods {
		fmt.Fprintf(&b, "  %-*s %s\n", longest, m.name, m.about)
	}
	return b.String()
}

func methodNamed(name string) (method, error) {
	for _, m := range methods {
		if m.name == name {
			return m, nil
		}
	}
	return method{}, usage("--method: %s", suggest.OneOf(name, Methods()))
}

// lpipsName is the distance whose weights the user brings.
const lpipsName = "lpips"

// Distances returns the names of distances.
func Distances() []string { return []string{"l1", "l2", "norm", "huber", lpipsName} }

// distance returns the distance that the run asks for.
func (o *Train) distance(p *parts) (training.Distance, error) {
	if o.Distance != lpipsName {
		return training.ParseDistance(o.Distance)
	}
	l, err := lpips.OpenWith(o.LPIPS, lpips.Config{Resize: lpips.Resize(o.Resize)}, p.device)
	if err != nil {
		return nil, fmt.Errorf("--lpips: %w", err)
	}
	p.own(l.Close)
	return l, nil
}

// solvers are the teacher's steps in distillation.
var solvers = map[string]training.Solver{"euler": sampling.Euler{}, "heun": sampling.Heun{}, "dpmpp_2s": sampling.DPMpp2S{}}

// betas are the schedules of a chain.
var betas = map[string]noise.Schedule{"linear": noise.Linear, "cosine": noise.Cosine}

// BetaSchedules returns the names of a chain's schedules.
func BetaSchedules() []string { return []string{"linear", "cosine"} }

// Solvers returns the names of what steps along a teacher's trajectory.
func Solvers() []string { return []string{"euler", "heun", "dpmpp_2s"} }

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
func (o *Train) checkTeacher(m method, cfg network.Config) error {
	if o.Teacher == empirical && o.Drop > 0 {
		return usage("--label-dropout: the data's own denoiser is asked for images of a class: leave the option out, or give another teacher")
	}
	if o.Teacher == "" || o.Teacher == empirical {
		return nil
	}
	d, err := describes(o.Teacher)
	if err != nil {
		return instead("--teacher", o.Teacher, err)
	}
	if o.Drop > 0 && d.Network.Classes() > 0 && d.Network.NullClass() < 0 {
		return usage("--label-dropout: the teacher does not know images without a class: leave the option out, or train the teacher with it")
	}
	if d.Kind == checkpoint.Consistency {
		return usage("--teacher: want a denoiser, such as one trained with --method edm, and %s holds a %s function", quote.Path(o.Teacher), quote.Text(d.Kind))
	}
	if o.Guidance != nil && d.Network.NullClass() < 0 {
		return usage("--guidance: the teacher does not know images without a class: train it with --classes --label-dropout 0.1")
	}
	return errors.Join(m.takes("--teacher", d, m.teachable()), sameImages("--teacher", d.Network, cfg.Shape(), cfg.Classes()))
}

// teachable is the forms of teachers.
func (m method) teachable() []checkpoint.FormType {
	if m.teachers != nil {
		return m.teachers
	}
	return m.forms
}

// takes refuses models of other forms than these.
func (m method) takes(flag string, d checkpoint.Description, forms []checkpoint.FormType) error {
	if flag == "--init" && d.Network.Until() && !m.until {
		return usage("%s: its network has an input for where jumps end, and --method %s has no jumps: want a model of another method", flag, m.name)
	}
	if slices.Contains(forms, d.Form.Type) {
		return nil
	}
	var by []string
	for _, other := range methods {
		if slices.Contains(other.options, "teacher") && slices.Contains(other.teachable(), d.Form.Type) && other.name != m.name {
			by = append(by, other.name)
		}
	}
	hint := ""
	if len(by) > 0 {
		hint = "; the methods that distil it: " + strings.Join(by, ", ")
	}
	why := fmt.Sprintf("want a model of the form %s", names(forms))
	if d.Form.Type == checkpoint.DDPM && slices.Contains(forms, checkpoint.VP) {
		why = "it knows whole steps of a chain, and the method needs derivatives in time"
	}
	return usage("%s: it was trained with the form %s, and --method %s cannot use it: %s%s", flag, quote.Text(d.Form.Type), m.name, why, hint)
}

// names lists forms.
func names(forms []checkpoint.FormType) string {
	var words []string
	for _, f := range forms {
		words = append(words, string(f))
	}
	return strings.Join(words, ", ")
}

// openTeacher reads the denoiser to distil.
func (o *Train) openTeacher(dev torch.Device, p *parts, data *dataset.Set) error {
	if o.Teacher == "" {
		return nil
	}
	null := -1 // what stands for no class in the data's own denoiser
	if o.Teacher == empirical {
		if err := o.ownTeacher(dev, p, data); err != nil {
			return err
		}
	} else {
		t, err := checkpoint.OpenTeacher(o.Teacher, dev)
		if err != nil {
			return fmt.Errorf("--teacher: %w", err)
		}
		p.own(t.Close)
		p.teacher, null = t.Denoiser, t.Description.Network.NullClass()
	}
	if o.Guidance != nil {
		label := torch.NewScope(dev)
		p.own(label.Close)
		p.teacher = &models.Guided{Model: p.teacher, Null: models.Cond{Class: torch.FromSlice(label, []int64{int64(null)})}, Scale: o.Guidance[0]}
	}
	return nil
}

// sameImages refuses networks for other images than the run's.
func sameImages(flag string, got network.Config, shape []int, classes int) error {
	g, w := got.Shape(), shape
	switch {
	case !slices.Equal(g, w):
		return usage("%s: it is for images of %s, the run has %s: choose --resolution and --colors to match", flag, Times(g), Times(w))
	case got.Classes() > 0 && classes == 0:
		return usage("%s: it was trained with %d classes: pass --classes, with data that has them", flag, got.Classes())
	case got.Classes() > 0 && got.Classes() != classes:
		return usage("%s: it was trained with %d classes, the data has %d", flag, got.Classes(), classes)
	case got.Classes() == 0 && classes > 0:
		return usage("%s: it was trained without classes: leave out --classes, or give a model that has them", flag)
	}
	return nil
}

// Times writes a shape as 3×32×32.
func Times(shape []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(shape), "[]"), " ", "×")
}

// load gives a network the weights that the run starts from.
func (o *Train) load(net network.Network, dev torch.Device) error {
	if !o.starts() {
		return nil
	}
	f, err := openFile(o.Init, dev)
	if err != nil {
		return fmt.Errorf("%s: %w", o.startsBy(), err)
	}
	defer f.Close()
	if err := network.Adopt(net, f.Network.Tensors()); err != nil {
		return fmt.Errorf("%s: %s: %w", o.startsBy(), quote.Path(f.Path), err)
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
