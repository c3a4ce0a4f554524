package finetune

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/latents"
	"github.com/onestep-go/onestep/training/rundir"
)

// SnapshotError is the error of a snapshot that does not do what was trained: it cannot be read, or changes nothing. It ends a run, whose
// checkpoint is saved, and the snapshot is renamed.
type SnapshotError struct {
	Path     string
	Rejected string // where it is now: Path with .rejected appended; "" if it could not be renamed
	Err      error
}

// Error returns the message.
func (e *SnapshotError) Error() string {
	text := fmt.Sprintf("the snapshot %s is unusable: %v", quote.Path(e.Path), e.Err)
	if e.Rejected != "" {
		text += "; it was renamed to " + quote.Path(filepath.Base(e.Rejected))
	}
	return text
}

// Unwrap returns the cause.
func (e *SnapshotError) Unwrap() error { return e.Err }

// kohyas are the options that kohya's scripts read from the lines of validation prompts.
var kohyas = regexp.MustCompile(` --(n|w|h|d|s|l|t|am|ss|sn|ow|oh|of|cn|i|c|g)\b`)

// prompts reads the validation prompts: the lines of a file but empty ones and comments, which begin with #.
func (r *Run) prompts() ([]string, error) {
	const most = 64
	text, err := plainfile.Read(r.ValPrompts, 1<<20)
	if err != nil {
		return nil, options.Failed("val-prompts", err)
	}
	var all []string
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			if option := kohyas.FindString(" " + line); option != "" {
				return nil, options.Refuse("val-prompts", "%s: %s, line %d: want a prompt alone, got the option %s as in kohya's scripts; %s and %s are of all validation images",
					options.NameOf("val-prompts"), quote.Path(r.ValPrompts), n, quote.Text(strings.TrimSpace(option)), options.NameOf("val-steps"), options.NameOf("val-guidance"))
			}
			all = append(all, line)
		}
	}
	if len(all) == 0 || len(all) > most {
		return nil, options.Refuse("val-prompts", "%s: %s has %d prompts, one per line: want 1 to %d", options.NameOf("val-prompts"), quote.Path(r.ValPrompts), len(all), most)
	}
	return all, nil
}

// validation looks at each snapshot: that it does what was trained, how large its loss is on fixed samples with fixed noise, and what it
// draws.
type validation struct {
	*session
	prompts []string
	source  *latents.Source // of the validation loss; nil: none
	lowest  lowest
	looked  int       // step of the last snapshot that was looked at; -1: none
	anew    bool      // the best snapshot is chosen anew
	until   time.Time // end of Run.Duration; zero: none
}

// lowest is the snapshot with the lowest validation loss, as best.json has it.
type lowest struct {
	Step int     `json:"step"`
	Loss float64 `json:"val_loss"`
	Of   string  `json:"of"` // what the loss is of
}

const bestFile = "best.json"

func newValidation(ctx context.Context, s *session) (*validation, error) {
	v := &validation{session: s, looked: -1}
	r := s.Run
	if r.ValPrompts != "" {
		var err error
		if v.prompts, err = r.prompts(); err != nil {
			return nil, err
		}
	}
	text, err := plainfile.Read(s.dir.File(bestFile), 1<<16)
	if err == nil {
		err = json.Unmarshal(text, &v.lowest)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w; remove it to choose the best snapshot anew", quote.Path(s.dir.File(bestFile)), quote.Error(err))
	}
	if _, err := os.Stat(v.bestPath()); v.lowest.Step != 0 && errors.Is(err, fs.ErrNotExist) {
		r.warn("the best snapshot is not there any more; the best of those to come is kept", "path", v.bestPath())
		v.lowest = lowest{}
	}
	if *r.ValBatches == 0 {
		return v, nil
	}
	if v.lowest.Of != "" && v.lowest.Of != v.of() {
		r.warn("the validation loss uses other samples than before: the best snapshot is chosen again", "now", v.of(), "before", v.lowest.Of)
		v.lowest, v.anew = lowest{}, true
	}
	v.source = s.source
	if r.ValData == "" {
		return v, nil
	}
	if v.source, err = s.encode(ctx, "val-data", s.valData); err != nil {
		return nil, err
	}
	s.own(func() { _ = v.source.Close() })
	return v, nil
}

// of says what the validation loss is of.
func (v *validation) of() string {
	set := v.Data
	if v.valData != nil {
		set = v.valData
	}
	return fmt.Sprintf("%d batches of %s", *v.Run.ValBatches, set.Identity())
}

// resumed validates the snapshot that a run resumes from, if the run was killed before it had.
func (v *validation) resumed(ctx context.Context, k int) error {
	if !v.anew && (k%v.Run.SaveEvery != 0 && k < v.Run.Steps || v.dir.Recorded(k, "val_loss")) {
		return nil
	}
	return v.look(ctx, k)
}

// noGuidance is the guidance scale without guidance.
const noGuidance = 1

// best returns the path of the best snapshot, "" without one.
func (v *validation) best() (path string, step int, loss float64) {
	if v == nil || v.lowest.Step == 0 {
		return "", 0, 0
	}
	return v.bestPath(), v.lowest.Step, v.lowest.Loss
}

func (v *validation) bestPath() string {
	if v.adapter == nil {
		return v.folder(v.lowest.Step)
	}
	return v.dir.Best()
}

// look validates the snapshot of a step. Only an unusable snapshot ends training; other failures are logged.
func (v *validation) look(ctx context.Context, k int) error {
	path := v.snapshots.Path(k)
	if _, err := os.Stat(path); err != nil {
		return nil //nolint:nilerr // steps were skipped, and nothing was saved
	}
	v.looked = k
	limited, done := ctx, func() {}
	if !v.until.IsZero() {
		limited, done = context.WithDeadline(ctx, v.until)
	}
	err := v.validate(limited, k, path)
	over := limited.Err() != nil
	done()
	var bad *SnapshotError
	switch {
	case errors.As(err, &bad):
		return errors.Join(err, bad.reject())
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil && over:
		v.Run.warn("the time is over: the validation of the snapshot is incomplete", "step", k)
	case err != nil:
		v.Run.warn("validation failed; training continues", "step", k, "error", err)
	}
	return v.prune()
}

// takes estimates the time of a validation from the speed of training, in samples per second. A step of training is at least three passes of the
// network, and a validation image two passes in each of its sampling steps.
func (v *validation) takes(perSecond float64) time.Duration {
	samples := 0.0
	if v.source != nil {
		samples = float64(*v.Run.ValBatches * v.Run.Batch)
	}
	if v.Run.Draw != nil {
		samples += float64(len(v.prompts)*v.sampling()) * 2 / 3
	}
	return time.Duration(samples / perSecond * float64(time.Second))
}

func (v *validation) validate(ctx context.Context, k int, path string) (err error) {
	defer func() { // nothing that fails here loses training
		if p := recover(); p != nil {
			err = errors.Join(err, fmt.Errorf("%v", p))
		}
	}()
	m, adapter, err := v.reload(k, path)
	if err != nil {
		return err
	}
	defer func() {
		if adapter != nil {
			err = errors.Join(err, adapter.Close())
		}
		if m != v.model {
			err = errors.Join(err, m.Close())
		}
	}()
	if v.Run.Log != nil {
		v.Run.Log.Info("snapshot", "step", k, "path", path)
	}
	if v.source != nil {
		if err := v.loss(ctx, k, path); err != nil {
			return err
		}
	}
	r := v.Run
	if r.Draw == nil || v.prompts == nil {
		return nil
	}
	sampler, eta := v.sampler()
	sample := Sample{Step: k, Path: path, Model: m, Adapter: adapter, Sampler: sampler, Eta: eta, OriginalSteps: v.originalSteps(), Prompts: v.prompts, Seed: r.Seed, Width: v.size.X, Height: v.size.Y, Steps: v.sampling()}
	if r.ValGuide != nil {
		sample.Guidance = max(*r.ValGuide, noGuidance) // where 0 is the sampler's default
	}
	images, err := r.Draw(ctx, sample)
	if err != nil {
		return err
	}
	grid, err := vision.Grid(images, 0)
	if err != nil {
		return err
	}
	if r.Image != nil {
		if err := r.Image(k, grid); err != nil {
			return err
		}
	}
	return vision.Write(v.dir.File(fmt.Sprintf("samples-%07d.png", k)), grid, vision.WriteOptions{Overwrite: true, Texts: sample.texts()})
}

// sampling is the number of sampling steps of validation images.
func (p *Plan) sampling() int {
	steps := manySteps
	if p.method.fewStep() {
		steps = cmp.Or(p.distilled().Phases, fewSteps)
	}
	return cmp.Or(p.Run.ValSteps, steps)
}

// distilled is how the few-step model of the run is trained, or was.
func (p *Plan) distilled() sd.AdapterRun {
	switch m := p.method.(type) {
	case *LCM:
		return sd.AdapterRun{Phases: m.Phases, Trajectory: m.Trajectory}
	case *LoRA:
		return m.few.Run
	}
	return sd.AdapterRun{}
}

// sampler is that of few steps, and its eta; nil: the default. A latent consistency model's own is lcm.
func (p *Plan) sampler() (name string, eta *float64) {
	switch of := p.distilled(); {
	case of.Phases > 0:
		return "tcd", new(0.0)
	case of.Trajectory:
		return "tcd", nil
	case p.method.fewStep() && p.method.adapter() != nil:
		return "lcm", nil
	}
	return "", nil
}

// originalSteps is the grid of an adapter's samples; 0: the model's.
func (p *Plan) originalSteps() int {
	switch m := p.method.(type) {
	case *LCM:
		if m.LoRA {
			return p.grid(m)
		}
	case *LoRA:
		return m.few.OriginalSteps
	}
	return 0
}

// texts are the settings of a sample grid, which identify it.
func (v Sample) texts() []vision.Text {
	settings := map[string]any{"snapshot": v.Path, "step": v.Step, "prompts": v.Prompts, "seed": v.Seed, "width": v.Width, "height": v.Height, "steps": v.Steps}
	if v.Sampler != "" {
		settings["sampler"] = v.Sampler
	}
	if v.Eta != nil {
		settings["eta"] = *v.Eta
	}
	if v.OriginalSteps != 0 {
		settings["original_steps"] = v.OriginalSteps
	}
	if v.Guidance != 0 {
		settings["guidance"] = v.Guidance
	}
	text, err := json.Marshal(settings)
	if err != nil {
		return nil
	}
	return []vision.Text{{Keyword: "onestep_samples", Value: string(text)}}
}

// reload reads a snapshot as other programs do, and compares what it computes with what is trained.
func (v *validation) reload(k int, path string) (m *sd.Model, adapter sd.Adapter, err error) {
	fail := func(err error) (*sd.Model, sd.Adapter, error) { return nil, nil, &SnapshotError{Path: path, Err: err} }
	r := v.Run
	if v.whole != nil {
		if m, err = v.reloadWhole(path); err != nil {
			return fail(err)
		}
		return m, nil, nil
	}
	m = v.model
	learned := v.adapter
	if v.averaged != nil {
		learned = v.averaged
	}
	if v.student != nil {
		if m, err = sd.Open(path, sd.Options{Device: r.Device, DType: r.dtype()}); err != nil {
			return fail(err)
		}
	} else if adapter, err = r.Adapters.Open(m, path, nil); err != nil {
		return fail(err)
	}
	close := func(err error) (*sd.Model, sd.Adapter, error) {
		if adapter != nil {
			err = errors.Join(err, adapter.Close())
		}
		if m != v.model {
			err = errors.Join(err, m.Close())
		}
		return fail(err)
	}
	var none, trained, read []float64
	var weak bool
	failed := torch.Run(r.Device, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			in := v.probe(s)
			none = in.through(s, v.model.UNet, v.probed(s, nil))
			if v.student != nil {
				net := v.snapshotted()
				trained, read = in.through(s, net, in.guided(s)), in.through(s, m.UNet, in.guided(s))
				return nil
			}
			trained = in.through(s, v.model.UNet, v.probed(s, learned.At(1)))
			read = in.through(s, v.model.UNet, v.probed(s, adapter.At(1)))
			if distance(read, none) == 0 { // smaller than the type's rounding, or nothing at all
				weak = distance(in.through(s, v.model.UNet, v.probed(s, adapter.At(1000))), none) > 0
			}
			return nil
		})
	})
	if failed != nil {
		return close(failed)
	}
	change, off := distance(trained, none), distance(read, trained)
	rounding := map[torch.DType]float64{torch.Float32: 1e-3, torch.Float16: 1e-2, torch.BFloat16: 5e-2}[v.model.DType()]
	same := v.student == nil && distance(read, none) == 0 && !weak
	switch {
	case same && k < r.LRWarmup.Steps(r.Steps): // the learning rate may be that small yet
		r.warn("the snapshot changes nothing yet, in the warm-up of the learning rate", "step", k)
	case same:
		return close(errors.New("it changes nothing: the network has the same output with it and without it"))
	case !(off <= 0.1*change+rounding*norm(trained)):
		return close(fmt.Errorf("the network with it is not the one that was trained: their outputs differ by %.3g, and training changed them by %.3g", off, change))
	}
	return m, adapter, nil
}

// loss computes the validation loss, and keeps the snapshot if it is the lowest.
func (v *validation) loss(ctx context.Context, k int, path string) error {
	r := v.Run
	next, stop := iter.Pull2(v.source.Batches(ctx, 0))
	defer stop()
	const other = 0x76616c69646174 // noise that training does not draw
	sum, first := 0.0, int64(0)
	for range *r.ValBatches {
		if err := ctx.Err(); err != nil {
			return err
		}
		make, err, ok := next()
		if err != nil || !ok {
			return errors.Join(err, ctx.Err())
		}
		err = torch.Run(r.Device, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				b := make(s)
				n := b.X.Dim(0)
				draws := training.Draw(r.Seed^other, 0, first, n)
				if v.prepare != nil {
					b = v.prepare(s, b, draws)
				}
				sum, first = sum+v.objective.Loss(s, k, b, draws).Item(), first+int64(n)
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	loss := sum / float64(*r.ValBatches)
	if !finite(loss) {
		return fmt.Errorf("the validation loss is %v", loss)
	}
	if r.Log != nil {
		r.Log.Info("validation", "step", k, "val_loss", strconv.FormatFloat(loss, 'g', 5, 64))
	}
	// Before the loss is recorded: a run that is killed between them chooses again. A loss is recorded also where the disk is full.
	err := v.choose(k, loss, path)
	if failed := v.dir.Record(map[string]any{"step": k, "val_loss": loss}); failed != nil {
		return errors.Join(err, failed)
	}
	if r.Scalars != nil {
		err = errors.Join(err, r.Scalars(k, map[string]float64{"val_loss": loss}))
	}
	return err
}

// choose keeps a snapshot if its loss is the lowest.
func (v *validation) choose(k int, loss float64, path string) error {
	if v.lowest.Step != 0 && !(loss < v.lowest.Loss) {
		return nil
	}
	if v.adapter != nil {
		text, err := os.ReadFile(path)
		if err == nil {
			err = rundir.Write(v.bestPath(), text)
		}
		if err != nil {
			return err
		}
	}
	v.lowest = lowest{k, loss, v.of()}
	return rundir.WriteJSON(v.dir.File(bestFile), v.lowest)
}
