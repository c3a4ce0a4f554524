package job

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/training/recipe"
)

// Options that a run does not use are refused, by name, and say who uses them.
func TestUnusedOptionsAreRefused(t *testing.T) {
	for _, c := range []struct {
		method string
		change func(o *Train)
		want   []string
	}{
		{"ict", func(o *Train) { o.LabelDropout = 0.1 }, []string{"--label-dropout", "ict", "edm"}},
		{"cd", func(o *Train) { o.LabelDropout = 0.1; set(o, "teacher", "empirical") }, []string{"--label-dropout", "cd"}},
		{"sct", func(o *Train) { o.LabelDropout = 0.1 }, []string{"--label-dropout", "sct"}},
		{"pd", func(o *Train) { o.LRDecay = new(0.5); set(o, "teacher", "empirical") }, []string{"--lr-decay", "pd"}},
		{"ct", func(o *Train) { set(o, "lpips", "x") }, []string{"--lpips", "huber"}},
		{"ct", func(o *Train) { o.Network = "dit" }, []string{"--mult", "dit", "ddpmpp"}},
		{"ct", func(o *Train) { o.Size = &dit.Options{Patch: 2} }, []string{"--patch", "ddpmpp", "dit"}},
		{"ct", func(o *Train) { o.DataDir = "x" }, []string{"--data-dir", "emoji", "cifar10"}},
	} {
		o := tinyRun(filepath.Join(t.TempDir(), "run"), c.method)
		c.change(&o)
		_, err := o.Train(context.Background(), Hooks{})
		var use *UsageError
		require.ErrorAs(t, err, &use, c.want)
		for _, want := range c.want {
			require.ErrorContains(t, err, want)
		}
		require.NoDirExists(t, o.Out)
	}
	o := tinyRun("x", "ict")
	for option, v := range map[string]any{"guidance": []float64{1, 5}, "mu0": 0.5, "teacher": "empirical"} {
		err := o.Flagged(o.Set(option, v))
		require.ErrorContains(t, err, "--"+option)
		require.ErrorContains(t, err, "ict")
		require.ErrorContains(t, err, "only c")
	}
}

// A chain comes from the model that the run starts from.
func TestChainOfInit(t *testing.T) {
	first := tinyRun(filepath.Join(t.TempDir(), "first"), "ddpm")
	first.Steps, first.Method = 2, &recipe.DDPM{Betas: "cosine", Chain: 50}
	_, err := first.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	next := tinyRun(filepath.Join(t.TempDir(), "next"), "ddpm")
	next.Steps, next.Init = 2, first.Out
	plan := func() (*recipe.Plan, error) {
		p, err := next.Plan()
		if err == nil {
			require.NoError(t, p.Close())
		}
		return p, err
	}
	p, err := plan()
	require.NoError(t, err)
	require.Equal(t, noise.Cosine, p.Start.Form.Betas.Schedule)
	require.Equal(t, &recipe.DDPM{Betas: "cosine", Chain: 50}, p.Run.Method)
	next.Method = &recipe.DDPM{Chain: 60}
	_, err = plan()
	require.ErrorContains(t, err, "--chain 60")
	next.Method = &recipe.DDPM{Chain: 50, Betas: "cosine"}
	_, err = plan()
	require.NoError(t, err)
}

// What the samplers do not use.
func TestUnusedOptionsOfSampling(t *testing.T) {
	teacher(t)
	run := tinyRun(filepath.Join(t.TempDir(), "run"), "ctm")
	run.Steps, run.LabelDropout, run.Method = 2, 0.1, &recipe.CTM{Teacher: guidableTeacher(t)}
	_, err := run.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	draw := func(change func(o *Sample)) error {
		o := DefaultSample()
		o.Model, o.Out, o.Threads = run.Out, filepath.Join(t.TempDir(), "x.png"), 1
		change(&o)
		_, err := o.Run(context.Background(), nil)
		return err
	}
	require.NoError(t, draw(func(o *Sample) { o.Sampler, o.Steps, o.Guidance = "heun", 2, 3 }))
	require.NoError(t, draw(func(o *Sample) { o.Sampler, o.Guidance = "ctm", 1 }), "1 is no guidance")
	require.ErrorContains(t, draw(func(o *Sample) { o.Sampler, o.Guidance = "ctm", 3 }), "--guidance")
	require.ErrorContains(t, draw(func(o *Sample) { o.Sampler, o.Guidance = "multistep", 3 }), "--guidance")
	require.ErrorContains(t, draw(func(o *Sample) { o.Sampler, o.Gamma = "ctm", 0.5 }), "--gamma")
	require.NoError(t, draw(func(o *Sample) { o.Sampler, o.Gamma, o.Steps = "ctm", 0.5, 2 }))
	require.ErrorContains(t, draw(func(o *Sample) { o.Sampler, o.Gamma, o.Steps = "heun", 0.5, 2 }), "--gamma")
	require.ErrorContains(t, draw(func(o *Sample) { o.Columns = 2 }), "--columns")
}

// guidableTeacher trains a denoiser that knows images without a class.
func guidableTeacher(t *testing.T) string {
	t.Helper()
	o := tinyRun(filepath.Join(t.TempDir(), "teacher"), "edm")
	o.Steps, o.LabelDropout = 2, 0.1
	_, err := o.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	d, err := checkpoint.ReadDescription(o.Out)
	require.NoError(t, err)
	require.GreaterOrEqual(t, d.Network.NullClass(), 0)
	return o.Out
}
