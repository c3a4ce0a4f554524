package job

import (
	"context"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// Every option is read by every run, or some part of a run declares it: a new one has to be put on one side.
func TestEveryOptionIsUsedOrDeclared(t *testing.T) {
	everywhere := []string{
		"method", "data", "steps", "batch", "lr", "seed", "device", "threads", "clip", "ema", "widths", "half-lives", "init",
		"skips", "rollbacks", "resolution", "colors", "classes", "network", "dropout", "flip", "corrupt", "workers",
		"save-every", "sample-every", "log-every", "keep",
	}
	declared := map[string]bool{}
	for _, m := range Methods() {
		o := DefaultTrain()
		o.Method = m
		for _, u := range o.users() {
			for _, option := range u.kind {
				declared[option] = true
			}
		}
	}
	fields := reflect.TypeFor[Train]()
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		if name == "-" || slices.Contains(told, name) {
			continue
		}
		option := dashes(name)
		require.NotEqual(t, declared[option], slices.Contains(everywhere, option), "--%s: it is declared or used everywhere, not both and not neither", option)
		delete(declared, option)
	}
	require.Empty(t, declared, "declared, and no option")
}

// Guidance needs a denoiser that knows images without a class. Methods whose models are none must not take --label-dropout.
func TestLabelDropoutNeedsADenoiser(t *testing.T) {
	for _, m := range methods {
		o := tinyRun(filepath.Join(t.TempDir(), "run"), m.name)
		o.Teacher = "" // the teacher does not matter here
		d, err := o.fit(m, 3, 8)
		require.NoError(t, err)
		net, err := network.New(d.Network, torch.CPU, 1)
		require.NoError(t, err)
		f, err := m.function(model{net, d})
		net.Close()
		require.NoError(t, err)
		_, denoiser := f.(models.Denoiser)
		require.Equal(t, denoiser, m.guidable, m.name)
	}
}

// Options that a run does not use are refused wherever they come from, by name, and say who uses them.
func TestUnusedOptionsAreRefused(t *testing.T) {
	for _, c := range []struct {
		method string
		change func(o *Train)
		want   []string
	}{
		{"ict", func(o *Train) { o.Drop = 0.1 }, []string{"--label-dropout", "ict", "edm"}},
		{"cd", func(o *Train) { o.Teacher, o.Drop = "empirical", 0.1 }, []string{"--label-dropout", "cd"}},
		{"sct", func(o *Train) { o.Drop = 0.1 }, []string{"--label-dropout", "sct"}},
		{"ict", func(o *Train) { o.Guidance = []float64{1, 5} }, []string{"--guidance", "ict", "cd"}},
		{"ict", func(o *Train) { o.Mu0 = 0.5 }, []string{"--mu0", "ict", "ct"}},
		{"edm", func(o *Train) { o.Distance = "l1" }, []string{"--distance", "edm"}},
		{"edm", func(o *Train) { o.Teacher = "empirical" }, []string{"--teacher", "edm"}},
		{"pd", func(o *Train) { o.Teacher, o.LRDecay = "empirical", 0.5 }, []string{"--lr-decay", "pd"}},
		{"ct", func(o *Train) { o.LPIPS = "x" }, []string{"--lpips", "huber"}},
		{"ct", func(o *Train) { o.Network, o.Mult = "dit", []int{1} }, []string{"--mult", "dit", "ddpmpp"}},
		{"ct", func(o *Train) { o.Mult, o.Patch = nil, 2 }, []string{"--patch", "ddpmpp", "dit"}},
		{"ct", func(o *Train) { o.Dir = "x" }, []string{"--data-dir", "emoji", "cifar10"}},
	} {
		o := tinyRun(filepath.Join(t.TempDir(), "run"), c.method)
		c.change(&o)
		_, err := o.Run(context.Background(), Hooks{})
		var use *UsageError
		require.ErrorAs(t, err, &use)
		for _, want := range c.want {
			require.ErrorContains(t, err, want)
		}
		require.NoDirExists(t, o.Out)
	}
}

// A chain comes from the model that the run starts from.
func TestChainOfInit(t *testing.T) {
	first := tinyRun(filepath.Join(t.TempDir(), "first"), "ddpm")
	first.Steps, first.Betas, first.Chain = 2, "cosine", 50
	_, err := first.Run(context.Background(), Hooks{})
	require.NoError(t, err)
	next := tinyRun(filepath.Join(t.TempDir(), "next"), "ddpm")
	next.Steps, next.Init = 2, first.Out
	d, err := next.Plan()
	require.NoError(t, err)
	require.Equal(t, noise.Cosine, d.Form.Betas.Schedule)
	require.Equal(t, "cosine", next.Betas)
	require.Equal(t, 50, next.Chain)
	next.Chain = 60
	_, err = next.Plan()
	require.ErrorContains(t, err, "--chain 60")
	next.Chain, next.Betas = 50, "cosine"
	_, err = next.Plan()
	require.NoError(t, err)
}

// What the samplers do not use.
func TestUnusedOptionsOfSampling(t *testing.T) {
	teacher(t)
	run := tinyRun(filepath.Join(t.TempDir(), "run"), "ctm")
	run.Steps, run.Drop, run.Teacher = 2, 0.1, guidableTeacher(t)
	_, err := run.Run(context.Background(), Hooks{})
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
	o.Steps, o.Drop = 2, 0.1
	_, err := o.Run(context.Background(), Hooks{})
	require.NoError(t, err)
	d, err := checkpoint.Describes(o.Out)
	require.NoError(t, err)
	require.GreaterOrEqual(t, d.Network.NullClass(), 0)
	return o.Out
}
