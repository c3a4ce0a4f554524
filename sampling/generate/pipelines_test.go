package generate

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// pipelineCase is a case of scripts/golden/sampling/generate/pipelines.py.
type pipelineCase struct {
	Kind, Net string
	Scheduler json.RawMessage
	Steps     int
	Timesteps []int
	Eta       float64
}

// drawn writes the directory of a network as the generator drew it, with that scheduler.
func drawn(t *testing.T, s *torch.Scope, meta map[string]string, net string, config []byte) string {
	t.Helper()
	var configs, layouts map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(meta["configs"]), &configs))
	require.NoError(t, json.Unmarshal([]byte(meta["weights"]), &layouts))
	seed, err := strconv.ParseUint(meta["seed"], 10, 64)
	require.NoError(t, err)
	stream := torch.NewGenerator(s, seed)
	dir := t.TempDir()
	write := func(name string, data []byte) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	write("unet/config.json", configs[net])
	write("scheduler/scheduler_config.json", config)
	weights := torchtest.Drawn(t, string(layouts[net]), func(name string, dims []int) *torch.Tensor {
		v := torch.Randn(s, stream, torch.Float32, dims...)
		n := 1
		for _, d := range dims[1:] {
			n *= d
		}
		switch {
		case len(dims) > 1:
			return v.DivScalar(s, math.Sqrt(float64(n)))
		case strings.HasSuffix(name, "weight"):
			return v.MulScalar(s, 0.1).AddScalar(s, 1)
		}
		return v.MulScalar(s, 0.1)
	})
	require.NoError(t, torch.SaveSafetensors(filepath.Join(dir, "unet", "diffusion_pytorch_model.safetensors"), weights, torch.SaveOptions{}))
	return dir
}

// The images of a directory are those of diffusers' ConsistencyModelPipeline, DDPMPipeline and DDIMPipeline with generators of the same seeds.
// The tolerance is for float32 in another order, after up to 40 evaluations of a network with random weights.
func TestPipelines(t *testing.T) {
	const tolerance = 1e-4
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		want, meta := torchtest.Golden(t, s, filepath.Join("testdata", "pipelines.safetensors"))
		var cases []pipelineCase
		require.NoError(t, json.Unmarshal([]byte(meta["cases"]), &cases))
		require.Len(t, cases, len(want))
		for i, c := range cases {
			t.Run(fmt.Sprintf("%s_%d", c.Kind, i), func(t *testing.T) {
				f, err := checkpoint.OpenFile(drawn(t, s, meta, c.Net, c.Scheduler), torch.CPU)
				require.NoError(t, err)
				defer f.Close()
				m, err := FromFile(f)
				require.NoError(t, err)
				p := m.of.(pixels)
				r := Request{N: 2, Seed: 5, Batch: 2, Steps: c.Steps, Timesteps: c.Timesteps}
				if c.Net == "adm" {
					r.Labels = []int{2, 0}
				}
				var run course
				if c.Kind == "cm" {
					r.Sampler = multistep
					run, err = p.few(&r)
				} else {
					config, ok := p.description.Chain()
					require.True(t, ok)
					spacing := config.Spacing
					if spacing == "" {
						spacing = "leading"
					}
					r.Sampler = c.Kind + "_" + spacing
					run, err = p.discrete(&r)
					if c.Eta > 0 {
						run, err = over(p.denoiser.(*models.DDPM), config, scheduler.DDIM{Eta: c.Eta}, scheduler.Options{Steps: c.Steps})
					}
				}
				require.NoError(t, err)
				if run.start == 0 {
					run.start = run.levels[0]
				}
				var got *torch.Tensor
				require.NoError(t, s.Inference(func(inner *torch.Scope) error {
					x, err := p.points(context.Background(), inner, r, run, 0, 2, nil)
					if err == nil {
						got = x.DivScalar(inner, 2).AddScalar(inner, 0.5).Clamp(inner, 0, 1).Share(s)
					}
					return err
				}))
				torchtest.Close(t, "images", got, want[fmt.Sprint(i)], tolerance, 0)
			})
		}
		return nil
	}))
}

// A request for a published model: the default steps are the pipeline's, timesteps are the numbers of its noise levels, and options that do
// not fit are named.
func TestPublishedRequests(t *testing.T) {
	ctx := context.Background()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		_, meta := torchtest.Golden(t, s, filepath.Join("testdata", "pipelines.safetensors"))
		open := func(net, config string) *Model {
			m, err := Open(drawn(t, s, meta, net, []byte(config)), sd.Options{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, m.Close()) })
			return m
		}
		cm := open("adm", `{"_class_name": "CMStochasticIterativeScheduler"}`)
		plan := func(m *Model, r Request) *Plan {
			p, err := m.Plan(ctx, r)
			require.NoError(t, err)
			p.Close()
			return p
		}
		require.Equal(t, []float64{80}, plan(cm, Request{}).Times)
		require.InDeltaSlice(t, []float64{80, 1.382}, plan(cm, Request{Timesteps: []int{22, 0}}).Times, 1e-3)
		require.Equal(t, []float64{80, 2}, plan(cm, Request{Times: []float64{80, 2}}).Times)

		ddpm := open("ddpm", `{"_class_name": "DDPMScheduler", "timestep_spacing": "trailing"}`)
		byDefault := plan(ddpm, Request{})
		require.Equal(t, "heun", byDefault.Sampler)
		require.Contains(t, strings.Join(byDefault.Notices, "\n"), "ddpm_trailing")
		require.InEpsilon(t, noise.Default().Sigma(999), byDefault.Times[0], 1e-9)
		require.Equal(t, 1000, plan(ddpm, Request{Sampler: "ddpm_leading"}).Evaluations)
		require.Equal(t, 50, plan(ddpm, Request{Sampler: "ddim_trailing"}).Evaluations)
		require.Equal(t, []float64{700, 3}, plan(ddpm, Request{Sampler: "ddim_leading", Timesteps: []int{700, 3}}).Timesteps)

		for _, c := range []struct {
			of    *Model
			r     Request
			field string
		}{
			{cm, Request{Steps: 41}, "Steps"},
			{cm, Request{Timesteps: []int{40}}, "Timesteps"},
			{cm, Request{Timesteps: []int{0, 22}}, "Timesteps"},
			{cm, Request{Timesteps: []int{22, 0}, Steps: 3}, "Timesteps"},
			{cm, Request{Timesteps: []int{22, 0}, Times: []float64{80}}, "Timesteps"},
			{cm, Request{Sampler: "ddim_leading"}, "Sampler"},
			{ddpm, Request{Timesteps: []int{3}}, "Timesteps"},
			{ddpm, Request{Sampler: "ddim_leading", Times: []float64{3}}, "Times"},
			{ddpm, Request{Sampler: "ddim_leading", Guidance: 2}, "Guidance"},
			{ddpm, Request{Sampler: "ddpm_leading", Timesteps: []int{3, 5}}, "Steps"},
			{ddpm, Request{Sampler: "ddpm_leadin"}, "Sampler"},
			{ddpm, Request{Labels: []int{0}}, "Labels"},
		} {
			_, err := c.of.Plan(ctx, c.r)
			var wrong *RequestError
			require.ErrorAs(t, err, &wrong, c.r)
			require.Equal(t, c.field, wrong.Field, c.r)
		}
		return nil
	}))
}
