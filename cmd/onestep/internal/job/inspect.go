package job

import (
	"context"
	"fmt"
	"image"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/sheet"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// Inspect holds the options for inspecting a model's predictions along sampling trajectories. Start from [DefaultInspect].
type Inspect struct {
	Model     string
	Teacher   string // denoiser whose trajectories are used; "": the model itself, or for a consistency function a sample with increasing noise
	N         int    // trajectories
	Columns   int    // noise levels
	Steps     int    // steps of Heun's method along the teacher's trajectory
	Seed      uint64
	Class     string  // a class by name or number; "": that of Label
	Label     int     // Unset: by the seed
	Guidance  float64 // guidance scale of the teacher, and of a student with a guidance embedding; 0 and 1: no guidance
	Device    string
	Threads   int
	Out       string
	Overwrite bool
	Force     bool // run even if the estimated memory exceeds what is available

	Note func(string) // receives notices; may be nil
}

// DefaultInspect returns the default options.
func DefaultInspect() Inspect {
	return Inspect{N: 4, Columns: 9, Steps: 40, Label: Unset, Device: "cpu"}
}

// Inspected holds the measurements. Differences are root mean squares over all elements of all trajectories.
type Inspected struct {
	File    string           `json:"file"`
	Model   string           `json:"model"`
	Teacher string           `json:"teacher,omitempty"`
	N       int              `json:"n"`
	Levels  []InspectedLevel `json:"levels"`
	// Differences of samples in one step and in two steps from the teacher's sample of the same noise.
	OneStep  *float64 `json:"one_step_to_teacher,omitempty"`
	TwoSteps *float64 `json:"two_steps_to_teacher,omitempty"`
}

// InspectedLevel holds the differences between a consistency function's predictions at one noise level of the trajectories.
type InspectedLevel struct {
	T      float64  `json:"t"`
	ToEnd  *float64 `json:"to_end,omitempty"`  // to the trajectory's end; null without a teacher
	ToNext *float64 `json:"to_next,omitempty"` // to the prediction at the next level; null at the last
}

func (o *Inspect) validate() error {
	switch {
	case o.Model == "":
		return usage("--model is missing: %s", wantModel)
	case !strings.EqualFold(filepath.Ext(o.Out), ".png"):
		return usage("--out: want FILE.png, got %s", quote.Quoted(o.Out))
	case o.N < 1 || o.N > 64:
		return usage("--n: want 1 to 64 trajectories, got %d", o.N)
	case o.Columns < 2 || o.Columns > 40:
		return usage("--columns: want 2 to 40 noise levels, got %d", o.Columns)
	case o.Steps < o.Columns || o.Steps > 1000:
		return usage("--steps: want at least as many as --columns, %d, and at most 1000, got %d", o.Columns, o.Steps)
	case o.Seed > math.MaxUint64-uint64(o.N-1):
		return usage("--seed: %s from seed %d on would exceed the largest seed", plural.N(o.N, "trajectory"), o.Seed)
	case o.Label < Unset:
		return usage("--label: want a class from 0 on, got %d", o.Label)
	case !(o.Guidance >= 0 && o.Guidance <= 1e3):
		return usage("--guidance: want a scale from 0 to 1000, got %g", o.Guidance)
	case o.Threads < 0 || o.Threads > mostThreads:
		return usage("--threads: want 1 to %d, got %d", mostThreads, o.Threads)
	}
	if err := mayWrite(o.Out, o.Overwrite); err != nil {
		return err
	}
	return Writable(o.Out)
}

// Run writes a sheet of the model's predictions along trajectories, and measures how consistent they are with each other and with the teacher.
func (o Inspect) Run(ctx context.Context) (Inspected, error) {
	var none Inspected
	if err := o.validate(); err != nil {
		return none, err
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return none, usage("--device: %v", err)
	}
	if err := There(ownModel("--model", o.Model, wantModel), ownModel("--teacher", o.Teacher, "a denoiser: "+wantModel)); err != nil {
		return none, err
	}
	if err := use(dev, o.Threads, nil); err != nil {
		return none, err
	}
	model, err := openFile(o.Model, dev)
	if err != nil {
		return none, instead("--model", o.Model, err)
	}
	defer model.Close()
	tell(o.Note, ofBest(o.Model, model)...)
	tell(o.Note, model.Notices...)
	out := Inspected{File: o.Out, Model: model.Path, N: o.N}
	f, _ := model.Function().(models.ConsistencyFunction)
	teacher, _ := model.Function().(models.Denoiser)
	knows := model.Description.Network // the teacher's network
	shape := model.Shape()
	if len(shape) != 3 {
		return none, fmt.Errorf("model %s: it generates %d numbers, not an image", quote.Path(model.Path), shape[0])
	}
	told := Sample{Class: o.Class, Label: o.Label, N: o.N, Note: o.Note}
	if _, err := told.labels(model.Description); err != nil {
		return none, err
	}
	if o.Label = told.Label; told.Labels != nil {
		return none, usage("--label: want one class, got %d", len(told.Labels))
	}
	if err := o.fitsMemory(model.Description.Network, dev); err != nil {
		return none, err
	}
	if o.Teacher != "" {
		t, err := openFile(o.Teacher, dev)
		if err != nil {
			return none, instead("--teacher", o.Teacher, err)
		}
		defer t.Close()
		tell(o.Note, t.Notices...)
		knows = t.Description.Network
		switch its, classes := knows.Classes(), model.Description.Network.Classes(); {
		case !slices.Equal(t.Shape(), shape):
			return none, usage("--teacher: its images have shape %s, the model's have shape %s", number.Shape(t.Shape()), number.Shape(shape))
		case its != classes:
			return none, usage("--teacher: it has %s, the model has %s: their samples of the same noise cannot be compared", ofClasses(its), ofClasses(classes))
		}
		d, ok := t.Function().(models.Denoiser)
		if !ok {
			return none, usage("--teacher: want a denoiser, and %s holds a %s function", quote.Path(t.Path), quote.Text(t.Description.Kind))
		}
		teacher, out.Teacher = d, t.Path
	}
	if o.Guidance != 0 {
		switch {
		case teacher != nil:
			if teacher, err = generate.Guided(teacher, knows, o.Guidance); err != nil {
				return none, byFlag(err)
			}
		case !model.Description.Network.Guidance() && o.Guidance != 1:
			return none, byFlag(generate.ErrNotGuided)
		}
	}
	var img image.Image
	err = torch.Run(dev, func(s *torch.Scope) error {
		return s.Inference(func(s *torch.Scope) error {
			v := view{Inspect: o, ctx: ctx, s: s, f: f, teacher: teacher, knows: knows, d: model.Description}
			drawn, err := v.sheet(&out)
			if err == nil {
				img = drawn.Draw()
			}
			return err
		})
	})
	if err != nil {
		return none, err
	}
	if err := makeDirectories(o.Out); err != nil {
		return out, err
	}
	return out, vision.Write(o.Out, img, vision.WriteOptions{Texts: []vision.Text{{Keyword: "Software", Value: "onestep"}}, Overwrite: o.Overwrite})
}

// ofClasses writes a number of classes.
func ofClasses(n int) string {
	if n == 0 {
		return "no classes"
	}
	return plural.N(n, "class")
}

// view evaluates a model along trajectories.
type view struct {
	Inspect
	ctx     context.Context
	s       *torch.Scope
	f       models.ConsistencyFunction // nil: the model is a denoiser only
	teacher models.Denoiser            // nil: none
	knows   network.Config             // the teacher's network
	d       checkpoint.Description
}

// points holds the trajectories' points at one noise level.
type points struct {
	t float64
	x *torch.Tensor
}

func (v view) sheet(out *Inspected) (sheet.Sheet, error) {
	s, shape := v.s, v.d.Network.Shape()
	told := Sample{Seed: v.Seed, Label: v.Label, Guidance: v.Guidance}
	c := told.request().Cond(s, v.d.Network, 0, v.N)
	its := told.request().Cond(s, v.knows, 0, v.N)
	streams := func() noise.Streams { return noise.NewStreams(s, noise.Seeds(v.Seed, v.N)...) }
	z := streams().Randn(s, torch.Float32, shape...)
	along, end, err := v.path(z, c, its)
	if err != nil {
		return sheet.Sheet{}, err
	}
	at := func(t float64) *torch.Tensor { return torch.Full(s, t, torch.Float32, v.N) }
	var noisy, predicted, origins []*torch.Tensor
	for _, p := range along {
		if err := v.ctx.Err(); err != nil {
			return sheet.Sheet{}, err
		}
		// Scaled to the data's standard deviation, to be visible.
		noisy = append(noisy, p.x.MulScalar(s, v.d.SigmaData/math.Hypot(p.t, v.d.SigmaData)))
		if v.teacher != nil {
			predicted = append(predicted, v.teacher.Denoise(s, p.x, at(p.t), its))
		}
		if v.f != nil {
			origins = append(origins, v.f.Origin(s, p.x, at(p.t), c))
		}
	}
	apart := func(a, b *torch.Tensor) *float64 {
		r := a.Sub(s, b).Square(s).Mean(s).Sqrt(s).Item()
		return &r
	}
	for i, p := range along {
		level := InspectedLevel{T: p.t}
		if v.f != nil {
			if v.teacher != nil {
				level.ToEnd = apart(origins[i], end)
			}
			if i+1 < len(along) {
				level.ToNext = apart(origins[i], origins[i+1])
			}
		}
		out.Levels = append(out.Levels, level)
	}
	var samples [][]image.Image // of one step and of two
	columns := make([]string, 0, len(along)+3)
	for _, p := range along {
		columns = append(columns, fmt.Sprintf("t=%.3g", p.t))
	}
	if v.f != nil {
		for steps := 1; steps <= 2; steps++ {
			o := sampling.Options{Levels: sampling.Levels(v.d.SigmaMax, steps), Streams: streams(), Cond: c}
			start := o.Streams.Randn(s, torch.Float32, shape...).MulScalar(s, o.Levels[0])
			x, err := sampling.Multistep{SigmaMin: v.d.SigmaMin}.Sample(v.ctx, s, v.f, start, o)
			if err != nil {
				return sheet.Sheet{}, err
			}
			if v.teacher != nil {
				*[]**float64{&out.OneStep, &out.TwoSteps}[steps-1] = apart(x, end)
			}
			pictures, err := vision.ToImages(x)
			if err != nil {
				return sheet.Sheet{}, err
			}
			samples = append(samples, pictures)
		}
		columns = append(columns, "1 step", "2 steps")
	}
	if v.teacher != nil {
		pictures, err := vision.ToImages(end)
		if err != nil {
			return sheet.Sheet{}, err
		}
		samples, columns = append(samples, pictures), append(columns, "teacher")
	}
	t := sheet.Sheet{Columns: columns}
	for i := range v.N {
		for r, line := range []struct {
			name   string
			values []*torch.Tensor
		}{{"x_t", noisy}, {"D(x_t)", predicted}, {"f(x_t)", origins}} {
			if line.values == nil {
				continue
			}
			cells := sheet.Row{Name: line.name, Apart: r == 0 && i > 0}
			for _, x := range line.values {
				pictures, err := vision.ToImages(x.Narrow(s, 0, i, 1))
				if err != nil {
					return sheet.Sheet{}, err
				}
				cells.Cells = append(cells.Cells, pictures[0])
			}
			if r == 0 {
				for _, column := range samples {
					cells.Cells = append(cells.Cells, column[i])
				}
			}
			t.Rows = append(t.Rows, cells)
		}
	}
	return t, nil
}

// path returns the points of the trajectories at the levels shown, and their ends. c conditions the model, its the teacher.
func (v view) path(z *torch.Tensor, c, its models.Cond) ([]points, *torch.Tensor, error) {
	s := v.s
	levels := noise.Karras(v.Steps, v.d.SigmaMax, v.d.SigmaMin, 7)
	shown := make([]int, v.Columns)
	for i := range shown {
		shown[i] = i * (v.Steps - 1) / (v.Columns - 1)
	}
	start := z.MulScalar(s, levels[0])
	if v.teacher == nil {
		end := v.f.Origin(s, start, torch.Full(s, levels[0], torch.Float32, v.N), c)
		var along []points
		for _, i := range shown {
			along = append(along, points{levels[i], end.Add(s, z.MulScalar(s, levels[i]))})
		}
		return along, end, nil
	}
	along := []points{{levels[0], start}}
	// The last step, to level 0, is the denoiser's prediction at the last level.
	end, err := sampling.Stepwise{Solver: sampling.Heun{}}.Sample(v.ctx, s, v.teacher, start, sampling.Options{Levels: append(levels, 0), Cond: its,
		OnStep: func(_ *torch.Scope, p sampling.Step) error {
			if slices.Contains(shown, p.Index+1) {
				along = append(along, points{p.Level, p.X.Clone(s)})
			}
			return nil
		}})
	return along, end, err
}
