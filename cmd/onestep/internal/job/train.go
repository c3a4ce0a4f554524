// Package job does what the subcommands ask for: it builds networks, data and runs from options.
package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"iter"
	"log/slog"
	"math"
	"os"
	"reflect"
	"slices"
	"sync"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/lpips"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/rundir"
)

// Hooks are told how a run goes on.
type Hooks struct {
	Log      *slog.Logger
	Progress func(training.Progress)
	Started  func(o Train, run *rundir.Dir, parameters int) // once everything is resolved
	Data     func(DataSummary)                              // likewise, of the data
	// Scalars and Picture receive what goes into event files.
	Scalars func(k int, values map[string]float64) error
	Picture func(k int, img image.Image) error
	Version string // written to options.json
}

// warn logs a notice.
func (h Hooks) warn(note string) {
	if h.Log != nil {
		h.Log.Warn(note)
	}
}

// Trained is how a run ended.
type Trained struct {
	training.Result
	Corrupt int // images that were skipped because they cannot be decoded
	Resized int // images that were cropped and scaled, since they are not of the size of the others
}

// Plan resolves all options, for which it opens the data, and returns what Run would start from: the network, and what it predicts.
func (o *Train) Plan() (checkpoint.Description, error) {
	data, start, err := o.open()
	if err != nil {
		return checkpoint.Description{}, err
	}
	return start, data.Close()
}

// open opens the data and resolves all options. It returns what the run starts from: the network's configuration, and what the
// network predicts.
func (o *Train) open() (*dataset.Set, checkpoint.Description, error) {
	var start checkpoint.Description
	if err := o.Resolve(); err != nil {
		return nil, start, err
	}
	m, err := methodNamed(o.Method)
	if err != nil {
		return nil, start, err
	}
	if err := There(o.paths()...); err != nil {
		return nil, start, err
	}
	if err := o.fromTeacher(m); err != nil {
		return nil, start, err
	}
	data, err := dataset.Open(o.Data, dataset.Options{Resolution: o.Resolution, Channels: o.Colors, Dir: o.Dir, Square: true, Side: o.sideOfStart()})
	if err != nil {
		if err := There(Path{"--data-dir", o.Dir, "a folder that holds " + o.Data, Folder}); err != nil {
			return nil, start, err
		}
		return nil, start, fmt.Errorf("--%w", err) // it begins with data:
	}
	if start, err = o.start(m, data); err == nil {
		err = o.checkTeacher(m, start.Network)
	}
	if _, missing := os.Stat(o.LPIPS); o.LPIPS != "" && missing != nil && err == nil {
		if _, err = lpips.Open(o.LPIPS, torch.CPU); err != nil { // which says what to do
			err = fmt.Errorf("--lpips: %w", err)
		}
	}
	if err != nil {
		return nil, start, errors.Join(err, data.Close())
	}
	return data, start, nil
}

// sideOfStart is the size of the images of the model that the run starts from, 0 if there is none, or none that can be read.
func (o *Train) sideOfStart() int {
	if !o.starts() {
		return 0
	}
	d, err := describes(o.Init)
	if err != nil {
		return 0
	}
	if shape := d.Network.Shape(); len(shape) == 3 && shape[1] == shape[2] {
		return shape[1]
	}
	return 0
}

// start fits the model that the run starts from to the data: a new one, or that of --init.
func (o *Train) start(m method, data *dataset.Set) (checkpoint.Description, error) {
	var none checkpoint.Description
	c, h, _ := data.Shape() // squares
	d, err := o.fit(m, c, h)
	if err != nil {
		return none, err
	}
	classes := 0
	if o.Classes {
		if classes = len(data.Classes()); classes == 0 {
			return none, usage("--classes: %s has no labels", quote.Text(data.Name()))
		}
	}
	if !o.starts() {
		d.Network = d.Network.With(classes, o.Dropout).Told(m.until, len(o.Guidance) == 2, o.Drop > 0)
		return d, o.fitsMemory(d.Network)
	}
	d.Network = d.Network.Told(m.until, len(o.Guidance) == 2, o.Drop > 0)
	if err := sameImages(o.startsBy(), d.Network, []int{c, h, h}, classes); err != nil {
		return d, err
	}
	return d, o.fitsMemory(d.Network)
}

// fit returns the model for images of that many colours and pixels: the one that the run starts from, or a new one.
func (o *Train) fit(m method, colors, side int) (checkpoint.Description, error) {
	if !o.starts() {
		cfg, err := o.shape(colors, side)
		d := checkpoint.Description{Form: checkpoint.Form{Type: m.forms[0]}, Network: cfg, SigmaData: 0.5, SigmaMin: 0.002, SigmaMax: 80}
		if d.Form.Type == checkpoint.DDPM {
			d.Form.Betas = &noise.Betas{Schedule: betas[o.Betas], Steps: o.Chain}
		}
		return d, err
	}
	flag := o.startsBy()
	d, err := describes(o.Init)
	if err != nil {
		return d, instead(flag, o.Init, err)
	}
	if err := m.takes(flag, d, m.forms); err != nil {
		return d, err
	}
	if !o.adoptable(m, d.Network) {
		return d, usage("%s: the run's network has more conditioning inputs than the %s in %s, and only a U-Net can start from one with fewer: pass --init none",
			flag, d.Network.Name(), o.Init)
	}
	d.Network = d.Network.With(d.Network.Classes(), o.Dropout)
	o.Resolution, o.Colors = side, colors
	if err := o.chained(flag, d.Form.Betas); err != nil {
		return d, err
	}
	return d, o.describe(flag, d.Network)
}

// chained fills in the options of a discrete chain that came from a file, and refuses those that ask for another.
func (o *Train) chained(flag string, is *noise.Betas) error {
	m, err := methodNamed(o.Method)
	if err != nil || is == nil || !slices.Contains(m.options, "chain") {
		return err
	}
	schedule, err := is.Schedule.MarshalText()
	if err != nil {
		return err
	}
	def := DefaultTrain()
	given := func(option string) bool { return slices.Contains(o.Given, option) }
	switch {
	case (o.Betas != def.Betas || given("betas")) && o.Betas != string(schedule):
		return usage("--betas %s: %s %s has the schedule %s: leave the option out", quote.Text(o.Betas), flag, quote.Path(o.Init), schedule)
	case (o.Chain != def.Chain || given("chain")) && o.Chain != is.Steps:
		return usage("--chain %d: %s %s has %d steps: leave the option out", o.Chain, flag, quote.Path(o.Init), is.Steps)
	}
	o.Betas, o.Chain = string(schedule), is.Steps
	return nil
}

// describe fills in the options for a network that came from a file, and refuses those that ask for another.
func (o *Train) describe(flag string, c network.Config) error {
	p, size, err := c.Preset()
	if err != nil {
		return err
	}
	refuse := func(option string, wants, is any) error {
		return usage("--%s %s: the run starts with the network of %s %s, which has %s: leave the option out, or pass --init none for a new network",
			option, options.Text(wants), flag, o.Init, options.Text(is))
	}
	if o.Network != "" && o.Network != p.Name {
		return refuse("network", o.Network, p.Name)
	}
	own := options.Of(size)
	for _, option := range NetworkOptions() {
		given, is := o.field(option.Option), option.Option
		if i := slices.IndexFunc(own, func(has options.Option) bool { return has.Name == option.Name }); i >= 0 {
			is = own[i]
		}
		if !given.IsZero() && !is.Same(given.Interface()) {
			return refuse(option.Name, given.Interface(), is.Value())
		}
	}
	o.Network = p.Name
	for _, option := range own {
		o.field(option).Set(reflect.ValueOf(option.Value()))
	}
	return nil
}

// starts tells whether the run starts from another model's weights.
func (o *Train) starts() bool { return o.Init != "" && o.Init != "none" }

// startsBy is the flag that gave the model which the run starts from.
func (o *Train) startsBy() string {
	if o.Init == o.Teacher {
		return "--teacher"
	}
	return "--init"
}

// Run trains. Cancelling ctx saves and returns the context's error.
func (o Train) Run(ctx context.Context, h Hooks) (out Trained, err error) {
	command := o.Command()
	o.Onestep = h.Version
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return out, usage("--device: %v", err)
	}
	if err := o.Resolve(); err != nil {
		return out, err
	}
	if err := use(dev, o.Threads, h.warn); err != nil {
		return out, err
	}
	data, start, err := o.open()
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	if err := ctx.Err(); err != nil {
		return out, err
	}
	if err := o.identify(ctx, data); err != nil {
		return out, err
	}
	extended, err := o.extend()
	if err != nil {
		return out, err
	}
	options, err := toMap(o)
	if err != nil {
		return out, err
	}
	may := mayChange(o.Out, options)
	if extended {
		may = append(may, extendable...)
	}
	begun, err := o.check(options, may)
	if err != nil {
		return out, err
	}
	if note := o.complete(); begun && note != "" {
		h.warn(note)
	}
	if o.Resume && !begun && h.Log != nil {
		h.Log.Warn("there is no run to resume: a new one starts", "out", o.Out)
	}
	net, err := network.New(start.Network, dev, o.Seed)
	if err != nil {
		return out, err
	}
	defer net.Close()
	if err := o.load(net, dev); err != nil {
		return out, err
	}
	average, err := network.Clone(net)
	if err != nil {
		return out, err
	}
	defer average.Close()
	averages := []training.Average{{Into: average, Decay: o.EMA}}
	another := func(a training.Average) error {
		c, err := network.Clone(net)
		if err != nil {
			return err
		}
		a.Into = c
		averages = append(averages, a)
		return nil
	}
	defer func() {
		for _, a := range averages[1:] {
			a.Into.(network.Network).Close()
		}
	}()
	for _, w := range o.Widths {
		if err := another(training.Average{Width: w}); err != nil {
			return out, err
		}
	}
	for _, n := range o.HalfLives {
		if err := another(training.Average{HalfLife: n}); err != nil {
			return out, err
		}
	}
	m, err := methodNamed(o.Method)
	if err != nil {
		return out, err
	}
	p := &parts{model: model{net, start}, method: m, device: dev}
	defer p.close()
	if err := o.openTeacher(dev, p, data); err != nil {
		return out, err
	}
	learns, err := m.function(p.model)
	if err != nil {
		return out, err
	}
	objective, err := m.objective(&o, p, learns)
	if err != nil {
		return out, err
	}
	if v, ok := objective.(training.Validator); ok {
		if err := v.Validate(); err != nil { // before the run's folder is made, where the trainer would ask
			return out, err
		}
	}
	opt, err := optim.RAdam{LR: o.LR}.New(learnt(net, objective))
	if err != nil {
		return out, err
	}
	defer opt.Close()
	run, err := rundir.Open(o.Out, options, o.Resume, may...)
	if err != nil {
		return out, hinted(err)
	}
	defer func() {
		end := slog.New(slog.NewTextHandler(run.Log(), nil))
		if err == nil || errors.Is(err, context.Canceled) {
			end.Info("ended", "step", out.Step, "images", out.Seen, "interrupted", err != nil)
		} else {
			end.Error("ended", "step", out.Step, "error", err)
		}
		if err != nil && out.Step == 0 {
			err = errors.Join(err, run.Discard()) // a run that has not begun leaves nothing
		} else {
			err = errors.Join(err, run.Close())
		}
	}()

	card, err := o.Card(start)
	if err == nil && extended {
		err = rundir.WriteJSON(run.File("options.json"), o)
	}
	if err == nil {
		err = rundir.Write(run.File("card.md"), []byte(card))
	}
	if err != nil {
		return out, err
	}
	if h.Started != nil {
		h.Started(o, run, net.Store().Count())
	}
	if h.Data != nil {
		h.Data(o.summary(data))
	}

	trained, err := m.function(model{average, start})
	if err != nil {
		return out, err
	}
	described := func(step int, images int64) (checkpoint.Description, error) {
		d, err := checkpoint.Describe(trained)
		d.SigmaMax, d.Method, d.Data, d.Step, d.Images, d.Command = start.SigmaMax, o.Method, o.Data, step, images, command
		if o.Classes {
			d.ClassNames = data.Classes()
		}
		if stages, ok := objective.(training.Leveled); ok {
			levels := stages.Levels(max(0, step-1))
			d.Levels = levels[:len(levels)-1]
		}
		return d, err
	}
	describe := func(step int, images int64) (map[string]string, error) {
		d, err := described(step, images)
		if err != nil {
			return nil, err
		}
		return d.Metadata()
	}
	rate := func(k int) float64 { return lrFactor(k, o.Steps, o.LRDecay) }
	if stages, ok := objective.(training.Staged); ok {
		rate = func(k int) float64 { return math.Min(1, float64(k+1)/10) * stages.Left(k) }
	}
	t := training.Trainer{
		Objective: objective, Model: net, Optimizer: opt, Averages: averages,
		Data: training.Images{Labels: o.Classes, Loader: &dataset.Loader{Dataset: data, Batch: o.Batch, Seed: o.Seed, Workers: o.Workers,
			Flip: o.Flip, SkipCorrupt: o.Corrupt == "skip", Corrupt: once(h.Log)}},
		Run: run, Device: dev, Seed: o.Seed, Steps: o.Steps, Duration: o.Duration, Clip: o.Clip,
		Guard: training.Guard{Skips: o.Skips, Rollbacks: o.Rollbacks},
		LR:    func(k int) float64 { return o.LR * rate(k) }, SaveEvery: o.SaveEvery, LogEvery: o.LogEvery,
		SampleEvery: o.SampleEvery, KeepSnapshots: o.Keep, Metadata: describe, Progress: h.Progress, Scalars: h.Scalars, Log: h.Log,
	}
	if o.Drop > 0 {
		t.Prepare = training.DropLabels(o.Drop, start.Network.NullClass())
	}
	if len(o.Guidance) == 2 {
		t.Prepare = training.DrawGuidance(o.Guidance[0], o.Guidance[1])
	}
	t.Sample = func(ctx context.Context, k int) error {
		d, err := described(k, 0)
		if err != nil {
			return err
		}
		img, err := examples(ctx, trained, d, average, 64)
		if errors.Is(err, vision.ErrNaN) { // what becomes of the run is the guard's matter
			if h.Log != nil {
				h.Log.Warn("no example images", "step", k, "reason", err)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if h.Picture != nil {
			if err := h.Picture(k, img); err != nil {
				return err
			}
		}
		return vision.Write(run.File(fmt.Sprintf("samples-%07d.png", k)), img, nil, true)
	}
	out.Result, err = t.Train(ctx)
	err = o.skippable(err)
	out.Corrupt, out.Resized = len(data.Corrupt()), data.Resized()
	return out, err
}

// learnt yields the network's parameters, and those that the objective has besides.
func learnt(net training.Module, objective training.Objective) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for name, p := range net.Parameters() {
			if !yield(name, p) {
				return
			}
		}
		own, ok := objective.(training.Module)
		if !ok {
			return
		}
		for name, p := range own.Parameters() {
			if !yield("objective."+name, p) {
				return
			}
		}
	}
}

// use makes a device ready, with that many threads an operator on the CPU, at most as many as processors, which is noted; 0 leaves
// libtorch's choice.
func use(dev torch.Device, n int, note func(string)) error {
	if err := dev.Available(); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	n, notice := threads(n)
	if notice != "" && note != nil {
		note(notice)
	}
	return torch.SetThreads(n)
}

// once logs every corrupt image the first time that it is met.
func once(log *slog.Logger) func(error) {
	var met sync.Map
	return func(err error) {
		if _, again := met.LoadOrStore(err.Error(), true); !again && log != nil {
			log.Warn("skipped", "error", err)
		}
	}
}

// lrFactor is 1, and falls linearly to 0 over the last part of the run. The first steps warm up: RAdam's are not
// normalised.
func lrFactor(k, steps int, decay float64) float64 {
	f := math.Min(1, float64(k+1)/10)
	if left := float64(steps-k) / (decay * float64(steps)); decay > 0 && left < 1 {
		f *= left
	}
	return f
}

// examples draws a grid, always from the same seeds, as onestep sample does by default.
func examples(ctx context.Context, f any, d checkpoint.Description, net network.Network, n int) (image.Image, error) {
	m, err := generate.FromFunction(f, d, net, "")
	if err != nil {
		return nil, err
	}
	var images []image.Image
	for img, err := range m.Images(ctx, generate.Request{N: n, Batch: n}) {
		if err != nil {
			return nil, err
		}
		images = append(images, img.Image)
	}
	return vision.Grid(images, 0)
}

// ownTeacher makes the exact denoiser of the run's own data.
func (o *Train) ownTeacher(dev torch.Device, p *parts, data *dataset.Set) error {
	c, h, w := data.Shape()
	n, size := data.Len(), c*h*w
	all := need{host: 5 * float64(n) * float64(size)} // as bytes and as numbers
	if err := all.enough(torch.CPU, fmt.Sprintf("--teacher %s: all %d images", empirical, n), "choose a smaller --resolution"); err != nil && !o.Force {
		return err
	}
	pixels, labels := make([]byte, n*size), make([]int64, n)
	good := 0
	for i := range n {
		label, err := data.Read(i, pixels[good*size:(good+1)*size])
		var corrupt *dataset.CorruptError
		if errors.As(err, &corrupt) && o.Corrupt == "skip" {
			continue // logged by the loader, which meets it, too
		}
		if err != nil {
			return o.skippable(fmt.Errorf("--teacher %s: %w", empirical, err))
		}
		labels[good], good = int64(label), good+1
	}
	if good == 0 {
		return fmt.Errorf("--teacher %s: %s: all %d images are corrupt", empirical, quote.Path(data.Name()), n)
	}
	n, pixels, labels = good, pixels[:good*size], labels[:good]
	s := torch.NewScope(dev)
	p.own(s.Close)
	return s.Run(func(inner *torch.Scope) error {
		images := torch.FromSlice(inner, pixels, n, c, h, w).To(inner, torch.Float32).DivScalar(inner, 127.5).SubScalar(inner, 1)
		teacher := &models.Empirical{Data: inner.Keep(images)}
		if o.Classes {
			teacher.Labels = inner.Keep(torch.FromSlice(inner, labels, n))
		}
		p.teacher = teacher
		return teacher.Validate()
	})
}

func toMap(v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // a seed may need all 64 bits
	return m, dec.Decode(&m)
}
