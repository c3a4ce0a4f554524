package job

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math/rand/v2"
	"slices"
	"sort"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/dataset"
)

// pixelData is a data set as real images.
type pixelData struct{ *dataset.Set }

func (d pixelData) identity() (string, error) {
	sum, err := d.Identity()
	c, h, w := d.Shape()
	return fmt.Sprintf("%s %d×%d×%d", sum, c, h, w), err
}

func (d pixelData) notices() []string { return d.Notices() }

// openImages opens a directory of images instead of a model.
func (o Eval) openImages(out *Evaluated) (c compared, err error) {
	images, err := dataset.Open(o.Images, dataset.Options{Resolution: o.Resolution, Square: true, Side: 224})
	if err != nil {
		return c, fmt.Errorf("--images: %w", err)
	}
	c.close = func() { _ = images.Close() }
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	_, out.Height, out.Width = images.Shape()
	for _, n := range images.Notices() {
		o.note("--images: " + n)
	}
	set, err := dataset.Open(o.Data, dataset.Options{Resolution: out.Width, Dir: o.DataDir})
	if err != nil {
		return c, fmt.Errorf("--data: %w", err)
	}
	c.close = func() { _, _ = images.Close(), set.Close() }
	c.data, c.n = pixelData{set}, images.Len()
	if o.N != 0 {
		c.n = min(c.n, o.N)
	}
	if c.n < leastImages {
		return c, fmt.Errorf("--images: want at least %d images, as the 5 nearest neighbours are compared, %s has %d", leastImages, images.Name(), c.n)
	}
	if c.n < o.N {
		o.note(fmt.Sprintf("--n %d: %s has %s, which are all used", o.N, images.Name(), plural.N(c.n, "image")))
	}
	c.images = func(context.Context, *evaluation.Reference) evaluation.Images {
		return func(yield func(image.Image, error) bool) {
			for i := range c.n {
				img, err := pixelData{images}.Image(i)
				if !yield(img, err) || err != nil {
					return
				}
			}
		}
	}
	return c, nil
}

// openPixels opens a pixel-space model.
func (o Eval) openPixels(ctx context.Context, dev torch.Device, out *Evaluated) (c compared, err error) {
	if o.OriginalSteps != 0 {
		return c, usage("--original-steps: only the samplers lcm and tcd of Stable Diffusion use it: leave it out")
	}
	if len(o.LoRAs) > 0 {
		return c, usage("--lora: adapters are for Stable Diffusion, and this is a pixel-space model: leave the option out")
	}
	model, err := openFile(o.Model, dev)
	if err != nil {
		return c, instead("--model", o.Model, err)
	}
	c.close = func() { model.Close() }
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	o.note(ofBest(o.Model, model)...)
	d := model.Description
	shape := d.Network.Shape()
	if len(shape) != 3 || shape[1] != shape[2] || shape[0] != 1 && shape[0] != 3 {
		return c, usage("--model: want a model of square grey or colour images, this one has shape %v", shape)
	}
	set, err := dataset.Open(o.Data, dataset.Options{Resolution: shape[1], Channels: shape[0], Dir: o.DataDir})
	if err != nil {
		return c, fmt.Errorf("--data: %w", err)
	}
	c.close = func() { model.Close(); _ = set.Close() }
	c.data, c.n = pixelData{set}, o.N
	if c.n == 0 {
		c.n = evalImages
	}
	s := Sample{N: c.n, Seed: o.Seed, Batch: o.Batch, Sampler: o.Sampler, Steps: o.Steps, Times: o.Times, Label: Unset, Force: o.Force, DType: o.DType}
	if o.Guidance != nil {
		s.Guidance = *o.Guidance
	}
	s.Labels = o.frequencies(d, set, c.n)
	from, err := generate.FromFile(model)
	if err != nil {
		return c, err
	}
	plan, err := from.Plan(ctx, s.request())
	if err != nil {
		return c, byFlag(err)
	}
	c.search = searchable{file: model, model: from, sample: s}
	release := c.close
	c.close = func() { plan.Close(); release() }
	o.note(plan.Notices...)
	if err := s.fitsMemory(d.Network, dev); err != nil {
		return c, err
	}
	out.Model, out.Sampler, out.Steps, out.Evaluations, out.Width, out.Height = model.Path, plan.Sampler, plan.Steps, plan.Evaluations, plan.Width, plan.Height
	c.images = func(ctx context.Context, _ *evaluation.Reference) evaluation.Images {
		return planned(ctx, plan)
	}
	return c, nil
}

// frequencies returns the classes of n images of a class-conditional model, as often as in the data; nil: the model has no classes, or the data
// have others, which is noted.
func (o Eval) frequencies(d checkpoint.Description, set *dataset.Set, n int) []int {
	classes, counts := d.Network.Classes(), set.Counts()
	if classes == 0 {
		return nil
	}
	of, err := classesOf(d, set.Classes(), counts)
	if err != nil {
		o.note(fmt.Sprintf("%v: all %s of the model are generated equally often", err, plural.N(classes, "class")))
		return nil
	}
	labels := apportion(of, n)
	r := rand.New(rand.NewPCG(o.Seed, 1))
	r.Shuffle(n, func(i, j int) { labels[i], labels[j] = labels[j], labels[i] })
	return labels
}

// classesOf returns the number of images of the data for each class of a model.
func classesOf(d checkpoint.Description, names []string, counts []int) ([]int, error) {
	classes := d.Network.Classes()
	out := make([]int, classes)
	if len(counts) == 0 {
		return nil, errors.New("the data have no classes")
	}
	for label, n := range counts {
		at := label
		if len(d.ClassNames) > 0 && len(names) == len(counts) {
			at = slices.Index(d.ClassNames, names[label])
		}
		if n > 0 && (at < 0 || at >= classes) {
			return nil, errors.New("the data have classes that the model does not have")
		}
		if n > 0 {
			out[at] += n
		}
	}
	return out, nil
}

// apportion returns n labels with the frequencies of counts, by largest remainders.
func apportion(counts []int, n int) []int {
	all := 0
	for _, c := range counts {
		all += c
	}
	type share struct{ label, rest int }
	var labels []int
	shares := make([]share, len(counts))
	for label, c := range counts {
		exact := c * n
		labels = append(labels, slices.Repeat([]int{label}, exact/all)...)
		shares[label] = share{label, exact % all}
	}
	sort.SliceStable(shares, func(i, j int) bool { return shares[i].rest > shares[j].rest })
	for _, s := range shares[:n-len(labels)] {
		labels = append(labels, s.label)
	}
	return labels
}
