package job

import (
	"context"
	"errors"
	"fmt"
	"image"
	"strings"
	"time"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/recipe"
)

// evalReal is the number of real images, drawn at random, that evaluations during training compare with at most.
const evalReal = 10_000

// evaluator measures the model of a run as onestep eval does.
type evaluator struct {
	o        Train
	features evaluation.Features
	set      pixelData
	own      bool // whether set is the evaluator's, and not the run's
	labels   []int
	eval     Eval
	how      evaluation.ReferenceOptions
	ref      *evaluation.Reference // once it is needed
	release  func()
}

// newEvaluator opens the network and the data of a run's evaluations, so that what is missing is an error before training.
func (o Train) newEvaluator(ctx context.Context, p *recipe.Plan, h Hooks) (e *evaluator, err error) {
	r := p.Run
	shape := p.Start.Network.Shape()
	if len(shape) != 3 {
		return nil, usage("--eval-every: the network generates samples of shape %v, not images", shape)
	}
	x, err := findFeatures(o.named("eval-features"), r.EvalFeatures, "")
	if err != nil {
		return nil, err
	}
	e = &evaluator{o: o, set: pixelData{p.Data}}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if r.EvalData != "" {
		data := dataPath(r.EvalData)
		data.Flag = o.named("eval-data")
		if err := There(data); err != nil {
			return nil, err
		}
		set, err := dataset.Open(r.EvalData, dataset.Options{Resolution: shape[1], Channels: shape[0], Dir: r.DataDir})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.named("eval-data"), err)
		}
		e.set, e.own = pixelData{set}, true
	}
	if n := e.set.Len(); n < leastReal {
		return nil, usage("%s: want at least %d images to compare with, got %d", o.named("eval-data"), leastReal, n)
	}
	if e.features, e.release, err = x.open(ctx, r.Device); err != nil {
		return nil, err
	}
	e.eval = Eval{Note: h.warn}
	if few := fewForFID(e.features.Name, r.EvalN); few != "" {
		h.warn(few)
	}
	e.how = evaluation.ReferenceOptions{Images: evalReal, Progress: logReal(h)}
	var uncached error
	if e.how.Cache, uncached = featureCache(); uncached != nil {
		h.warn(uncached.Error())
	}
	if e.how.Identity, err = e.set.identity(); err != nil {
		return nil, err
	}
	if r.Corrupt == "skip" { // its images are those of lenient: onestep eval would not find the corrupt one
		e.how.Identity += ", corrupt images replaced"
	}
	return e, nil
}

// logReal logs how many real images' features the first evaluation has computed, at first and then once a minute: it can take many minutes, in which
// a run logs nothing else.
func logReal(h Hooks) func(done, all int) {
	var next time.Time
	return func(done, all int) {
		if now := time.Now(); h.Log != nil && now.After(next) && done < all {
			h.Log.Info("the first evaluation computes the features of the real images, which are cached", "images", fmt.Sprintf("%d/%d", done, all))
			next = now.Add(time.Minute)
		}
	}
}

// leastReal is the least number of real images of a comparison.
const leastReal = 12

func (e *evaluator) close() {
	if e == nil {
		return
	}
	if e.ref != nil {
		e.ref.Close()
	}
	if e.release != nil {
		e.release()
	}
	if e.own {
		_ = e.set.Close()
	}
}

// lenient is a set whose corrupt images are replaced by those after them, for runs that skip those.
type lenient struct{ pixelData }

func (l lenient) Image(i int) (img image.Image, err error) {
	n := l.Len()
	for k := range n {
		img, err = l.pixelData.Image((i + k) % n)
		if corrupt := (*dataset.CorruptError)(nil); !errors.As(err, &corrupt) {
			break
		}
	}
	return img, err
}

// measure compares images of the model with real ones.
func (e *evaluator) measure(ctx context.Context, m recipe.Snapshot) (out training.Evaluation, err error) {
	r := e.o.Run
	if e.ref == nil {
		var set evaluation.Set = e.set
		if r.Corrupt == "skip" {
			set = lenient{e.set}
		}
		if e.ref, err = evaluation.NewReference(ctx, e.features, set, e.how); err != nil {
			return out, err
		}
		if e.ref.Uncached != nil {
			e.eval.note(notCached(e.ref.Uncached).Error())
		}
		e.labels = e.eval.frequencies(m.Description, e.set.Set, r.EvalN)
	}
	from, err := generate.FromFunction(m.Function, m.Description, m.Net, "")
	if err != nil {
		return out, err
	}
	plan, err := from.Plan(ctx, generate.Request{N: r.EvalN, Batch: 32, Steps: r.EvalSteps, Labels: e.labels})
	if err != nil {
		return out, err
	}
	defer plan.Close()
	report, err := e.ref.Compare(ctx, planned(ctx, plan), evaluation.Options{})
	if err != nil {
		return out, err
	}
	named := func(kind string) string {
		return strings.ToLower(strings.ReplaceAll(Figure(kind, report.Features), "-", "_"))
	}
	g := report.Generated
	out = training.Evaluation{
		Name: named("FD"), Value: g.Frechet,
		Of: fmt.Sprintf("%s (%s) of %s in %s, %d real images of %s", Figure("FD", report.Features), report.Resize, plural.N(g.B, "image"), plural.N(plan.Steps, "step"), g.A, quote.Text(e.set.Name())),
		More: map[string]float64{
			named("FD") + "_real": report.Floor.Frechet, named("KID"): g.Kernel, "precision": g.Precision, "recall": g.Recall,
			"copies_below_1": report.Copies.Below1,
		},
	}
	if i := report.Interval; i != nil {
		out.More[named("FD")+"_low"], out.More[named("FD")+"_high"] = i.Low, i.High
	}
	return out, nil
}
