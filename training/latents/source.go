package latents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/captioned"
)

// Config is how a source is made.
type Config struct {
	Set *captioned.Set
	// Model has the autoencoder and, unless Unconditional is set, the text encoders. The U-Net may be missing; if it is there, its channels
	// are compared with the autoencoder's. A lone autoencoder is &sd.Model{VAE: autoencoder}.
	Model *sd.Model
	Batch int    // samples of a batch; 0: 1
	Seed  uint64 // of the order, the crops, flips and captions, and the draws from the autoencoder's moments

	// Cache is the directory that keeps latents and text features, which several sets, models and runs may share; "": none, and every batch
	// is encoded when it is needed.
	Cache string
	// Captions leaves the captions to a Prepare function (see [Encode]), so that text encoders can be trained.
	Captions bool
	// Unconditional leaves captions out: the batches have latents alone.
	Unconditional bool
	ClipSkip      int // number of last layers of the text encoders to skip, as in diffusers

	// Together is the number of images that are encoded in one call. 0: 1, so that an image's latents do not depend on which others are
	// encoded with it, to the last bit. More is faster for small images on a GPU.
	Together int
	// SkipCorrupt trains on the next image of the bucket in place of one that cannot be decoded. Otherwise that is an error.
	SkipCorrupt bool

	Progress func(Progress) // called while entries of the cache are checked and made, from one goroutine at a time; nil: none
	Log      *slog.Logger   // of notices; nil: none
}

// Progress is how far Open is.
type Progress struct {
	Stage string // "latents" or "text features"
	Done  int    // entries that are there
	All   int
	Made  int // of Done, those that were encoded now; the others were in the cache
}

// Source yields batches of latents, and of text features for their captions. It is a [training.Source].
type Source struct {
	set    *captioned.Set
	order  *captioned.Order
	images *imageEncoder
	texts  *textEncoder // nil: unconditional
	cache  *cache       // nil: none
	log    *slog.Logger
	seed   uint64
	later  bool // captions are left to Prepare
	skip   bool
	group  int

	closed  atomic.Bool
	mu      sync.Mutex
	notices []string

	// whole reports whether every sample's entries are in the cache.
	wholeImages, wholeTexts bool
}

var _ training.Source = (*Source)(nil)

// Open makes a source. With a cache it encodes the images and captions that the cache does not hold yet; when it is interrupted, or the disk
// is full, what was encoded stays, and the next call continues. The set and the model stay the caller's, and must be open while the source
// is used, but for the model if [Source.Complete] reports true.
func Open(ctx context.Context, c Config) (*Source, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{set: c.Set, log: c.Log, seed: c.Seed, later: c.Captions, skip: c.SkipCorrupt, group: max(c.Together, 1)}
	if err := c.check(); err != nil {
		return nil, &Error{err}
	}
	s.order = c.Set.Order(captioned.OrderOptions{Seed: c.Seed, Batch: max(c.Batch, 1)})
	if err := s.open(ctx, c); err != nil {
		return nil, &Error{err}
	}
	return s, nil
}

// Error is an error of encoding images and captions. A program that names the data itself takes Err.
type Error struct{ Err error }

// Error returns the message, which begins with latents.
func (e *Error) Error() string { return "latents: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// check returns an error for a configuration that no source can have.
func (c Config) check() error {
	switch {
	case c.Set == nil || c.Model == nil:
		return errors.New("want a set and a model (Set, Model)")
	case c.Set.Len() == 0:
		return fmt.Errorf("%s holds no images", quote.Path(c.Set.Name()))
	case c.Batch < 0:
		return fmt.Errorf("want a batch of at least 1 sample, or 0 for 1, got %d", c.Batch)
	case c.Together < 0:
		return fmt.Errorf("want at least 1 image encoded together, or 0 for 1, got %d", c.Together)
	case c.Captions && c.Unconditional:
		return errors.New("want only one of Captions and Unconditional")
	}
	return nil
}

func (s *Source) open(ctx context.Context, c Config) (err error) {
	if s.images, err = newImageEncoder(c.Model); err != nil {
		return err
	}
	for _, b := range c.Set.Summary().Buckets {
		if err := s.images.fits(b.Width, b.Height); err != nil {
			return err
		}
	}
	if !c.Unconditional {
		if s.texts, err = newTextEncoder(c.Model, c.ClipSkip, c.Captions); err != nil {
			return err
		}
	}
	if c.Cache != "" {
		s.cache = &cache{c.Cache}
		if err := s.cache.open(); err != nil {
			return &CacheError{err}
		}
	}
	if s.texts != nil {
		s.countTruncated()
	}
	if s.cache == nil {
		return nil
	}
	f := filler{Source: s, progress: c.Progress}
	return f.fill(ctx)
}

// countTruncated says how many captions are longer than the text encoders take. Those that change at random are counted as they are in the
// data.
func (s *Source) countTruncated() {
	by := s.texts.model.Texts[0].Tokenizer
	long, first := 0, ""
	for i := range s.set.Len() {
		texts, fixed := s.set.Captions(i)
		if !fixed {
			texts = s.set.Images()[i].Captions
		}
		for _, text := range texts {
			if len(text) < by.Max()-2 { // a token is a byte at least
				continue
			}
			if _, cut := by.Plain(text); cut != "" {
				if long++; first == "" {
					first = s.set.Images()[i].Key
				}
			}
		}
	}
	if long > 0 {
		s.note("%s longer than the text encoder's %d tokens, and truncated; the first is that of %s", plural.N(long, "caption"), by.Max()-2, quote.Path(first))
	}
}

// note records a notice and logs it. It reports false for one that was recorded before, and when there are too many.
func (s *Source) note(format string, args ...any) bool {
	text := fmt.Sprintf(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	const most = 100 // when a disk fails, each file of the cache has something to say
	if len(s.notices) >= most || slices.Contains(s.notices, text) {
		return false
	}
	s.notices = append(s.notices, text)
	s.log.Warn(text)
	return true
}

// Notices are what was decided or found that the user may want to know, a sentence each: truncated captions, what is not cached and why,
// damaged files of the cache.
func (s *Source) Notices() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notices)
}

// Complete reports whether the cache holds all that training needs, so that the model may be closed before: with neither random crops nor
// captions that change at random. With [Config.Captions] that is the autoencoder alone.
func (s *Source) Complete() bool { return s.wholeImages && s.wholeTexts }

// Channels is the number of latent channels.
func (s *Source) Channels() int { return s.images.latents }

// Encoders says what the features are made by: autoencoder and text encoders, each with a sum that identifies it, and the clip
// skip. A resumed run compares it. With [Config.Captions] it has no sum of the text encoders, which may be trained.
func (s *Source) Encoders() string {
	text := fmt.Sprintf("autoencoder %.8s", s.images.sum)
	if s.texts != nil {
		if !s.later {
			text += fmt.Sprintf(", text encoder %.8s", s.texts.sum)
		}
		if s.texts.clipSkip > 0 {
			text += fmt.Sprintf(", clip skip %d", s.texts.clipSkip)
		}
	}
	return text
}

// Autoencoder is the sum that identifies the autoencoder.
func (s *Source) Autoencoder() string { return fmt.Sprintf("sha256 %.8s", s.images.sum) }

// String says what the batches are made of: the set and the encoders.
func (s *Source) String() string {
	return fmt.Sprintf("latents of %s (%s), %s", quote.Text(s.set.Name()), s.set.Identity(), s.Encoders())
}

// Null returns the condition of the empty prompt, one row on the scope's device, for classifier-free guidance: the text encoders' features,
// or zeros for models that have them (SDXL's force_zeros_for_empty_prompt). Samples without a caption have exactly these. With
// [Config.Captions] they are those of the encoders as they were when the source was opened. It is empty for an unconditional source.
func (s *Source) Null(in *torch.Scope) models.Cond {
	if s.texts == nil {
		return models.Cond{}
	}
	var all []*torch.Tensor
	for _, a := range s.texts.null {
		all = append(all, a.tensor(in))
	}
	return condition(all)
}

// Close ends the use of the source: Batches is then an error. The set and the model are the caller's to close. Closing twice does nothing.
func (s *Source) Close() error {
	s.closed.Store(true)
	return nil
}
