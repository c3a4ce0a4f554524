package engine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/generate"
)

// Model is a model that an engine can open.
type Model struct {
	Name string // by which requests name it, and the settings of images
	File string // name of its file or directory, which settings of other programs have; "": Name
	Hash string // of its files, for the settings of images; "": none
	// Open opens it, on the device and in the data type in which it is to compute.
	Open func() (*generate.Model, error)
	// Preview opens the autoencoder that decodes previews of a latent diffusion model, usually a tiny one. nil: previews are decoded by the model's
	// own if that is tiny or the images have at most 256×256 pixels; otherwise there are none.
	Preview func() (vae.Autoencoder, error)
	// Changed, if not nil, reports whether the files have changed since Open: then the model is closed, and opened anew. It is asked before each batch, since
	// weights are mapped into memory, and a file that was cut short would end the program.
	Changed func() bool
	// Bytes is the memory that it takes when it is open. 0: unknown before it was open, then that of its weights.
	Bytes int64
}

// Options configure an engine. Zero fields have the defaults given.
type Options struct {
	Models []Model // at least one; the first is the default

	Queue     int           // requests that wait, at most; 0: 64
	Deadline  time.Duration // of a request without its own; 0: 10 minutes
	Memory    int64         // bytes that open models take, at most, before the least recently used ones are closed; 0: no limit
	MaxImages int           // per request; 0: 16
	MaxSteps  int           // per image; 0: 50
	MaxPixels int           // per image; 0: 1024²

	Batch int // images that are generated together, of one request or several; 0: 16. Large images are always generated alone

	// Observe, if not nil, is called for each request that was accepted, when it has ended and who asked knows; from several goroutines at once.
	Observe func(Observation)

	LoRA lora.CacheOptions // of adapters, which requests name
}

// Defaults of Options that limit requests.
const (
	DefaultMaxImages = 16
	DefaultMaxSteps  = 50
	DefaultMaxPixels = 1024 * 1024
)

const (
	defaultQueue    = 64
	defaultDeadline = 10 * time.Minute
	defaultBatch    = 16
)

// withDefaults checks the options and fills in the defaults.
func (o Options) withDefaults() (Options, error) {
	if len(o.Models) == 0 {
		return o, errors.New("engine: want at least one model")
	}
	seen := map[string]bool{}
	for i, m := range o.Models {
		switch {
		case m.Name == "" || m.Open == nil:
			return o, fmt.Errorf("engine: model %d: want a name and a function that opens it", i+1)
		case seen[m.Name]:
			return o, fmt.Errorf("engine: want different names of models, got %s twice", quote.Quoted(m.Name))
		case m.Bytes < 0:
			return o, fmt.Errorf("engine: model %s: want bytes of at least 0, got %d", quote.Quoted(m.Name), m.Bytes)
		}
		seen[m.Name] = true
	}
	if o.Queue < 0 || o.Deadline < 0 || o.Memory < 0 || o.MaxImages < 0 || o.MaxSteps < 0 || o.MaxPixels < 0 || o.Batch < 0 {
		return o, errors.New("engine: want limits of at least 0")
	}
	o.Models = slices.Clone(o.Models)
	o.Queue = cmp.Or(o.Queue, defaultQueue)
	o.Deadline = cmp.Or(o.Deadline, defaultDeadline)
	o.MaxImages = cmp.Or(o.MaxImages, DefaultMaxImages)
	o.MaxSteps = cmp.Or(o.MaxSteps, DefaultMaxSteps)
	o.MaxPixels = cmp.Or(o.MaxPixels, DefaultMaxPixels)
	o.Batch = cmp.Or(o.Batch, defaultBatch)
	return o, nil
}

// ErrFull is the error of a request that comes when the queue is full, and of the last request of the client that has the most in a full queue when
// a client with fewer comes.
var ErrFull = errors.New("the queue is full")

// ErrClosed is the error of a request after [Engine.Close] or [Engine.Drain].
var ErrClosed = errors.New("the server is stopping")

// RequestError reports a field of a request that is invalid or does not fit the model.
type RequestError struct {
	Field string // of [Request]
	Msg   string
}

// Error returns a message with the field's name.
func (e *RequestError) Error() string { return e.Field + ": " + e.Msg } //quote: our own names, and messages that were quoted when they were made
