package generate_test

import (
	"image"
	"image/color"
	"image/draw"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/edit"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// pattern is an opaque image with all kinds of colours.
func pattern(w, h int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		x, y := i%w, i/w
		m.SetRGBA(x, y, color.RGBA{uint8(255 * x / w), uint8(255 * y / h), uint8(40 * (x + y)), 255})
	}
	return m
}

// half is a mask that is white on the right.
func half(w, h int) *image.Gray {
	m := image.NewGray(image.Rect(0, 0, w, h))
	draw.Draw(m, image.Rect(w/2, 0, w, h), image.White, image.Point{}, draw.Src)
	return m
}

func consistency(t *testing.T) string {
	return saved(t, network.Config{Net: unet.Config{Resolution: 8, Channels: 8, Mult: []int{1}, Blocks: 1, Classes: 3}},
		func(net network.Network) any { return &models.Consistency{Net: net} })
}

// Every task is what package edit computes with the model of the same file, the same seeds and the plan's levels.
func TestEdit(t *testing.T) {
	img, mask := pattern(8, 8), half(8, 8)
	small := vision.Resize(img, 4, 4, vision.Bicubic)
	few, many := consistency(t), denoiser(t)
	for _, c := range []struct {
		name string
		path string
		r    generate.Request
		e    generate.Edit
		make func(s *torch.Scope, y *torch.Tensor) (edit.Edit, error)

		sampler     string
		times       []float64
		evaluations int
	}{
		{"inpaint", few, generate.Request{Steps: 4}, generate.Edit{Task: generate.Inpaint, Image: img, Mask: mask},
			func(s *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Inpaint(y, right(s)), nil },
			"multistep", edit.Levels(80, 4), 4},
		{"colorize", few, generate.Request{Times: []float64{70, 2}}, generate.Edit{Task: generate.Colorize, Image: img},
			func(s *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Colorize(s, y), nil }, "multistep", []float64{70, 2}, 2},
		{"superres", few, generate.Request{}, generate.Edit{Task: generate.Superresolve, Image: small},
			func(s *torch.Scope, _ *torch.Tensor) (edit.Edit, error) {
				y, err := vision.FromImages(s, 3, small)
				require.NoError(t, err)
				return edit.Superresolve(s, edit.Enlarge(s, y, 2), 2)
			}, "multistep", edit.Levels(80, 40), 40},
		{"superres of a large one", few, generate.Request{Steps: 2}, generate.Edit{Task: generate.Superresolve, Image: img, Factor: 4},
			func(s *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Superresolve(s, y, 4) }, "multistep", edit.Levels(80, 2), 2},
		{"stroke", few, generate.Request{}, generate.Edit{Task: generate.Stroke, Image: img, Sigma: 5.38},
			func(_ *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Stroke(y), nil }, "multistep", []float64{5.38, 2.24}, 2},
		{"stroke at its default", few, generate.Request{}, generate.Edit{Task: generate.Stroke, Image: img},
			func(_ *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Stroke(y), nil }, "multistep", []float64{5.38 / 32, 2.24 / 32}, 2},
		{"denoise", few, generate.Request{}, generate.Edit{Task: generate.Denoise, Image: img, Sigma: 0.3},
			func(_ *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Denoise(y), nil }, "multistep", []float64{0.3}, 1},
		{"jumps", jumps(t), generate.Request{Steps: 3}, generate.Edit{Task: generate.Inpaint, Image: img, Mask: mask},
			func(s *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Inpaint(y, right(s)), nil }, "multistep", edit.Levels(80, 3), 3},
		{"denoiser", many, generate.Request{Steps: 4, Sampler: "euler"}, generate.Edit{Task: generate.Inpaint, Image: img, Mask: mask},
			func(s *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Inpaint(y, right(s)), nil }, "euler", edit.Levels(80, 4), 4},
		{"denoiser by default", many, generate.Request{}, generate.Edit{Task: generate.Inpaint, Image: img, Mask: mask},
			func(s *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Inpaint(y, right(s)), nil }, "dpmpp_2s_a", edit.Levels(80, 18), 35},
		{"stroke by a denoiser", many, generate.Request{Steps: 4, Sampler: "euler"}, generate.Edit{Task: generate.Stroke, Image: img, Sigma: 2},
			func(_ *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Stroke(y), nil }, "euler", noise.Karras(4, 2, 0.002, 7), 4},
		{"denoise by a denoiser", many, generate.Request{}, generate.Edit{Task: generate.Denoise, Image: img, Sigma: 0.3},
			func(_ *torch.Scope, y *torch.Tensor) (edit.Edit, error) { return edit.Denoise(y), nil }, "heun", []float64{0.3}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t, c.path)
			c.r.Edit, c.r.N, c.r.Seed, c.r.Batch = &c.e, 3, 40, 2
			plan, err := m.Plan(ctx, c.r)
			require.NoError(t, err)
			defer plan.Close()
			require.Equal(t, c.sampler, plan.Sampler)
			require.InDeltaSlice(t, c.times, plan.Times, 1e-12)
			require.Equal(t, c.evaluations, plan.Evaluations)
			require.Len(t, plan.Given, 1)
			require.Equal(t, image.Pt(8, 8), plan.Given[0].Bounds().Size())

			f, err := checkpoint.OpenFile(c.path, torch.CPU)
			require.NoError(t, err)
			defer f.Close()
			var want []image.Image
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				for _, seeds := range [][]uint64{{40, 41}, {42}} { // batches
					o := sampling.Options{Streams: noise.NewStreams(s, seeds...), Levels: append(append([]float64{}, plan.Times...), 0)}
					if f.Description.Network.Classes() > 0 {
						var labels []int64
						for _, seed := range seeds {
							labels = append(labels, int64(seed%3))
						}
						o.Cond.Class = torch.FromSlice(s, labels)
					}
					y, err := vision.FromImages(s, 3, img)
					require.NoError(t, err)
					e, err := c.make(s, y)
					require.NoError(t, err)
					var x *torch.Tensor
					if by, err := sampling.Named(c.sampler); err == nil {
						x, err = e.SampleDenoiser(ctx, s, f.Function().(models.Denoiser), by, o)
						require.NoError(t, err)
					} else {
						x, err = e.Sample(ctx, s, f.Function().(models.ConsistencyFunction), sampling.Multistep{}, o)
						require.NoError(t, err)
					}
					some, err := vision.ToImages(x)
					require.NoError(t, err)
					want = append(want, some...)
				}
				return nil
			}))
			got := all(t, m, c.r)
			require.Equal(t, want, pictures(got))
			for i, img := range got {
				require.Equal(t, uint64(40+i), img.Seed)
				require.Contains(t, img.Texts[1].Value, `"task":"`+string(c.e.Task)+`"`)
			}
		})
	}
}

// right is the mask of the right half of 8×8 images.
func right(s *torch.Scope) *torch.Tensor {
	return torch.Cat(s, []*torch.Tensor{torch.Zeros(s, torch.Float32, 1, 1, 8, 4), torch.Ones(s, torch.Float32, 1, 1, 8, 4)}, 3)
}

// Pixels that are not repainted are those of the input image, of any model, colour and size; and what is seen of it is grey where it is.
func TestEditKeeps(t *testing.T) {
	for _, path := range []string{consistency(t), denoiser(t), jumps(t)} {
		m := open(t, path)
		img := pattern(8, 8)
		r := generate.Request{Steps: 3, Edit: &generate.Edit{Task: generate.Inpaint, Image: img, Mask: half(8, 8)}}
		for _, got := range append(pictures(all(t, m, r)), planned(t, m, r).Given...) {
			for i := range 32 {
				x, y := i%4, i/4
				require.Equal(t, color.RGBAModel.Convert(img.At(x, y)), color.RGBAModel.Convert(got.At(x, y)))
			}
		}
		require.Equal(t, color.RGBA{128, 128, 128, 255}, color.RGBAModel.Convert(planned(t, m, r).Given[0].At(7, 0)))
	}
}

func planned(t *testing.T, m *generate.Model, r generate.Request) *generate.Plan {
	t.Helper()
	p, err := m.Plan(ctx, r)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

// An interpolation begins with the image of its seed and ends with that of the other, whatever the batch, and has the classes of the first.
func TestInterpolate(t *testing.T) {
	m := open(t, consistency(t))
	e := &generate.Edit{Task: generate.Interpolate, Seed2: new(uint64(9))}
	got := all(t, m, generate.Request{N: 5, Seed: 3, Batch: 2, Labels: []int{1}, Edit: e})
	require.Len(t, got, 5)
	end := func(seed uint64) image.Image {
		return all(t, m, generate.Request{Seed: seed, Labels: []int{1}})[0].Image
	}
	require.LessOrEqual(t, apart(got[0].Image, end(3)), 1)
	require.LessOrEqual(t, apart(got[4].Image, end(9)), 1)
	require.Greater(t, apart(got[2].Image, end(3)), 8)
	for i, img := range got {
		require.Equal(t, 1, img.Label)
		require.Contains(t, img.Texts[1].Value, `"n":5,"seed":3,"task":"interpolate","seed2":9,"frame":`+string(rune('0'+i)))
	}
	require.Len(t, all(t, m, generate.Request{Edit: &generate.Edit{Task: generate.Interpolate}}), 8)

	// Between images: with hardly any noise, the ends are the images themselves.
	a, b := pattern(8, 8), half(8, 8)
	plan := planned(t, m, generate.Request{N: 3, Edit: &generate.Edit{Task: generate.Interpolate, Image: a, Image2: b, Sigma: 0.00201}})
	require.Len(t, plan.Given, 2)
	var images []image.Image
	for img, err := range plan.Images(ctx) {
		require.NoError(t, err)
		images = append(images, img.Image)
	}
	require.LessOrEqual(t, apart(images[0], a), 2)
	require.LessOrEqual(t, apart(images[2], b), 2)
}

// apart is the largest difference of two images' levels.
func apart(a, b image.Image) int {
	worst := 0
	for i := range a.Bounds().Dx() * a.Bounds().Dy() {
		x, y := i%a.Bounds().Dx(), i/a.Bounds().Dx()
		p, q := color.RGBAModel.Convert(a.At(x, y)).(color.RGBA), color.RGBAModel.Convert(b.At(x, y)).(color.RGBA)
		for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B)} {
			worst = max(worst, d, -d)
		}
	}
	return worst
}

// What is changed of the inputs is said, and inputs that do not fit are refused by the field that is wrong.
func TestEditInputs(t *testing.T) {
	m := open(t, consistency(t))
	transparent := image.NewNRGBA(image.Rect(0, 0, 8, 8))
	shaded := half(8, 8)
	shaded.SetGray(0, 0, color.Gray{100})
	all := image.NewGray(image.Rect(0, 0, 8, 8))
	draw.Draw(all, all.Rect, image.White, image.Point{}, draw.Src)
	grey := image.NewGray(image.Rect(0, 0, 8, 8))
	for _, c := range []struct {
		e    generate.Edit
		want []string // parts of notices
	}{
		{generate.Edit{Task: generate.Colorize, Image: grey}, nil},
		{generate.Edit{Task: generate.Colorize, Image: pattern(8, 8)}, []string{"luminance"}},
		{generate.Edit{Task: generate.Stroke, Image: pattern(20, 12)}, []string{"12×12", "20×12", "8×8"}},
		{generate.Edit{Task: generate.Stroke, Image: pattern(8, 30)}, []string{"cropped", "8×30"}},
		{generate.Edit{Task: generate.Stroke, Image: transparent}, []string{"transparent"}},
		{generate.Edit{Task: generate.Inpaint, Image: pattern(20, 12), Mask: half(20, 12)}, []string{"12×12"}},
		{generate.Edit{Task: generate.Inpaint, Image: pattern(8, 8), Mask: shaded}, []string{"shades"}},
		{generate.Edit{Task: generate.Inpaint, Image: pattern(8, 8), Mask: all}, []string{"everywhere"}},
		{generate.Edit{Task: generate.Superresolve, Image: pattern(50, 50), Factor: 2}, []string{"50×50", "4×4", "8×8"}},
	} {
		p := planned(t, m, generate.Request{Edit: &c.e})
		all := strings.Join(p.Notices, "\n")
		for _, want := range c.want {
			require.Contains(t, all, want, "%v", c.e.Task)
		}
		require.Equal(t, c.want == nil, len(p.Notices) == 0, all)
	}

	p := planned(t, m, generate.Request{N: 2, Labels: []int{1}, Edit: &generate.Edit{Task: generate.Denoise, Image: grey, Sigma: 1}})
	require.Contains(t, strings.Join(p.Notices, "\n"), "the same")
	one := saved(t, network.Config{Net: mlp.Config{Shape: []int{1, 8, 8}, Width: 16, Depth: 1}}, func(net network.Network) any { return &models.Consistency{Net: net} })
	gray := open(t, one)
	for _, c := range []struct {
		m     *generate.Model
		field string
		r     generate.Request
		e     generate.Edit
		want  string
	}{
		{m, "Task", generate.Request{}, generate.Edit{Task: "paint"}, "inpaint"},
		{m, "Image", generate.Request{}, generate.Edit{Task: generate.Stroke}, "input image"},
		{m, "Mask", generate.Request{}, generate.Edit{Task: generate.Inpaint, Image: grey}, "white"},
		{m, "Mask", generate.Request{}, generate.Edit{Task: generate.Inpaint, Image: grey, Mask: half(9, 8)}, "9×8"},
		{m, "Mask", generate.Request{}, generate.Edit{Task: generate.Inpaint, Image: grey, Mask: grey}, "no pixel is white"},
		{m, "Mask", generate.Request{}, generate.Edit{Task: generate.Stroke, Image: grey, Mask: grey}, "inpaint"},
		{m, "Factor", generate.Request{}, generate.Edit{Task: generate.Stroke, Image: grey, Factor: 2}, "superres"},
		{m, "Factor", generate.Request{}, generate.Edit{Task: generate.Superresolve, Image: grey}, "2, 4, 8"},
		{m, "Factor", generate.Request{}, generate.Edit{Task: generate.Superresolve, Image: pattern(5, 5)}, "5×5"},
		{m, "Factor", generate.Request{}, generate.Edit{Task: generate.Superresolve, Image: grey, Factor: 3}, "2, 4, 8"},
		{m, "Sigma", generate.Request{}, generate.Edit{Task: generate.Denoise, Image: grey}, "127.5"},
		{m, "Sigma", generate.Request{}, generate.Edit{Task: generate.Denoise, Image: grey, Sigma: 81}, "80"},
		{m, "Sigma", generate.Request{}, generate.Edit{Task: generate.Denoise, Image: grey, Sigma: 0.002}, "0.002"},
		{m, "Sigma", generate.Request{}, generate.Edit{Task: generate.Denoise, Image: grey, Sigma: math.NaN()}, "NaN"},
		{m, "Sigma", generate.Request{}, generate.Edit{Task: generate.Colorize, Image: grey, Sigma: 1}, "noise level"},
		{m, "Sigma", generate.Request{Times: []float64{2, 1}}, generate.Edit{Task: generate.Stroke, Image: grey, Sigma: 1}, "one of them"},
		{m, "Seed2", generate.Request{}, generate.Edit{Task: generate.Stroke, Image: grey, Seed2: new(uint64(1))}, "interpolate"},
		{m, "Image2", generate.Request{}, generate.Edit{Task: generate.Interpolate, Image: grey}, "two input images"},
		{m, "Seed2", generate.Request{}, generate.Edit{Task: generate.Interpolate, Image: grey, Image2: grey, Seed2: new(uint64(1))}, "one seed"},
		{m, "N", generate.Request{N: 1}, generate.Edit{Task: generate.Interpolate}, "at least 2"},
		{m, "Labels", generate.Request{Labels: []int{0, 1}}, generate.Edit{Task: generate.Interpolate}, "one class"},
		{m, "Times", generate.Request{Times: []float64{81}}, generate.Edit{Task: generate.Stroke, Image: grey}, "80"},
		{gray, "Task", generate.Request{}, generate.Edit{Task: generate.Colorize, Image: grey}, "grey"},
		{open(t, jumps(t)), "Sampler", generate.Request{Sampler: "ctm"}, generate.Edit{Task: generate.Stroke, Image: grey}, "multistep"},
		{open(t, tests+"/sd/sd15"), "Edit", generate.Request{Prompts: []string{""}}, generate.Edit{Task: generate.Stroke, Image: grey}, "pixel-space"},
	} {
		c.r.Edit = &c.e
		_, err := c.m.Plan(ctx, c.r)
		var wrong *generate.RequestError
		require.ErrorAs(t, err, &wrong, "%+v", c.e)
		require.Equal(t, c.field, wrong.Field, wrong.Msg)
		require.Contains(t, wrong.Msg, c.want)
	}
}

// Grey models edit grey images, and say that they do not use colours.
func TestEditGrey(t *testing.T) {
	m := open(t, saved(t, network.Config{Net: mlp.Config{Shape: []int{1, 8, 8}, Width: 16, Depth: 1}}, func(net network.Network) any { return &models.Consistency{Net: net} }))
	for _, e := range []generate.Edit{{Task: generate.Superresolve, Image: pattern(4, 4)}, {Task: generate.Inpaint, Image: pattern(8, 8), Mask: half(8, 8)}} {
		r := generate.Request{Steps: 2, Edit: &e}
		require.Contains(t, strings.Join(planned(t, m, r).Notices, "\n"), "grey")
		require.IsType(t, &image.Gray{}, all(t, m, r)[0].Image)
	}
}
