package latents

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io/fs"
	"iter"
	"slices"
	"sync"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/internal/shuffle"
)

// ahead is the number of batches that are read before they are needed.
const ahead = 4

// Batches implements [training.Source]: batches from the sample at position start on. Files and images are read ahead in the background.
// What is not in the cache is encoded when a batch is made, so that the autoencoder and the text encoders must then be open.
func (s *Source) Batches(ctx context.Context, start int64) iter.Seq2[func(in *torch.Scope) training.Batch, error] {
	return func(yield func(func(in *torch.Scope) training.Batch, error) bool) {
		if s.closed.Load() {
			yield(nil, &Error{fmt.Errorf("the source was closed (%w)", torch.ErrFreed)})
			return
		}
		if start < 0 {
			yield(nil, &Error{fmt.Errorf("want a position of at least 0, got %d", start)})
			return
		}
		work, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		queue := make(chan *batch, ahead)
		wg.Go(func() {
			defer close(queue)
			for items := range s.order.From(start) {
				for len(items) > 0 && items[0].Position < start { // the run stopped within this batch
					items = items[1:]
				}
				b := &batch{ready: make(chan struct{})}
				select {
				case queue <- b:
				case <-work.Done():
					return
				}
				wg.Go(func() {
					defer close(b.ready)
					b.samples, b.err = s.load(work, items)
				})
			}
		})
		for {
			var b *batch
			select {
			case b = <-queue:
			case <-ctx.Done():
			}
			if b != nil {
				select {
				case <-b.ready:
				case <-ctx.Done():
				}
			}
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			if b == nil {
				yield(nil, &Error{errors.New("the set has no samples")})
				return
			}
			if b.err != nil {
				yield(nil, &Error{b.err})
				return
			}
			if !yield(func(in *torch.Scope) training.Batch { return s.batch(in, b.samples) }, nil) {
				return
			}
		}
	}
}

// batch is samples that are read in the background.
type batch struct {
	samples []sample
	err     error
	ready   chan struct{}
}

// sample is one of a batch. What is nil has to be encoded.
type sample struct {
	captioned.Item
	latents entry
	pixels  image.Image
	text    entry
}

// load reads a batch.
func (s *Source) load(ctx context.Context, items []captioned.Item) ([]sample, error) {
	samples := make([]sample, len(items))
	for i, it := range items {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at := &samples[i]
		var err error
		if *at, err = s.image(it); err != nil {
			return nil, err
		}
		if at.text, err = s.text(at.Item); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

// image reads an item's latents, or its pixels. For a corrupt image it is the next item, if that is allowed.
func (s *Source) image(it captioned.Item) (at sample, err error) {
	for range s.set.Len() {
		at = sample{Item: it}
		var found error
		if s.cached(it) {
			im := &s.set.Images()[it.Image]
			at.latents, found = s.cache.read(s.images.key(im, it), s.images.want(it.Width, it.Height))
			if found == nil {
				return at, nil
			}
		}
		var bad *dataset.CorruptError
		at.pixels, err = s.set.Read(it)
		switch {
		case errors.As(err, &bad) && s.skip:
			it = s.order.Next(it)
			continue
		case err == nil && found != nil:
			err = s.again(found, s.images.closed())
		}
		return at, err
	}
	return at, fmt.Errorf("none of %d images can be decoded; the last: %w", s.set.Len(), err)
}

// text reads the features of an item's caption; nil if they have to be encoded, or if there are none.
func (s *Source) text(it captioned.Item) (entry, error) {
	if s.texts == nil || s.later {
		return nil, nil
	}
	if it.Caption == "" {
		return s.texts.null, nil
	}
	if s.cache == nil {
		return nil, nil
	}
	if _, fixed := s.set.Captions(it.Image); !fixed {
		return nil, nil
	}
	e, err := s.cache.read(s.texts.key(it.Caption), s.texts.want())
	if err != nil {
		return nil, s.again(err, s.texts.closed())
	}
	return e, nil
}

// cached reports whether an item's latents are in the cache.
func (s *Source) cached(it captioned.Item) bool {
	if s.cache == nil {
		return false
	}
	_, fixed := s.set.Items(it.Image)
	return fixed
}

// again says that an entry that cannot be read is made anew, or returns an error if the encoder was closed.
func (s *Source) again(why error, closed bool) error {
	if closed {
		return fmt.Errorf("cache: %w; the encoder that could make it anew was closed: open the source again, with the model", quote.Error(why))
	}
	if errors.Is(why, fs.ErrNotExist) || !s.note("made anew: %v", quote.Error(why)) { // batches that are read ahead may find the same
		return nil
	}
	var bad *damagedError
	if errors.As(why, &bad) {
		return bad.remove()
	}
	return nil
}

// drawSeed is that of the draw from a sample's moments.
func (s *Source) drawSeed(position int64) uint64 {
	const ofDraws = 0x6c6174656e7473 // other numbers than those of the order
	return shuffle.Mix(s.seed ^ shuffle.Mix(uint64(position)^shuffle.Mix(ofDraws)))
}

// batch makes a batch's tensors. It panics like an operator.
func (s *Source) batch(in *torch.Scope, samples []sample) (b training.Batch) {
	fail := func(err error) {
		if err != nil {
			panic(&torch.Error{Op: "latents", Msg: err.Error(), Err: err})
		}
	}
	fail(s.encodeImages(samples))
	seeds := make([]uint64, len(samples))
	weights := make([]float32, len(samples))
	sizes := make([]float32, 0, 6*len(samples))
	weighted := false
	for i, at := range samples {
		seeds[i] = s.drawSeed(at.Position)
		weights[i] = float32(at.Weight)
		weighted = weighted || at.Weight != 1
		im := s.set.Images()[at.Image]
		left := at.Crop.Min.X
		if at.Flip {
			left = at.Scaled.X - at.Crop.Max.X // of the mirrored image
		}
		sizes = append(sizes, float32(im.Height), float32(im.Width), float32(at.Crop.Min.Y), float32(left), float32(at.Height), float32(at.Width))
	}
	b.X = in.Tidy(func(in *torch.Scope) *torch.Tensor {
		return s.images.draw(in, joined(in, samples, func(at sample) entry { return at.latents }), seeds)
	})
	if weighted {
		b.Weight = torch.FromSlice(in, weights)
	}
	if s.texts == nil {
		return b
	}
	if s.later {
		b.Captions = make([]string, len(samples))
		for i, at := range samples {
			b.Captions[i] = at.Caption
		}
	} else {
		fail(s.encodeTexts(samples))
		b.Cond = condition(joined(in, samples, func(at sample) entry { return at.text }))
	}
	if s.texts.null.get(pooledName) != nil {
		b.Cond.Sizes = torch.FromSlice(in, sizes, len(samples), 6)
	}
	return b
}

// joined returns the arrays of the samples' entries as tensors [B, ...].
func joined(s *torch.Scope, samples []sample, of func(at sample) entry) (all []*torch.Tensor) {
	for i, a := range of(samples[0]) {
		data := make([]byte, 0, len(samples)*a.bytes())
		for _, at := range samples {
			data = append(data, of(at)[i].data...)
		}
		all = append(all, torch.FromBytes(s, data, a.dtype, append([]int{len(samples)}, a.shape...)...))
	}
	return all
}

// encodeImages encodes the images of a batch that were not in the cache, and stores those that belong there.
func (s *Source) encodeImages(samples []sample) error {
	var rest []int
	for i := range samples {
		if samples[i].latents == nil {
			rest = append(rest, i)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	if s.images.closed() {
		return fmt.Errorf("the autoencoder was closed (%w), and not all latents are in a cache", torch.ErrFreed)
	}
	return torch.Run(s.images.device, func(in *torch.Scope) error {
		for group := range slices.Chunk(rest, s.group) {
			images := make([]image.Image, len(group))
			for n, i := range group {
				images[n] = samples[i].pixels
			}
			of, err := s.images.encode(in, images)
			for n, i := range group {
				at := &samples[i]
				im := &s.set.Images()[at.Image]
				if err == nil {
					at.latents, err = arrays(in, s.images.want(at.Width, at.Height), of, n)
				}
				if err != nil {
					return fmt.Errorf("image %s: %w", quote.Path(im.Key), err)
				}
				if s.cached(at.Item) {
					s.keep(s.images.key(im, at.Item), at.latents)
				}
			}
		}
		return nil
	})
}

// keep stores an entry. If that fails, training goes on with it all the same.
func (s *Source) keep(k key, e entry) {
	if err := s.cache.write(k, e); err != nil {
		s.note("not kept in the cache: %v", err)
	}
}

// encodeTexts encodes the captions of a batch that were not in the cache, and stores those that belong there.
func (s *Source) encodeTexts(samples []sample) error {
	var rest []int
	var captions []string
	for i := range samples {
		if samples[i].text == nil {
			rest, captions = append(rest, i), append(captions, samples[i].Caption)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	if s.texts.closed() {
		return fmt.Errorf("the text encoder was closed (%w), and not all text features are in a cache", torch.ErrFreed)
	}
	return torch.Run(s.texts.device(), func(in *torch.Scope) error {
		of, err := s.texts.encode(in, captions)
		for n, i := range rest {
			at := &samples[i]
			if err == nil {
				at.text, err = arrays(in, s.texts.want(), of, n)
			}
			if err != nil {
				return fmt.Errorf("caption of %s: %w", quote.Path(s.set.Images()[at.Image].Key), err)
			}
			if _, fixed := s.set.Captions(at.Image); fixed && s.cache != nil {
				s.keep(s.texts.key(at.Caption), at.text)
			}
		}
		return nil
	})
}
