package texttoimage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// LCM and TCD take the grid of timesteps that an adapter was distilled on, also one of a prompt's tag, unless another is given, and say so.
// Other samplers have none.
func TestAdaptersGrid(t *testing.T) {
	m := openTiny(t, sd.Options{})
	tagged := func(grids ...int) func([]prompt.LoRA) (sd.Adaptation, error) {
		return func([]prompt.LoRA) (sd.Adaptation, error) { return sd.Adaptation{Grids: grids}, nil }
	}
	of50, of10, of8 := []float64{999, 759, 499, 259}, []float64{999, 799, 499, 299}, []float64{999, 749, 499, 249}
	for name, c := range map[string]struct {
		p      texttoimage.Pipeline
		prompt string
		want   []float64
		notice string // what one contains; "": there is none on grids
	}{
		"none":           {texttoimage.Pipeline{Method: scheduler.LCM{}, Steps: 4}, "a cat", of50, ""},
		"adapter":        {texttoimage.Pipeline{Method: scheduler.LCM{}, Steps: 4, Grids: []int{0, 10}}, "a cat", of10, "10"},
		"tcd":            {texttoimage.Pipeline{Method: scheduler.TCD{}, Steps: 4, Grids: []int{10}}, "a cat", of10, "10"},
		"tag":            {texttoimage.Pipeline{Method: scheduler.LCM{}, Steps: 4, Tagged: tagged(10)}, "a cat <lora:x:1>", of10, "10"},
		"usual":          {texttoimage.Pipeline{Method: scheduler.LCM{}, Steps: 4, Grids: []int{50, 50}}, "a cat", of50, ""},
		"given":          {texttoimage.Pipeline{Method: scheduler.LCM{}, Steps: 4, OriginalSteps: 8, Grids: []int{10}}, "a cat", of8, "8"},
		"given as it is": {texttoimage.Pipeline{Method: scheduler.LCM{}, Steps: 4, OriginalSteps: 10, Grids: []int{10}}, "a cat", of10, ""},
		"two":            {texttoimage.Pipeline{Method: scheduler.LCM{}, Steps: 4, Grids: []int{10}, Tagged: tagged(50)}, "a cat <lora:x:1>", of10, "[10 50]"},
		"fewer than 4":   {texttoimage.Pipeline{Method: scheduler.LCM{}, Grids: []int{2}}, "a cat", []float64{999, 499}, "2"},
		"other sampler":  {texttoimage.Pipeline{Method: scheduler.DDIM{}, Steps: 1, Grids: []int{10}}, "a cat", nil, ""},
	} {
		c.p.Model, c.p.Guidance = m, 1
		plan, err := c.p.Plan(c.prompt)
		require.NoError(t, err, name)
		if c.want != nil {
			require.Equal(t, c.want, plan.Timesteps, name)
		}
		notices := joinNotices(plan.Notices)
		if c.notice == "" {
			require.NotContains(t, notices, "grid", name)
		} else {
			require.Contains(t, notices, c.notice, name)
			require.Contains(t, notices, "grid", name)
		}
	}
	p := texttoimage.Pipeline{Model: m, Method: scheduler.LCM{}, Steps: 11, Grids: []int{10}}
	_, err := p.Plan("a cat")
	var bad *texttoimage.OptionError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, "Steps", bad.Option)
}

// Adapters of phased and of trajectory consistency, also those of a prompt's tag, are for the sampler tcd: with others there is a notice.
func TestAdaptersSampler(t *testing.T) {
	m := openTiny(t, sd.Options{})
	phased, trajectory := sd.AdapterRun{Command: "train-lcm", Phases: 4}, sd.AdapterRun{Command: "train-lcm", Trajectory: true}
	for _, c := range []struct {
		method scheduler.Method
		run    sd.AdapterRun
		want   string // "": no notice
	}{
		{scheduler.LCM{}, phased, "trained for 4 sampling steps with the sampler tcd and eta 0; the sampler here is lcm"},
		{scheduler.DDIM{}, trajectory, "trained for the sampler tcd; the sampler here is ddim"},
		{scheduler.TCD{}, phased, ""}, {scheduler.TCD{Eta: 0.3}, trajectory, ""}, {scheduler.LCM{}, sd.AdapterRun{Command: "train-lcm"}, ""},
	} {
		for _, p := range []texttoimage.Pipeline{
			{Runs: []sd.AdapterRun{{}, c.run}},
			{Tagged: func([]prompt.LoRA) (sd.Adaptation, error) { return sd.Adaptation{Runs: []sd.AdapterRun{c.run}}, nil }},
		} {
			p.Model, p.Method, p.Steps, p.Guidance = m, c.method, 4, 1
			text := "a cat"
			if p.Tagged != nil {
				text = "a cat <lora:x:1>"
			}
			plan, err := p.Plan(text)
			require.NoError(t, err)
			if c.want == "" {
				require.NotContains(t, joinNotices(plan.Notices), "trained for")
			} else {
				require.Contains(t, joinNotices(plan.Notices), c.want)
			}
		}
	}
}
