package evaluation_test

import (
	"context"
	"errors"
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/torch"
)

// pixels is an extractor: the 12 values of images of 2×2 pixels, from -1 to 1.
type pixels struct{}

func (pixels) Features(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return x.Reshape(s, x.Dim(0), -1)
}

var features = evaluation.Features{Extractor: pixels{}, Name: "Pixels", Resize: "none", Identity: "pixels"}

// drawn is a set of random images.
type drawn struct {
	images []image.Image
	read   int
	err    error
}

func (d *drawn) Len() int { return len(d.images) }

func (d *drawn) Image(i int) (image.Image, error) {
	d.read++
	return d.images[i], d.err
}

func (d *drawn) all(yield func(image.Image, error) bool) {
	for _, img := range d.images {
		if !yield(img, nil) {
			return
		}
	}
}

// draw draws n images, whose levels have that mean.
func draw(seed uint64, n int, mean float64) *drawn {
	r := rand.New(rand.NewPCG(seed, 0))
	d := &drawn{}
	level := func() uint8 { return uint8(min(255, max(0, mean+20*r.NormFloat64()))) }
	for range n {
		img := image.NewNRGBA(image.Rect(0, 0, 2, 2))
		for i := range 4 {
			img.SetNRGBA(i%2, i/2, color.NRGBA{level(), level(), level(), 255})
		}
		d.images = append(d.images, img)
	}
	return d
}

// Images that are brighter by 40 levels in all of 12 values are at 12·(40/127.5)² (Fréchet) and 40/127.5·√12/√12 (sliced); new images of the
// same distribution are as far as the floor, and have about the fractions of copies that real ones have.
func TestCompare(t *testing.T) {
	ctx := context.Background()
	real := draw(1, 1500, 100)
	near, err := evaluation.Compare(ctx, features, real, draw(2, 700, 100).all, evaluation.Options{})
	require.NoError(t, err)
	require.Equal(t, "Pixels", near.Features)
	require.Equal(t, [4]int{1500, 700, 1500, 700}, [4]int{near.Generated.A, near.Generated.B, near.Generated.RowsA, near.Generated.RowsB})
	require.Equal(t, [4]int{800, 700, 800, 700}, [4]int{near.Floor.A, near.Floor.B, near.Floor.RowsA, near.Floor.RowsB})
	require.InDelta(t, near.Floor.Frechet, near.Generated.Frechet, 0.01)
	require.Less(t, near.Generated.Frechet, 0.02)
	require.InDelta(t, 0, near.Generated.Kernel, 3*near.Generated.KernelStd)
	require.InDelta(t, near.Floor.Precision, near.Generated.Precision, 0.06)
	require.InDelta(t, near.Floor.Recall, near.Generated.Recall, 0.06)
	require.InDelta(t, near.Copies.MedianReal, near.Copies.Median, 0.05*near.Copies.MedianReal)
	for want, got := range map[float64]float64{0.01: near.Copies.Below1, 0.05: near.Copies.Below5, 0.5: near.Copies.Below50} {
		require.InDelta(t, want, got, 4*math.Sqrt(want*(1-want)/700)) // the standard deviation of a count
	}
	require.InDelta(t, 0.5, near.Copies.Closer, 0.2)
	require.Nil(t, near.Agreement)

	far, err := evaluation.Compare(ctx, features, real, draw(2, 700, 140).all, evaluation.Options{})
	require.NoError(t, err)
	shift := 40 / 127.5
	require.InEpsilon(t, 12*shift*shift, far.Generated.Frechet, 0.1)
	require.InEpsilon(t, shift, far.Generated.Sliced, 0.1)
	require.Less(t, far.Interval.Low, far.Generated.Frechet)
	require.Greater(t, far.Interval.High, far.Generated.Frechet)
	require.Less(t, far.Interval.Low, 12*shift*shift+0.03)
	require.Greater(t, far.Generated.Kernel, 10*far.Generated.KernelStd)
	require.Less(t, far.Generated.Coverage, near.Generated.Coverage/2)
	require.Equal(t, near.Floor, far.Floor)

	again, err := evaluation.Compare(ctx, features, real, draw(2, 700, 140).all, evaluation.Options{})
	require.NoError(t, err)
	require.Equal(t, far, again)
}

// A generator that repeats the data has a better Fréchet distance than any model should, and is found out by its nearest neighbours.
func TestCompareFindsCopies(t *testing.T) {
	real := draw(1, 300, 100)
	copies := &drawn{images: real.images[:100]}
	got, err := evaluation.Compare(context.Background(), features, real, copies.all, evaluation.Options{Pairs: 3})
	require.NoError(t, err)
	require.Equal(t, [4]float64{1, 1, 1, 1}, [4]float64{got.Copies.Below1, got.Copies.Below5, got.Copies.Below50, got.Copies.Closer})
	require.Zero(t, got.Copies.Median)
	require.Len(t, got.Pairs, 3)
	for i, p := range got.Pairs {
		require.Equal(t, i, p.Index)
		require.Equal(t, i, p.Real)
		require.Zero(t, p.Distance)
		require.Equal(t, real.images[i], p.Image)
	}
}

// With two images for each of 50 captions, copies of one of them agree always; images of other captions at random agree as often as chance.
func TestAgreement(t *testing.T) {
	ctx := context.Background()
	real := draw(1, 100, 100)
	r, err := evaluation.NewReference(ctx, features, real, evaluation.ReferenceOptions{})
	require.NoError(t, err)
	defer r.Close()
	require.ElementsMatch(t, indices(100), r.Compared())
	same := func(i, at int) bool { return i/2 == at/2 }
	got, err := r.Agreement(ctx, real.all, same)
	require.NoError(t, err)
	require.Equal(t, 100, got.Images)
	require.Equal(t, [2]float64{1, 1}, [2]float64{got.Top1, got.Top5})
	require.InDelta(t, 0.02, got.Chance1, 1e-12)
	require.InDelta(t, 1-math.Pow(0.98, 5), got.Chance5, 1e-12)
	report, err := r.Compare(ctx, real.all, evaluation.Options{Same: same})
	require.NoError(t, err)
	require.Equal(t, got, *report.Agreement)

	got, err = r.Agreement(ctx, draw(3, 1000, 100).all, func(i, at int) bool { return i%50 == at/2 })
	require.NoError(t, err)
	require.InDelta(t, got.Chance1, got.Top1, 0.015)
	require.InDelta(t, got.Chance5, got.Top5, 0.035)
	_, err = r.Agreement(ctx, func(func(image.Image, error) bool) {}, same)
	require.ErrorContains(t, err, "no images")
}

func indices(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// The features of a set are read from the cache, unless a file is damaged or anything that they depend on has changed.
func TestCache(t *testing.T) {
	ctx, dir := context.Background(), filepath.Join(t.TempDir(), "new", "cache")
	real := draw(1, 60, 100)
	o := evaluation.Options{Reference: evaluation.ReferenceOptions{Cache: dir, Identity: "a set", Rows: 40}}
	compare := func(f evaluation.Features, o evaluation.Options) (evaluation.Report, bool) {
		t.Helper()
		real.read = 0
		got, err := evaluation.Compare(ctx, f, real, draw(2, 30, 100).all, o)
		require.NoError(t, err)
		return got, real.read < real.Len() // the pixels of some are compared
	}
	want, cached := compare(features, o)
	require.False(t, cached)
	require.Equal(t, 40, want.Generated.RowsA)
	require.Equal(t, 60, want.Generated.A)
	got, cached := compare(features, o)
	require.True(t, cached)
	require.Equal(t, want, got)

	other, changed := o, features
	other.Reference.Identity, changed.Identity = "another", "changed"
	_, cached = compare(features, other)
	require.False(t, cached)
	_, cached = compare(changed, o)
	require.False(t, cached)
	none := o
	none.Reference.Identity = ""
	_, cached = compare(features, none)
	require.False(t, cached)

	files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, spoil := range []func(data []byte) []byte{
		func(data []byte) []byte { data[len(data)-3] ^= 1; return data },
		func(data []byte) []byte { return data[:len(data)-8] },
		func([]byte) []byte { return nil },
	} {
		for _, file := range files {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, spoil(data), 0o600))
		}
		got, cached = compare(features, o)
		require.False(t, cached)
		require.Equal(t, want, got)
		_, cached = compare(features, o)
		require.True(t, cached)
	}
}

// Other images under the same identity, such as files of the same names and sizes, have features of their own.
func TestCacheOfOtherImages(t *testing.T) {
	ctx, o := context.Background(), evaluation.ReferenceOptions{Cache: t.TempDir(), Identity: "a set"}
	generated := draw(2, 30, 100)
	for _, cached := range []bool{false, true} {
		for _, mean := range []float64{100, 140} {
			real := draw(1, 60, mean)
			r, err := evaluation.NewReference(ctx, features, real, o)
			require.NoError(t, err)
			defer r.Close()
			require.Equal(t, cached, r.Cached)
			got, err := r.Compare(ctx, generated.all, evaluation.Options{})
			require.NoError(t, err)
			want, err := evaluation.Compare(ctx, features, real, generated.all, evaluation.Options{})
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
	_, err := evaluation.NewReference(ctx, features, &drawn{images: generated.images, err: errors.New("unreadable")}, o)
	require.ErrorContains(t, err, "unreadable")
}

// stored is a set whose images have content.
type stored struct {
	*drawn
	content [][]byte
}

func (s stored) Content(i int) ([]byte, error) {
	if s.content[i] == nil {
		return nil, errors.New("unreadable")
	}
	return s.content[i], nil
}

// The content of every image counts, where a set has it, and no image is decoded for it.
func TestCacheByContent(t *testing.T) {
	set := stored{drawn: draw(1, 60, 100)}
	for i := range 60 {
		set.content = append(set.content, []byte{byte(i)})
	}
	o := evaluation.ReferenceOptions{Cache: t.TempDir(), Identity: "a set"}
	for _, cached := range []bool{false, true} {
		set.read = 0
		r, err := evaluation.NewReference(context.Background(), features, set, o)
		require.NoError(t, err)
		r.Close()
		require.Equal(t, cached, r.Cached)
		require.Equal(t, cached, set.read == 0)
	}
	for i := range 60 {
		set.content[i] = append(set.content[i], 1)
		r, err := evaluation.NewReference(context.Background(), features, set, o)
		require.NoError(t, err)
		r.Close()
		require.False(t, r.Cached, "image %d is another", i)
	}
	set.content[7] = nil
	_, err := evaluation.NewReference(context.Background(), features, set, o)
	require.ErrorContains(t, err, "unreadable")
}

// Features that took hours are not lost because they cannot be cached.
func TestCacheThatCannotBeWritten(t *testing.T) {
	ctx, file := context.Background(), filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	real := draw(1, 60, 100)
	r, err := evaluation.NewReference(ctx, features, real, evaluation.ReferenceOptions{Cache: file, Identity: "a set"})
	require.NoError(t, err)
	defer r.Close()
	require.ErrorContains(t, r.Uncached, "not a directory")
	_, err = r.Compare(ctx, draw(2, 30, 100).all, evaluation.Options{})
	require.NoError(t, err)
}

// Cached statistics of an extractor that computes other features now are refused, with the file to remove.
func TestCacheOfOtherFeatures(t *testing.T) {
	ctx, o := context.Background(), evaluation.ReferenceOptions{Cache: t.TempDir(), Identity: "a set"}
	real := draw(1, 60, 100)
	first, err := evaluation.NewReference(ctx, features, real, o)
	require.NoError(t, err)
	defer first.Close()
	require.Equal(t, image.Pt(2, 2), first.Size)
	changed := features
	changed.Extractor = half{}
	r, err := evaluation.NewReference(ctx, changed, real, o)
	require.NoError(t, err)
	defer r.Close()
	require.True(t, r.Cached)
	require.Equal(t, image.Pt(2, 2), r.Size)
	_, err = r.Compare(ctx, draw(2, 30, 100).all, evaluation.Options{})
	require.ErrorContains(t, err, "have 12 features and the extractor Pixels computes 6")
	require.ErrorContains(t, err, o.Cache)
	_, err = r.Agreement(ctx, real.all, func(int, int) bool { return true })
	require.ErrorContains(t, err, "have 12 features")
}

// half is an extractor of half of the values.
type half struct{}

func (half) Features(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return x.Reshape(s, x.Dim(0), -1).Narrow(s, 1, 0, 6)
}

// Features with logits have a score, of generated and of real images, in parts as torch-fidelity's; a second comparison has the same numbers.
func TestScore(t *testing.T) {
	ctx := context.Background()
	scored := features
	scored.Logits = func(s *torch.Scope, x *torch.Tensor) *torch.Tensor { return x.MulScalar(s, 20) }
	r, err := evaluation.NewReference(ctx, scored, draw(1, 300, 100), evaluation.ReferenceOptions{})
	require.NoError(t, err)
	defer r.Close()
	got, err := r.Compare(ctx, draw(2, 100, 100).all, evaluation.Options{})
	require.NoError(t, err)
	for _, s := range []*evaluation.Score{got.Generated.Score, got.Floor.Score} {
		require.Greater(t, s.Mean, 1.5)
		require.Less(t, s.Mean, 12.0)
		require.Greater(t, s.Std, 0.0)
	}
	again, err := r.Compare(ctx, draw(2, 100, 100).all, evaluation.Options{})
	require.NoError(t, err)
	require.Equal(t, got, again)
	few, err := r.Compare(ctx, draw(2, 19, 100).all, evaluation.Options{})
	require.NoError(t, err)
	require.Nil(t, few.Generated.Score)
}

func TestCompareRefuses(t *testing.T) {
	ctx := context.Background()
	real, some := draw(1, 30, 100), draw(2, 30, 100)
	_, err := evaluation.Compare(ctx, features, draw(1, 11, 100), some.all, evaluation.Options{})
	require.ErrorContains(t, err, "at least 12 real images, got 11")
	_, err = evaluation.Compare(ctx, features, real, draw(1, 5, 100).all, evaluation.Options{})
	require.ErrorContains(t, err, "more than 5 generated images, got 5")
	_, err = evaluation.Compare(ctx, evaluation.Features{}, real, some.all, evaluation.Options{})
	require.ErrorContains(t, err, "extractor")
	damaged := errors.New("damaged")
	_, err = evaluation.Compare(ctx, features, &drawn{images: real.images, err: damaged}, some.all, evaluation.Options{})
	require.ErrorIs(t, err, damaged)
	_, err = evaluation.Compare(ctx, features, real, func(yield func(image.Image, error) bool) { yield(nil, damaged) }, evaluation.Options{})
	require.ErrorIs(t, err, damaged)
	over, cancel := context.WithCancel(ctx)
	cancel()
	_, err = evaluation.Compare(over, features, real, some.all, evaluation.Options{})
	require.ErrorIs(t, err, context.Canceled)
	large := &drawn{}
	for range 30 {
		large.images = append(large.images, image.NewGray(image.Rect(0, 0, 4, 3)))
	}
	_, err = evaluation.Compare(ctx, features, real, large.all, evaluation.Options{})
	require.ErrorContains(t, err, "the generated images have 4×3 pixels and the real ones 2×2")
	_, err = evaluation.Compare(ctx, features, &drawn{images: append(real.images[:20:20], large.images...)}, some.all, evaluation.Options{Reference: evaluation.ReferenceOptions{Batch: 1}})
	require.ErrorContains(t, err, "pixels and those before it")
	few, err := evaluation.Compare(ctx, features, real, draw(2, 19, 100).all, evaluation.Options{})
	require.NoError(t, err)
	require.Nil(t, few.Interval)
}

// oneRow is an extractor that forgets that images come in batches, and shaped one that returns that shape.
type (
	oneRow struct{}
	shaped []int
)

func (oneRow) Features(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return x.Reshape(s, x.Dim(0), -1).MeanDim(s, true, 0)
}

func (d shaped) Features(s *torch.Scope, _ *torch.Tensor) *torch.Tensor {
	return torch.Zeros(s, torch.Float32, d...)
}

// Features that are not one row for each image would be counted wrongly: they are refused.
func TestExtractorOfOtherShapes(t *testing.T) {
	real := draw(1, 60, 100)
	for want, e := range map[string]evaluation.Extractor{"[1 12]": oneRow{}, "[32]": shaped{32}, "[32 2 2]": shaped{32, 2, 2}, "[32 0]": shaped{32, 0}} {
		f := evaluation.Features{Extractor: e, Name: "Odd"}
		_, err := evaluation.NewReference(context.Background(), f, real, evaluation.ReferenceOptions{})
		require.ErrorContains(t, err, "the extractor Odd returned float32 of shape "+want+" for 32 images: want floating-point features [32, D]")
	}
}

// ending is a context that is cancelled when it has been asked for its error that many times.
type ending struct {
	context.Context
	left int
}

func (e *ending) Err() error {
	if e.left--; e.left < 0 {
		return context.Canceled
	}
	return nil
}

// A comparison that is cancelled has no figures, wherever it is: those that it did not reach would be taken for zeros.
func TestCancelledHasNoFigures(t *testing.T) {
	reference, err := evaluation.NewReference(context.Background(), features, draw(1, 60, 100), evaluation.ReferenceOptions{})
	require.NoError(t, err)
	defer reference.Close()
	cancelled := 0
	for left := range 100 {
		ctx := &ending{context.Background(), 1 << 30}
		report, err := reference.Compare(ctx, draw(2, 40, 100).all, evaluation.Options{Measure: func() { ctx.left = left }})
		if err == nil {
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, report)
		cancelled++
	}
	require.Greater(t, cancelled, 2, "the floor is cancelled, too")
}
