package engine

import (
	"image"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
)

// profileWith is that of a pixel-space model of f over an mlp.
func profileWith(t *testing.T, c mlp.Config, f func(net network.Network) any, change func(d *checkpoint.Description)) *profile {
	t.Helper()
	net, err := network.New(network.Config{Net: c}.WithDefaults(), torch.CPU, torch.Float32, 1)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	d, err := checkpoint.Describe(f(net))
	require.NoError(t, err)
	if change != nil {
		change(&d)
	}
	m, err := generate.FromFunction(f(net), d, net, "x")
	require.NoError(t, err)
	p, err := profileOf(m)
	require.NoError(t, err)
	return p
}

func consistency(net network.Network) any { return &models.Consistency{Net: net} }
func edm(net network.Network) any         { return &models.EDM{Net: net} }

var someOptions, _ = Options{Models: []Model{{Name: "x", Open: func() (*generate.Model, error) { return nil, nil }}}}.withDefaults()

func classes(d *checkpoint.Description) {
	d.ClassNames = []string{"cat face", "dog", "Animals & Nature", "dog house"}
}

// What is changed or not used is said, what cannot work is refused.
func TestResolve(t *testing.T) {
	small := mlp.Config{Shape: []int{3, 8, 8}, Width: 4, Depth: 1}
	labelled := small
	labelled.Classes = 4
	one := profileWith(t, small, consistency, nil)
	few := profileWith(t, labelled, consistency, classes)
	many := profileWith(t, labelled, edm, classes)
	plain := profileWith(t, small, edm, nil)
	blank := image.NewGray(image.Rect(0, 0, 40, 20))
	sd1 := &profile{Info: Info{Kind: "Stable Diffusion 1", Width: 512, Height: 512, Steps: 25, Prompts: true, Images: true, Guided: true}, factor: 8}
	lcm := &profile{Info: Info{Width: 512, Height: 512, Steps: 4, Images: true, Guided: true}, factor: 8, few: true, distilled: true, scales: weights.Scales{Min: 3, Max: 13}}
	for name, c := range map[string]struct {
		p      *profile
		r      Request
		want   func(is *resolved)
		notice []string // words of each
		field  string   // of an error
	}{
		"nothing":                 {p: one, want: func(is *resolved) { is.as.Width, is.as.Height = 8, 8 }},
		"a prompt without use":    {p: one, r: Request{Prompt: "a cat", Negative: "bad", LoRAs: []prompt.LoRA{{Name: "x"}}}, notice: []string{"prompt", "negative", "adapters"}},
		"labels without use":      {p: one, r: Request{Labels: []int{7}}, notice: []string{"labels"}},
		"steps of a few-step":     {p: one, r: Request{Steps: 20}, want: func(is *resolved) { is.Steps = 8 }, notice: []string{"20 steps"}},
		"its guidance":            {p: one, r: Request{Guidance: 7.5}, notice: []string{"7.5"}},
		"no guidance":             {p: one, r: Request{Guidance: 1}, want: func(is *resolved) { is.Guidance = 1 }},
		"other sampler":           {p: one, r: Request{Sampler: "DPM++ 2M Karras"}, notice: []string{"Karras"}},
		"another model's sampler": {p: one, r: Request{Sampler: "heun"}, notice: []string{"heun"}},
		"unknown sampler":         {p: one, r: Request{Sampler: "hoin"}, field: "Sampler"},
		"too many images":         {p: one, r: Request{N: 100}, want: func(is *resolved) { is.N = 16 }, notice: []string{"100 images"}},
		"no seeds left":           {p: one, r: Request{Seed: new(uint64(math.MaxUint64)), N: 2}, field: "Seed"},
		"resized":                 {p: one, r: Request{Width: 1024, Height: 1024}, want: func(is *resolved) { is.as.Width, is.as.Height = 1024, 1024 }, notice: []string{"8×8"}},
		"other proportions":       {p: one, r: Request{Width: 1024, Height: 768}, want: func(is *resolved) { is.as.Width, is.as.Height = 768, 768 }, notice: []string{"1024×768", "resized"}},
		"too large":               {p: one, r: Request{Width: 4096, Height: 4096}, want: func(is *resolved) { is.as.Width, is.as.Height = 1024, 1024 }, notice: []string{"1048576", "resized"}},
		"one side":                {p: one, r: Request{Height: 16}, want: func(is *resolved) { is.as.Width, is.as.Height = 16, 16 }, notice: []string{"16×16"}},

		"class":              {p: few, r: Request{Prompt: "dog"}, want: func(is *resolved) { is.Labels = []int{1} }},
		"class by number":    {p: few, r: Request{Prompt: "3"}, want: func(is *resolved) { is.Labels = []int{3} }},
		"class in part":      {p: few, r: Request{Prompt: "Animals"}, want: func(is *resolved) { is.Labels = []int{2} }},
		"class in half":      {p: few, r: Request{Prompt: "natu"}, want: func(is *resolved) { is.Labels = []int{2} }},
		"class in a prompt":  {p: few, r: Request{Prompt: "a photo of a cat face, 4k"}, want: func(is *resolved) { is.Labels = []int{0} }, notice: []string{"cat face"}},
		"two classes":        {p: few, r: Request{Prompt: "a cat face and a dog"}, field: "Prompt"},
		"mistyped class":     {p: few, r: Request{Prompt: "dgo"}, field: "Prompt"},
		"number of no class": {p: few, r: Request{Prompt: "4"}, field: "Prompt"},
		"label of no class":  {p: few, r: Request{Labels: []int{0, 4}}, field: "Labels"},
		"labels and prompt":  {p: few, r: Request{Labels: []int{0, 3}, Prompt: "dog"}, want: func(is *resolved) { is.Labels = []int{0, 3} }, notice: []string{"prompt"}},
		"tag":                {p: few, r: Request{Prompt: "dog <lora:ink:0.5>"}, want: func(is *resolved) { is.Labels = []int{1} }, notice: []string{"<lora:ink:0.5>"}},
		"stroke":             {p: few, r: Request{Init: blank}, want: func(is *resolved) { is.Edit = &generate.Edit{Task: generate.Stroke, Image: blank} }},
		"strong stroke":      {p: few, r: Request{Init: blank, Strength: 1}, want: func(is *resolved) { is.Edit = &generate.Edit{Task: generate.Stroke, Image: blank, Sigma: 80} }},
		"inpainting": {p: few, r: Request{Init: blank, Mask: blank, Strength: 0.5}, notice: []string{"strength"}, want: func(is *resolved) {
			is.Edit, is.Steps = &generate.Edit{Task: generate.Inpaint, Image: blank, Mask: blank}, 40
		}},
		"inpainting in 20 steps": {p: few, r: Request{Init: blank, Mask: blank, Steps: 20}, want: func(is *resolved) {
			is.Edit, is.Steps = &generate.Edit{Task: generate.Inpaint, Image: blank, Mask: blank}, 20
		}},
		"strength alone": {p: few, r: Request{Strength: 0.5}, notice: []string{"strength"}},

		"many steps":        {p: many, r: Request{Steps: 40, Sampler: "Euler a"}, want: func(is *resolved) { is.Steps, is.Sampler = 40, "euler_a" }},
		"more than allowed": {p: many, r: Request{Steps: 400}, want: func(is *resolved) { is.Steps = 50 }, notice: []string{"400"}},
		"guidance":          {p: many, r: Request{Guidance: 3}, want: func(is *resolved) { is.Guidance = 3 }},
		"without classes":   {p: plain, r: Request{Guidance: 3}, notice: []string{"guidance scale 3"}},

		"512":              {p: sd1, r: Request{Prompt: "a cat"}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height = 512, 512, 512, 512 }},
		"1024":             {p: sd1, r: Request{Width: 1024, Height: 1024}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height = 512, 512, 1024, 1024 }, notice: []string{"512×512"}},
		"1360×768":         {p: sd1, r: Request{Width: 1360, Height: 768}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height = 680, 384, 1360, 768 }, notice: []string{"680×384"}},
		"768":              {p: sd1, r: Request{Width: 768, Height: 768}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height = 768, 768, 768, 768 }},
		"501":              {p: sd1, r: Request{Width: 501, Height: 501}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height = 504, 504, 501, 501 }, notice: []string{"504×504"}},
		"a side of 1":      {p: sd1, r: Request{Width: 1, Height: 1}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height = 8, 8, 1, 1 }, notice: []string{"8×8"}},
		"labels of no use": {p: sd1, r: Request{Labels: []int{1}}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height = 512, 512, 512, 512 }, notice: []string{"labels"}},
		"scale of lcm": {p: sd1, r: Request{Sampler: "lcm", Guidance: 7.5, Steps: 30}, want: func(is *resolved) {
			is.Width, is.Height, is.as.Width, is.as.Height, is.Sampler, is.Steps = 512, 512, 512, 512, "lcm", 8
		}, notice: []string{"30 steps", "7.5"}},
		"of a distilled": {p: lcm, r: Request{Guidance: 20, Steps: 5}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height, is.Steps = 512, 512, 512, 512, 5 }, notice: []string{"13"}},
		"fitting": {p: lcm, r: Request{Guidance: 8}, want: func(is *resolved) {
			is.Width, is.Height, is.as.Width, is.as.Height, is.Guidance = 512, 512, 512, 512, 8
		}},
		"pixel sampler":  {p: sd1, r: Request{Sampler: "multistep"}, want: func(is *resolved) { is.Width, is.Height, is.as.Width, is.as.Height = 512, 512, 512, 512 }, notice: []string{"multistep"}},
		"no sampler":     {p: sd1, r: Request{Sampler: "dpmxx"}, field: "Sampler"},
		"no adapters":    {p: sd1, r: Request{Prompt: "a <lora:ink:1>"}, field: "Prompt"},
		"many adapters":  {p: sd1, r: Request{Prompt: strings.Repeat("<lora:ink:1>", 17)}, field: "Prompt"},
		"of the request": {p: sd1, r: Request{LoRAs: []prompt.LoRA{{Name: "ink", Weight: 1}}}, field: "LoRAs"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.r.Seed == nil {
				c.r.Seed = new(uint64(3))
			}
			require.NoError(t, c.r.validate())
			got, err := c.p.resolve(c.r, someOptions)
			if c.field != "" {
				var refused *RequestError
				require.ErrorAs(t, err, &refused)
				require.Equal(t, c.field, refused.Field)
				return
			}
			require.NoError(t, err)
			require.Len(t, got.as.Notices, len(c.notice), "%q", got.as.Notices)
			for i, word := range c.notice {
				require.Contains(t, got.as.Notices[i], word)
			}
			want := resolved{Request: generate.Request{N: 1, Seed: 3, Batch: got.Batch}, key: got.key}
			want.as.Width, want.as.Height, want.as.Notices = got.as.Width, got.as.Height, got.as.Notices
			if c.p.pixels == nil {
				want.Prompts = []string{c.r.Prompt}
			} else {
				want.as.Width, want.as.Height = 8, 8
			}
			if c.want != nil {
				c.want(&want)
			}
			want.LoRAs = got.LoRAs
			require.Equal(t, want, got)
			require.Equal(t, c.r.Init == nil, got.key != "")
		})
	}
	_, err := few.resolve(Request{Prompt: "dgo", Seed: new(uint64)}, someOptions)
	require.ErrorContains(t, err, "dog?")
	for _, r := range []Request{{Prompt: strings.Repeat("x", 10_001)}, {Negative: strings.Repeat("x", 10_001)}, {LoRAs: make([]prompt.LoRA, 17)}, {LoRAs: []prompt.LoRA{{Weight: math.NaN()}}}} {
		require.Error(t, r.validate())
	}
	r := Request{Init: blank, Mask: image.NewGray(image.Rect(0, 0, 7, 9))}
	require.NoError(t, r.validate())
	require.Equal(t, blank.Bounds().Size(), r.Mask.Bounds().Size())
}

// Images are batched up to a number of pixels.
func TestTogether(t *testing.T) {
	for _, c := range [][3]int{{32, 16, 16}, {64, 16, 16}, {128, 16, 4}, {256, 16, 1}, {512, 16, 1}, {32, 2, 2}} {
		require.Equal(t, c[2], together(image.Pt(c[0], c[0]), c[1]))
	}
}

// What a model is for, by default, is known from its description.
func TestProfile(t *testing.T) {
	small := mlp.Config{Shape: []int{3, 8, 8}, Width: 4, Depth: 1}
	for _, c := range []struct {
		p      *profile
		kind   string
		steps  int
		guided bool
	}{
		{profileWith(t, small, consistency, nil), "consistency model", 1, false},
		{profileWith(t, small, edm, nil), "denoiser", 18, false},
		{profileWith(t, small, edm, func(d *checkpoint.Description) { d.Levels = []float64{80, 5} }), "denoiser", 2, false},
		{profileWith(t, mlp.Config{Shape: []int{3, 8, 8}, Width: 4, Depth: 1, Classes: 2}, edm, nil), "denoiser", 18, true},
		{profileWith(t, mlp.Config{Shape: []int{3, 8, 8}, Width: 4, Depth: 1, Until: true}, func(net network.Network) any { return &models.Trajectory{Net: net} }, nil), "trajectory model", 1, false},
	} {
		require.Equal(t, []any{c.kind, c.steps, c.guided, true, false}, []any{c.p.Kind, c.p.Steps, c.p.Guided, c.p.Images, c.p.Prompts})
	}
}

// A strength that leaves no step is raised to that of one step.
func TestStrength(t *testing.T) {
	lcm := &profile{Info: Info{Steps: 4}, factor: 8, few: true}
	blank := image.NewGray(image.Rect(0, 0, 8, 8))
	for _, c := range []struct {
		r             Request
		steps         int
		sampler       string
		want, notices float64
	}{
		{Request{Strength: 0.3}, 0, "", 0.3, 0}, {Request{Strength: 0.05}, 0, "", 0.25, 1}, {Request{}, 1, "", 1, 1}, {Request{Strength: 0.75}, 1, "", 1, 1},
		{Request{Strength: LeastStrength}, 4, "", 0.25, 1}, {Request{Strength: 0.05}, 0, "ddim", 0.05, 0}, {Request{Mask: blank}, 1, "", 0, 0}, {Request{}, 4, "", 0, 0},
	} {
		var notices []string
		got := lcm.strength(c.r, c.steps, c.sampler, notes{&notices})
		require.InDelta(t, c.want, got, 1e-12, "%+v", c)
		require.Len(t, notices, int(c.notices), "%+v", c)
	}
	for steps := 1; steps < 100; steps++ {
		got := lcm.strength(Request{Strength: LeastStrength}, steps, "", notes{new([]string)})
		require.Equal(t, 1, int(float64(steps)*got), steps)
	}
}

// Classes by name or number are labels.
func TestClasses(t *testing.T) {
	few := profileWith(t, mlp.Config{Shape: []int{3, 8, 8}, Width: 4, Depth: 1, Classes: 4}, consistency, classes)
	resolve := func(names ...string) (resolved, error) {
		r := Request{Classes: names, Seed: new(uint64(1))}
		require.NoError(t, r.validate())
		return few.resolve(r, someOptions)
	}
	is, err := resolve("dog", "0", "Animals & Nature")
	require.NoError(t, err)
	require.Equal(t, []int{1, 0, 2}, is.Labels)
	for _, name := range []string{"dogs", "4", "-1", ""} {
		_, err = resolve("dog", name)
		var bad *RequestError
		require.ErrorAs(t, err, &bad, name)
		require.Equal(t, "Classes", bad.Field)
	}
	// What clients know of the model.
	require.Equal(t, []any{1, generate.StrokeSteps, generate.EditSteps, false, 0.0}, []any{few.Steps, few.InputSteps, few.MaskSteps, few.Negative, few.Guidance})
}
