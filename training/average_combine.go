package training

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training/rundir"
)

// ErrNoAverages is the error for runs without power-function EMA weights.
var ErrNoAverages = errors.New("no snapshot holds power-function EMA weights, from which other widths can be computed: train with one width, or better with two, such as 0.05 and 0.1")

// SavedAverage is a snapshot of power-function EMA weights.
type SavedAverage struct {
	Path  string
	Width float64 // see [models.PowerWidth]
	Step  int     // optimizer steps so far
}

// SavedAverages lists a run's snapshots of power-function EMA weights by step and width, without reading weights. A directory without
// any is an error that wraps [ErrNoAverages].
func SavedAverages(dir string) ([]SavedAverage, error) {
	paths, err := rundir.Snapshots(dir)
	if err != nil {
		return nil, err
	}
	var all []SavedAverage
	for _, path := range paths {
		f, err := safetensors.Open(path)
		if err != nil {
			return nil, fmt.Errorf("EMA weights of %s: %w; remove the file to use the others", quote.Path(dir), err)
		}
		text, ok := f.Metadata()[averageKey]
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("EMA weights of %s: %w", quote.Path(dir), err)
		}
		if !ok {
			continue
		}
		var head averageHead
		if err := json.Unmarshal([]byte(text), &head); err != nil {
			return nil, fmt.Errorf("EMA weights of %s: %s: damaged description of the EMA: %w", quote.Path(dir), quote.Path(path), quote.Error(err))
		}
		if head.Width == 0 || head.Combined {
			continue
		}
		if _, err := models.PowerExponent(head.Width); err != nil || head.Step < 1 {
			return nil, fmt.Errorf("EMA weights of %s: %s is damaged: it says that it has width %g, of step %d", quote.Path(dir), quote.Path(path), head.Width, head.Step)
		}
		all = append(all, SavedAverage{path, head.Width, head.Step})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("EMA weights of %s: %w", quote.Path(dir), ErrNoAverages)
	}
	slices.SortFunc(all, func(a, b SavedAverage) int {
		return cmp.Or(cmp.Compare(a.Step, b.Step), cmp.Compare(a.Width, b.Width), cmp.Compare(a.Path, b.Path))
	})
	// Ignore copies of a file.
	return slices.CompactFunc(all, func(a, b SavedAverage) bool { return a.Step == b.Step && a.Width == b.Width }), nil
}

// Combination is post-hoc EMA weights: a weighted sum of a run's saved EMA weights.
type Combination struct {
	Width float64
	Step  int
	// The EMA weights are the sum over i of Factors[i] times From[i].
	From    []SavedAverage
	Factors []float64
	// Distance is the relative error of the sum's profile, which is its weights of the run's steps: 0.05 is close; from about 0.3 the
	// result is a different EMA. It is large for widths far outside of the saved ones, and with few snapshots.
	Distance float64
}

// CombineAverages computes EMA weights of any width after training (post-hoc EMA, Karras et al. 2024, section 3.2) from all snapshots of
// power-function EMA weights in the run directory up to step, by [models.Combine]. The width is 0.001 to 0.288, relative to the run until
// step. There has to be a snapshot of that step; 0: the last. No weights are read before [Combination.Save].
func CombineAverages(dir string, width float64, step int) (*Combination, error) {
	gamma, err := models.PowerExponent(width)
	if err != nil {
		return nil, err
	}
	all, err := SavedAverages(dir)
	if err != nil {
		return nil, err
	}
	if step == 0 {
		step = all[len(all)-1].Step
	}
	c := &Combination{Width: width, Step: step}
	var have []models.PowerAverage
	for _, a := range all {
		if a.Step > step {
			break
		}
		g, err := models.PowerExponent(a.Width)
		if err != nil {
			return nil, err
		}
		c.From, have = append(c.From, a), append(have, models.PowerAverage{Gamma: g, Step: a.Step})
	}
	if len(have) == 0 || have[len(have)-1].Step != step {
		var steps []int
		for _, a := range all {
			steps = append(steps, a.Step)
		}
		steps = slices.Compact(steps)
		return nil, fmt.Errorf("EMA weights of %s: no snapshot of step %d: want one of the steps %v", quote.Path(dir), step, shorten(steps))
	}
	if a := have[0]; len(have) == 1 && a.Gamma != gamma {
		return nil, fmt.Errorf("EMA weights of %s: up to step %d there is only one snapshot, of width %g: want at least two for another width", quote.Path(dir), step, c.From[0].Width)
	}
	c.Factors, c.Distance, err = models.Combine(have, models.PowerAverage{Gamma: gamma, Step: step})
	return c, err
}

// shorten replaces the middle of a long list by an ellipsis.
func shorten(steps []int) []any {
	var shown []any
	for i, n := range steps {
		switch {
		case i < 4 || i >= len(steps)-4:
			shown = append(shown, n)
		case i == 4:
			shown = append(shown, "…")
		}
	}
	return shown
}

// SaveOptions define whether an existing file is replaced.
type SaveOptions struct{ Overwrite bool }

// Save writes the combined EMA weights as a snapshot, with the types and metadata of the last one. It processes one tensor at a time from
// memory-mapped files, so that it needs memory for a few tensors only. Tensors that are not trained, such as fixed frequencies, are copied.
// Without Overwrite, an existing file is an error that wraps fs.ErrExist.
func (c *Combination) Save(path string, o SaveOptions) (err error) {
	fail := func(err error) error { return fmt.Errorf("combine EMA weights: %w", err) }
	var files []*torch.Weights
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, a := range c.From {
		if sameFile(a.Path, path) {
			return fail(fmt.Errorf("%s is one of the snapshots to combine: want another file", quote.Path(path)))
		}
		f, err := torch.OpenWeights(a.Path)
		if err != nil {
			return fail(err)
		}
		files = append(files, f)
	}
	last := files[len(files)-1].File()
	for _, f := range files[:len(files)-1] {
		if err := sameTensors(f.File(), last); err != nil {
			return fail(err)
		}
	}
	metadata, err := averageHead{Width: c.Width, Step: c.Step, Combined: true}.addTo(last.Metadata())
	if err != nil {
		return fail(err)
	}
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		var sums []safetensors.Source
		for v := range last.Tensors() {
			sums = append(sums, safetensors.Source{Name: v.Name, DType: v.DType, Shape: v.Shape, Data: func() (data []byte, err error) {
				err = s.Run(func(s *torch.Scope) error {
					data, err = c.sum(s, files, v)
					return err
				})
				return data, err
			}})
		}
		return safetensors.Write(path, sums, safetensors.Options{Metadata: metadata, Overwrite: o.Overwrite})
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

// sum returns the weighted sum of one tensor over all files, in float64, in the type of v, which is the last file's.
func (c *Combination) sum(s *torch.Scope, files []*torch.Weights, v safetensors.Tensor) ([]byte, error) {
	same := true
	for _, f := range files {
		w, _ := f.File().Tensor(v.Name)
		same = same && bytes.Equal(w.Data, v.Data)
	}
	if same {
		return v.Data, nil
	}
	sum := torch.Zeros(s, torch.Float64, v.Shape...)
	var dtype torch.DType
	for i, f := range files {
		err := s.Run(func(s *torch.Scope) error {
			w, err := f.Get(s, v.Name)
			if err != nil {
				return err
			}
			dtype = w.DType()
			if !dtype.IsFloat() {
				return fmt.Errorf("tensor %s has type %v and differs between snapshots: want floating-point numbers", quote.Text(v.Name), dtype)
			}
			if n := torch.CountNonFinite(s, []*torch.Tensor{w}); n > 0 {
				return fmt.Errorf("%s: %d elements of tensor %s are NaN or infinite: the file is damaged; remove it to combine the others", quote.Path(f.File().Path()), n, quote.Text(v.Name))
			}
			sum.AddScaledInPlace(s, w.To(s, torch.Float64), c.Factors[i])
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return sum.To(s, dtype).Bytes(), nil
}

// sameTensors reports how the tensors of two files differ.
func sameTensors(f, want *safetensors.File) error {
	if f.Len() != want.Len() {
		return fmt.Errorf("%s has %d tensors, but %s has %d: the snapshots are of different runs", quote.Path(f.Path()), f.Len(), quote.Path(want.Path()), want.Len())
	}
	for w := range want.Tensors() {
		v, ok := f.Tensor(w.Name)
		if !ok || v.DType != w.DType || !slices.Equal(v.Shape, w.Shape) {
			return fmt.Errorf("%s and %s differ in the shape or type of tensor %s: the snapshots are of different runs", quote.Path(f.Path()), quote.Path(want.Path()), quote.Quoted(w.Name))
		}
	}
	return nil
}

// sameFile reports whether two paths are the same existing file.
func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
