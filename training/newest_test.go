package training

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	perceptron "github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/modelstest"
	"github.com/onestep-go/onestep/torch"
)

// A short training brings each method's jump from noise to data at least four times closer to the exact one than it starts, and each
// consistency function and few-step model at least twice.
func TestNewestMethodsLearnGaussianData(t *testing.T) {
	const steps, batch = 180, 128
	times := MeanFlow{Mean: -1, Std: 2.5, Ratio: 0.75, Power: 1e-3}
	for name, method := range map[string]func(f *models.MeanFlow) Objective{
		"soflow": func(f *models.MeanFlow) Objective {
			return &SoFlow{Model: f, Steps: steps, First: 0.3, Last: 0.02, Power: 1e-3, Mean: -1, Std: 2.5}
		},
		"alphaflow": func(f *models.MeanFlow) Objective {
			m := times
			m.Model = f
			return &AlphaFlow{MeanFlow: m, Steps: steps}
		},
		"imf": func(f *models.MeanFlow) Objective {
			m := times
			m.Model = f
			return &IMF{MeanFlow: m}
		},
		"cmt": func(f *models.MeanFlow) Objective { return &CMT{Jumps: f, Teacher: gaussian, Points: 1} },
	} {
		t.Run(name, func(t *testing.T) {
			c := perceptron.Config{Width: 48, Until: true, NoiseScale: 3}
			net, average := network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 1)
			factor := gaussian.Move(gaussian.Mean+1, 80, 0) - gaussian.Mean
			before := jumpError(t, &models.MeanFlow{Net: average}, 80, 0, factor)
			m := method(&models.MeanFlow{Net: net})
			require.NoError(t, m.(Validator).Validate())
			course{gaussian, steps, batch, halving(1e-2, steps)}.take(t, m, net, average)
			after := jumpError(t, &models.MeanFlow{Net: average}, 80, 0, factor)
			t.Logf("error of the jump from 80 to 0: %.3f before, %.3f after", before, after)
			require.Less(t, after, before/4)
		})
	}
	origins := func(name string, start func(net models.Network) Objective, f func(net models.Network) models.ConsistencyFunction) {
		t.Run(name, func(t *testing.T) {
			c := perceptron.Config{Width: 48}
			net, average := network(t, c, torch.Float32, 1), network(t, c, torch.Float32, 1)
			before := originError(t, f(average))
			m := start(net)
			require.NoError(t, m.(Validator).Validate())
			course{gaussian, steps, batch, halving(1e-2, steps)}.take(t, m, net, average)
			after := originError(t, f(average))
			t.Logf("error from 80: %.3f before, %.3f after", before, after)
			require.Less(t, after, before/2)
		})
	}
	zero := func(net models.Network) *models.Consistency {
		return &models.Consistency{Net: net, Boundary: models.AtZero}
	}
	origins("stablect", func(net models.Network) Objective { return &StableECT{ECT{Model: zero(net), Steps: steps}} },
		func(net models.Network) models.ConsistencyFunction { return zero(net) })
	for name, m := range map[string]MultistepCM{"msct": {}, "mscd": {Teacher: gaussian}} {
		m.Segments, m.First, m.Last, m.Steps = 2, 8, 16, steps
		origins(name, func(net models.Network) Objective {
			m := m
			m.Model = &models.EDM{Net: net}
			return &m
		}, func(net models.Network) models.ConsistencyFunction {
			return inSteps{&models.EDM{Net: net}, m.Levels(0)}
		})
	}
}

// inSteps is a denoiser that is sampled along levels.
type inSteps struct {
	models.Denoiser
	levels []float64
}

func (m inSteps) Origin(s *torch.Scope, x, _ *torch.Tensor, c models.Cond) *torch.Tensor {
	for i := range len(m.levels) - 1 {
		D := m.Denoise(s, x, torch.Full(s, m.levels[i], x.DType(), x.Dim(0)), c)
		x = D.Add(s, x.Sub(s, D).MulScalar(s, m.levels[i+1]/m.levels[i]))
	}
	return x
}

// originError is the distance of f at level 80 from the exact function, relative to the data's deviation.
func originError(t *testing.T, f models.ConsistencyFunction) (off float64) {
	t.Helper()
	exact := modelstest.Gaussian{Mean: gaussian.Mean, Std: gaussian.Std, SigmaMin: 1e-6}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 3), torch.Float32, 2000, 2).MulScalar(s, 80)
			at := torch.Full(s, 80, torch.Float32, 2000)
			off = rms(s, f.Origin(s, x, at, models.Cond{}), exact.Origin(s, x, at, models.Cond{})) / gaussian.Std
			return nil
		})
	}))
	return off
}
