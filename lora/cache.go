package lora

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
)

// Cache holds the adapters of one model, so that prompts and requests with the same adapter share it. A file is loaded once, even if several
// goroutines request it at the same time, and stays loaded while it is in use. A file that has changed since is loaded anew; who uses the
// adapter of before keeps it. Unused adapters stay loaded up to a limit of memory; the least recently used are closed first. Several
// goroutines may use one Cache.
type Cache struct {
	model *sd.Model
	o     CacheOptions
	open  func(path string) (*File, error)

	mu     sync.Mutex
	by     map[string]*cached // by file
	idle   int64              // bytes of unused adapters
	clock  int                // counts releases
	closed bool
}

// CacheOptions configure a [Cache].
type CacheOptions struct {
	Dir     string  // directory in which adapters are found by name; see [Find]. "": names are errors
	Options Options // how adapters are attached

	// Idle is the limit of the unused adapters that stay loaded, in bytes of weights. 0: 1 GiB; negative: none.
	Idle int64
}

// cached is an adapter in a cache that is loaded or being loaded.
type cached struct {
	file    string
	stamp   stamp
	ready   chan struct{} // closed when adapter or err is set
	adapter *Adapter
	err     error
	users   int
	bytes   int64
	last    int // the clock when the last user left
}

// NewCache makes a cache of adapters for a model, which has to stay open as long as the cache.
func NewCache(m *sd.Model, o CacheOptions) *Cache {
	if o.Idle == 0 {
		o.Idle = 1 << 30
	}
	return &Cache{model: m, o: o, open: Open, by: map[string]*cached{}}
}

// ErrCacheClosed is the error of a [Cache] that is used after it was closed.
var ErrCacheClosed = errors.New("the cache of adapters was closed")

// Load returns the adapter in a file, or in a directory as peft and diffusers write it. It stays loaded until release is called. Cancelling
// ctx ends the wait for another goroutine that is loading it.
func (c *Cache) Load(ctx context.Context, path string) (a *Adapter, release func(), err error) {
	return c.load(ctx, path, func() (*File, error) { return c.open(path) })
}

// Add returns the adapter in a file that is already open, and caches it under its path. The cache owns the file from then on, and closes it
// at once if it has an adapter with that path.
func (c *Cache) Add(ctx context.Context, f *File) (a *Adapter, release func(), err error) {
	taken := false
	a, release, err = c.load(ctx, f.Path, func() (*File, error) {
		taken = true
		return f, nil
	})
	if !taken {
		err = errors.Join(err, f.Close())
	}
	return a, release, err
}

// Named is Load for the name of an adapter in CacheOptions.Dir; see [Find].
func (c *Cache) Named(ctx context.Context, name string) (a *Adapter, release func(), err error) {
	if c.o.Dir == "" {
		return nil, nil, fmt.Errorf("adapter %s: no directory of adapters is set, so that adapters cannot be found by name", quote.Quoted(name))
	}
	path, err := Find(c.o.Dir, name)
	if err != nil {
		return nil, nil, err
	}
	return c.Load(ctx, path)
}

// TagError is the error of the adapter of a tag in [Cache.Tagged].
type TagError struct {
	Name string // of the tag
	Err  error
}

// Error returns the message of Err, which names the file.
func (e *TagError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *TagError) Unwrap() error { return e.Err }

// Tagged returns the adapters of a prompt's tags, with their weights, and what else is in their files. They stay loaded until release is called:
//
//	p.Tagged = func(tags []prompt.LoRA) (sd.Adaptation, error) {
//		all, release, err := cache.Tagged(ctx, tags)
//		// call release after the images are generated
//		return all, err
//	}
func (c *Cache) Tagged(ctx context.Context, tags []prompt.LoRA) (all sd.Adaptation, release func(), err error) {
	var held []func()
	free := func() {
		for _, release := range held {
			release()
		}
	}
	defer func() {
		if err != nil {
			free()
		}
	}()
	seen := map[*Adapter]bool{}
	for _, tag := range tags {
		if err := tag.Check(); err != nil {
			return sd.Adaptation{}, nil, err
		}
		a, release, err := c.Named(ctx, tag.Name)
		if err != nil {
			return sd.Adaptation{}, nil, &TagError{tag.Name, err}
		}
		held = append(held, release)
		all.Adapters = all.Adapters.And(a.By(Weights{"": tag.Text, unetPart: tag.Weight}))
		if seen[a] {
			continue
		}
		seen[a] = true
		own, err := a.Inversions()
		if err != nil {
			return sd.Adaptation{}, nil, &TagError{tag.Name, err}
		}
		all.Inversions = append(all.Inversions, own...)
		if tag.Weight != 0 {
			a.TrainedFor(&all)
		}
	}
	return all, free, nil
}

// Close frees the unused adapters at once, and the others when their last user releases them.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.evict(none)
}

// load returns the adapter of a path; the first caller opens and attaches it.
func (c *Cache) load(ctx context.Context, path string, open func() (*File, error)) (*Adapter, func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	file, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	now := stampOf(file)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, nil, fmt.Errorf("%s: %w", quote.Path(path), ErrCacheClosed)
	}
	e := c.by[file]
	if e != nil && !e.stamp.same(now) {
		if delete(c.by, file); e.users == 0 { // else the last user closes it
			c.idle -= e.bytes
			_ = e.adapter.Close()
		}
		e = nil
	}
	if e == nil {
		e = &cached{file: file, stamp: now, ready: make(chan struct{}), err: fmt.Errorf("%s: loading was interrupted", quote.Path(path)), users: 1}
		c.by[file] = e
		c.mu.Unlock()
		c.fill(e, open)
	} else {
		if e.users == 0 {
			c.idle -= e.bytes
		}
		e.users++
		c.mu.Unlock()
		select {
		case <-e.ready:
		case <-ctx.Done():
			c.release(e)
			return nil, nil, ctx.Err()
		}
	}
	if e.err != nil {
		return nil, nil, e.err
	}
	return e.adapter, sync.OnceFunc(func() { c.release(e) }), nil
}

// fill opens and attaches an adapter. After an error the entry is removed, so that the next caller tries again.
func (c *Cache) fill(e *cached, open func() (*File, error)) {
	defer func() {
		if e.err != nil {
			c.mu.Lock()
			if c.by[e.file] == e {
				delete(c.by, e.file)
			}
			c.mu.Unlock()
		}
		close(e.ready)
	}()
	if err := c.model.Usable(); err != nil {
		e.err = err
		return
	}
	f, err := open()
	if err != nil {
		e.err = err
		return
	}
	c.mu.Lock()
	e.stamp = f.stamp
	c.mu.Unlock()
	if e.adapter, err = Attach(Of(c.model), f, c.o.Options); err != nil {
		e.err = errors.Join(err, f.Close())
		return
	}
	for _, t := range e.adapter.store.Tensors() {
		e.bytes += t.NumBytes()
	}
	e.err = nil
}

// release removes one user of an adapter.
func (c *Cache) release(e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.users--; e.users > 0 {
		return
	}
	if c.by[e.file] != e { // the file has changed, or failed to load
		if e.adapter != nil {
			_ = e.adapter.Close()
		}
		return
	}
	c.clock++
	c.idle, e.last = c.idle+e.bytes, c.clock
	room := c.o.Idle
	if c.closed {
		room = none
	}
	_ = c.evict(room) // errors of closing files opened for reading do not matter
}

// none is a limit that keeps no adapter, not even one of 0 bytes.
const none = -1

// evict closes unused adapters, the least recently used first, until the rest is within room.
func (c *Cache) evict(room int64) (err error) {
	for {
		var oldest *cached
		for _, e := range c.by {
			if e.users == 0 && (oldest == nil || e.last < oldest.last) {
				oldest = e
			}
		}
		if oldest == nil || c.idle <= room {
			return err
		}
		delete(c.by, oldest.file)
		c.idle -= oldest.bytes
		err = errors.Join(err, oldest.adapter.Close())
	}
}
