package engine

import (
	"errors"
	"time"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/sampling/generate"
)

// Model is a model that an engine can open.
type Model struct {
	Name string // by which requests name it
	// Open opens it, on the device and in the data type in which it is to compute.
	Open func() (*generate.Model, error)
	// Bytes is the memory that it takes when it is open; 0: unknown.
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

	LoRA lora.CacheOptions // of adapters, which requests name
}

// ErrFull is the error of a request that comes when the queue is full.
var ErrFull = errors.New("the queue is full")

// ErrClosed is the error of a request after [Engine.Close] or [Engine.Drain].
var ErrClosed = errors.New("the server is stopping")

// RequestError reports a field of a request that is invalid or does not fit the model.
type RequestError struct {
	Field string // of [Request]
	Msg   string
}

// Error returns a message with the field's name.
func (e *RequestError) Error() string { return e.Field + ": " + e.Msg }
