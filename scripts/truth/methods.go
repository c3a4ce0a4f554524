package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

func consistency(net models.Network) any { return &models.Consistency{Net: net} }

func edm(net models.Network) any { return &models.EDM{Net: net} }

// tuned is a consistency function that starts as a denoiser with the same network.
func tuned(net models.Network) any { return &models.Consistency{Net: net, Boundary: models.AtZero} }

func averageVelocity(net models.Network) any { return &models.MeanFlow{Net: net} }

// methods are all methods that are compared, teachers first. Their names are keys of the results file.
func methods() []method {
	return []method{
		{
			name: "EDM teacher", about: "a tenth of the samples at high noise levels",
			function: edm,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.EDM{Model: l.learn.(*models.EDM), High: 0.1}, nil
			},
		},
		{
			name: "DDPM teacher", about: "ε, 1000 linear betas",
			net:      mlp.Config{NoiseScale: 0.005},
			function: func(net models.Network) any { return &models.DDPM{Net: net} },
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.DDPM{Model: l.learn.(*models.DDPM)}, nil
			},
		},
		{
			name: "flow teacher", about: "rectified flow",
			net:      mlp.Config{NoiseScale: 3},
			function: func(net models.Network) any { return &models.Flow{Net: net} },
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.Flow{Model: l.learn.(*models.Flow)}, nil
			},
		},
		distilled("CD, exact score, Euler 18", "exact", sampling.Euler{}, 18),
		distilled("CD, exact score, Heun 18", "exact", sampling.Heun{}, 18),
		distilled("CD, exact score, DPM-Solver++ 18", "exact", sampling.DPMpp2S{}, 18),
		unweighted(distilled("CD, exact score, Heun 18, λ = 1", "exact", sampling.Heun{}, 18)),
		distilled("CD, EDM teacher, Heun 18", "EDM teacher", sampling.Heun{}, 18),
		distilled("CD, DDPM teacher, Heun 18", "DDPM teacher", sampling.Heun{}, 18),
		distilled("CD, flow teacher, Heun 18", "flow teacher", sampling.Heun{}, 18),
		{
			name: "CT, N = 18", about: "μ = 0, L2; for Gaussian data theory gives std 0.423",
			function: consistency,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.CT{Model: l.learn.(*models.Consistency), Schedule: training.Fixed{}, Distance: training.L2{}}, nil
			},
		},
		{
			name: "CT, N by the run's length", about: "training.FitLevels",
			function: consistency,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				target, err := l.copy()
				if err != nil {
					return nil, err
				}
				return &training.CT{Model: l.learn.(*models.Consistency), Target: target.(*models.Consistency),
					Schedule: training.Progressive{Steps: l.steps, S1: training.FitLevels(l.steps)}, Distance: training.L2{}}, nil
			},
		},
		improved("iCT, N to 41", 40, false),
		improved("iCT, N to 161", 160, false),
		improved("iCT, N to 1281", 1280, false),
		{
			name: "iCT, gap falling linearly", about: "the same, N from 11 to 161", function: consistency,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.CT{Model: l.learn.(*models.Consistency), Index: training.LogNormal{}, Weight: training.InverseGap,
					Schedule: training.Linear{S1: 160, Steps: l.steps}}, nil
			},
		},
		{
			name: "ECT", about: "from the EDM teacher, 8 stages", init: "EDM teacher",
			function: tuned,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.ECT{Model: l.learn.(*models.Consistency), Steps: l.steps}, nil
			},
		},
		{
			name: "stable ECT", about: "the same with the batch's mean as target", init: "EDM teacher", function: tuned,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.StableECT{ECT: training.ECT{Model: l.learn.(*models.Consistency), Steps: l.steps}}, nil
			},
		},
		{
			name: "CMT, EDM teacher", about: "half of the budget; DPM-Solver++ 16, one point of each trajectory", init: "EDM teacher", part: 0.5, function: tuned,
			objective: func(ctx context.Context, l *lesson) (training.Objective, error) {
				d, err := l.teacher(ctx, "EDM teacher")
				return &training.CMT{Model: l.learn.(*models.Consistency), Teacher: d, Points: 1}, err
			},
		},
		{
			name: "CMT, then ECT", about: "the other half of the budget from it, in one stage with q = 256", init: "CMT, EDM teacher", part: 0.5, function: tuned,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.ECT{Model: l.learn.(*models.Consistency), Steps: l.steps, Stages: 1, Q: 256}, nil
			},
		},
		continuous("sCT", "", 0),
		continuous("sCT by differences", "", 0.01),
		continuous("sCD, exact score", "exact", 0),
		continuous("sCD, exact score, by differences", "exact", 0.01),
		continuous("sCD, EDM teacher", "EDM teacher", 0),
		{
			name: "CTM, exact score, Heun 18", about: "target decay 0, denoising term with weight 1; f is the jump to ε",
			net:      mlp.Config{Until: true},
			function: func(net models.Network) any { return &models.Trajectory{Net: net} },
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.CTM{Model: l.learn.(*models.Trajectory), Teacher: data, Solver: sampling.Heun{}}, nil
			},
			solver: func(context.Context, *toy) (models.Denoiser, sampling.Solver, []float64, error) {
				levels := noise.Karras(18, 0.002, 80, 7)
				slices.Reverse(levels)
				return data, sampling.Heun{}, levels, nil
			},
		},
		meanFlow("MeanFlow", "times as for CIFAR-10, ratio 0.75, power 0.75; f is the jump to 0", 0.75),
		meanFlow("MeanFlow, power 0", "the same without adaptive weights, which bias the mean in two dimensions", 1e-9),
		solution("SoFlow", "gap 1 to 1/3200, times and power 0.75 as for CIFAR-10; f is the jump to 0", 0.75),
		solution("SoFlow, power 0", "the same without adaptive weights", 1e-9),
		alphaFlow("α-Flow", "α from 1 to 0 over the run, the rest as MeanFlow", 0.75),
		alphaFlow("α-Flow, power 0", "the same without adaptive weights", 1e-9),
		improvedMeanFlow("iMF", "as MeanFlow; the derivative along the predicted velocity", 0.75, false),
		improvedMeanFlow("iMF, power 0", "the same without adaptive weights", 1e-9, false),
		improvedMeanFlow("iMF with a head, power 0", "a second network predicts the velocity", 1e-9, true),
		{
			name: "CMT for jumps, EDM teacher", about: "half of the budget; DPM-Solver++ 16, one point of each trajectory; f is the jump to 0", part: 0.5,
			net: mlp.Config{Until: true, NoiseScale: 3}, function: averageVelocity,
			objective: func(ctx context.Context, l *lesson) (training.Objective, error) {
				d, err := l.teacher(ctx, "EDM teacher")
				return &training.CMT{Jumps: l.learn.(*models.MeanFlow), Teacher: d, Points: 1}, err
			},
		},
		{
			name: "CMT, then MeanFlow, power 0", about: "the other half of the budget from it", init: "CMT for jumps, EDM teacher", part: 0.5,
			net: mlp.Config{Until: true, NoiseScale: 3}, function: averageVelocity,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				return &training.MeanFlow{Model: l.learn.(*models.MeanFlow), Mean: -2, Std: 2, Ratio: 0.75, Power: 1e-9}, nil
			},
		},
		segmented("multistep CT, 1 segment", "", 1, false),
		segmented("multistep CT, 2 segments", "", 2, false),
		segmented("multistep CD, exact score, aDDIM, 1 segment", "exact", 1, false),
		segmented("multistep CD, exact score, aDDIM, 2 segments", "exact", 2, false),
		segmented("multistep CD, exact score, DDIM, 1 segment", "exact", 1, true),
		segmented("multistep CD, exact score, DDIM, 2 segments", "exact", 2, true),
		progressive("PD, exact score, 16 to 1", "exact"),
		progressive("PD, EDM teacher, 16 to 1", "EDM teacher"),
		{
			name: "reflow of the flow teacher", about: "sampled in one Euler step; its trajectories differ from the data's, so there is no RMSE",
			net: mlp.Config{NoiseScale: 3}, init: "flow teacher", only80: true, apart: true,
			function: func(net models.Network) any { return &models.Flow{Net: net} },
			objective: func(ctx context.Context, l *lesson) (training.Objective, error) {
				from, err := l.taught(ctx, "flow teacher")
				if err != nil {
					return nil, err
				}
				return &training.Flow{Model: l.learn.(*models.Flow), Reflow: from.f.(*models.Flow), Steps: 10}, nil
			},
		},
		{
			name: "CT, N to 151 (control)", about: "the published schedule, made for far longer training", worse: "iCT, N to 41",
			function: consistency,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				target, err := l.copy()
				if err != nil {
					return nil, err
				}
				return &training.CT{Model: l.learn.(*models.Consistency), Target: target.(*models.Consistency), Schedule: training.Progressive{Steps: l.steps},
					Distance: training.L2{}}, nil
			},
		},
		{
			name: "iCT with a target that follows (control)", about: "N to 1281, target decay 0.99, which is known to hurt", worse: "iCT, N to 1281",
			function: consistency,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				target, err := l.copy()
				if err != nil {
					return nil, err
				}
				return &training.CT{Model: l.learn.(*models.Consistency), Target: target.(*models.Consistency), Index: training.LogNormal{}, Weight: training.InverseGap,
					Schedule: following{training.Doubling{Steps: l.steps}}}, nil
			},
		},
		improved("iCT, N to 161, dropout 0.1", 160, true),
		{
			name: "iCT, N to 161, dropout 0.1, masks not shared (control)", about: "student and target use different masks", dropout: 0.1, worse: "iCT, N to 161, dropout 0.1",
			function: consistency,
			objective: func(_ context.Context, l *lesson) (training.Objective, error) {
				net := own{l.net, rand.New(rand.NewPCG(l.seed, 0))}
				return &training.CT{Model: &models.Consistency{Net: net}, Index: training.LogNormal{}, Weight: training.InverseGap,
					Schedule: training.Doubling{S1: 160, Steps: l.steps}}, nil
			},
		},
	}
}

// distilled is consistency distillation of the exact denoiser or of a trained one.
func distilled(name, teacher string, solver sampling.Solver, n int) method {
	m := method{
		name: name, about: "pseudo-Huber, λ = 1/Δt, target decay 0", function: consistency,
		objective: func(ctx context.Context, l *lesson) (training.Objective, error) {
			d, err := l.teacher(ctx, teacher)
			return &training.CD{CT: training.CT{Model: l.learn.(*models.Consistency), Schedule: training.Fixed{Levels: n}, Weight: training.InverseGap},
				Teacher: d, Solver: solver}, err
		},
		solver: func(ctx context.Context, t *toy) (models.Denoiser, sampling.Solver, []float64, error) {
			d, err := t.teacher(ctx, teacher)
			levels := noise.Karras(n, 0.002, 80, 7)
			slices.Reverse(levels)
			return d, solver, levels, err
		},
	}
	return m
}

// unweighted is distillation with the published weight, which is 1.
func unweighted(m method) method {
	weighted := m.objective
	m.about, m.worse = "pseudo-Huber, target decay 0", "CD, exact score, Heun 18"
	m.objective = func(ctx context.Context, l *lesson) (training.Objective, error) {
		o, err := weighted(ctx, l)
		if cd, ok := o.(*training.CD); ok {
			cd.Weight = training.Unit
		}
		return o, err
	}
	return m
}

// teacher returns the denoiser of a trained method, or the exact one.
func (t *toy) teacher(ctx context.Context, name string) (models.Denoiser, error) {
	if name == "exact" {
		return data, nil
	}
	l, err := t.taught(ctx, name)
	if err != nil {
		return nil, err
	}
	return l.f.(models.Denoiser), nil
}

// continuous is continuous-time consistency training or distillation. step is that of finite differences; 0: forward-mode derivatives.
func continuous(name, teacher string, step float64) method {
	return method{
		name: name, about: "warm-up over a tenth, learned weights", net: mlp.Config{NoiseScale: 2},
		function: func(net models.Network) any { return &models.TrigConsistency{Net: net} },
		objective: func(ctx context.Context, l *lesson) (training.Objective, error) {
			w, err := training.NewAdaptiveWeight(torch.CPU, l.seed)
			if err != nil {
				return nil, err
			}
			l.own(w.Close)
			c := &training.SCM{Model: l.learn.(*models.TrigConsistency), Warmup: l.steps / 10, Weight: w, Step: step}
			if teacher != "" {
				c.Teacher, err = l.teacher(ctx, teacher)
			}
			return c, err
		},
	}
}

// meanFlow trains average velocities. power is that of the adaptive loss weights.
func meanFlow(name, about string, power float64) method {
	return jumping(name, about, func(_ *lesson, f *models.MeanFlow) (training.Objective, error) {
		return &training.MeanFlow{Model: f, Mean: -2, Std: 2, Ratio: 0.75, Power: power}, nil
	})
}

// jumping is a method that trains average velocities.
func jumping(name, about string, objective func(l *lesson, f *models.MeanFlow) (training.Objective, error)) method {
	return method{
		name: name, about: about, net: mlp.Config{Until: true, NoiseScale: 3}, function: averageVelocity,
		objective: func(_ context.Context, l *lesson) (training.Objective, error) {
			return objective(l, l.learn.(*models.MeanFlow))
		},
	}
}

// solution is SoFlow. power is that of the adaptive loss weights.
func solution(name, about string, power float64) method {
	return jumping(name, about, func(l *lesson, f *models.MeanFlow) (training.Objective, error) {
		return &training.SoFlow{Model: f, Steps: l.steps, Power: power}, nil
	})
}

func alphaFlow(name, about string, power float64) method {
	return jumping(name, about, func(l *lesson, f *models.MeanFlow) (training.Objective, error) {
		return &training.AlphaFlow{MeanFlow: training.MeanFlow{Model: f, Mean: -2, Std: 2, Ratio: 0.75, Power: power}, Steps: l.steps}, nil
	})
}

func improvedMeanFlow(name, about string, power float64, head bool) method {
	return jumping(name, about, func(l *lesson, f *models.MeanFlow) (training.Objective, error) {
		o := &training.IMF{MeanFlow: training.MeanFlow{Model: f, Mean: -2, Std: 2, Ratio: 0.75, Power: power}}
		if head {
			net, err := mlp.New(l.net.Config(), torch.CPU, l.dtype(), l.seed+1)
			if err != nil {
				return nil, err
			}
			l.own(net.Close)
			o.Head = &models.MeanFlow{Net: net}
		}
		return o, nil
	})
}

// segmented is multistep consistency training, or distillation of the exact denoiser, whose sampling takes a step per segment.
func segmented(name, teacher string, n int, ddim bool) method {
	m := &training.MultistepCM{Segments: n, First: 16, Last: 64, DDIM: ddim}
	return method{
		name: name, about: "the norm, N from 16 to 64; a sampling step for each segment", only80: true, evaluations: n,
		function: func(net models.Network) any { return inSegments{&models.EDM{Net: net}, m.Levels(0)} },
		objective: func(ctx context.Context, l *lesson) (training.Objective, error) {
			o := *m
			o.Model, o.Steps = l.learn.(inSegments).EDM, l.steps
			if teacher == "" {
				return &o, nil
			}
			var err error
			o.Teacher, err = l.teacher(ctx, teacher)
			return &o, err
		},
	}
}

// progressive is progressive distillation to one step.
func progressive(name, teacher string) method {
	m := method{
		name: name, about: "the teacher takes 32 Euler steps", only80: true, function: edm,
		objective: func(ctx context.Context, l *lesson) (training.Objective, error) {
			d, err := l.teacher(ctx, teacher)
			if err != nil {
				return nil, err
			}
			c, err := l.copy()
			if err != nil {
				return nil, err
			}
			return &training.PD{Model: l.learn.(*models.EDM), Copy: c.(*models.EDM), Teacher: d, Steps: l.steps}, nil
		},
		solver: func(ctx context.Context, t *toy) (models.Denoiser, sampling.Solver, []float64, error) {
			d, err := t.teacher(ctx, teacher)
			return d, sampling.Euler{}, (&training.PD{First: 32, Last: 32, Steps: 2}).Levels(0), err
		},
	}
	if teacher != "exact" {
		m.init = teacher
	}
	return m
}

// improved is improved consistency training.
func improved(name string, s1 int, dropout bool) method {
	m := method{
		name: name, about: "pseudo-Huber, 1/Δt, log-normal levels, from N = 11", function: consistency,
		objective: func(_ context.Context, l *lesson) (training.Objective, error) {
			return &training.CT{Model: l.learn.(*models.Consistency), Index: training.LogNormal{}, Weight: training.InverseGap,
				Schedule: training.Doubling{S1: s1, Steps: l.steps}}, nil
		},
	}
	if dropout {
		m.dropout = 0.1
	}
	return m
}

// following adds an EMA target network with decay 0.99 to a schedule.
type following struct{ training.Schedule }

func (f following) At(k int) (int, float64) {
	n, _ := f.Schedule.At(k)
	return n, 0.99
}

func named(name string) (method, error) {
	for _, m := range methods() {
		if m.name == name {
			return m, nil
		}
	}
	return method{}, fmt.Errorf("unknown method %q", name)
}
