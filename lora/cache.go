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
	"github.com/onestep-go/onestep/torch/nn"
)

// Cache keeps the adapters of one model, so that prompts and requests that ask for the same one share it. A file is opened and loaded once,
// even if several goroutines ask for it at once, and stays loaded while anybody uses it; adapters that nobody uses stay as far as they have
// room, the most recently used ones. Several goroutines may use one Cache.
type Cache struct {
	model *sd.Model
	o     CacheOptions
	open  func(path string) (*File, error)

	mu     sync.Mutex
	by     map[string]*cached // by file
	idle   int64              // bytes of those that nobody uses
	clock  int                // counts releases
	closed bool
}

// CacheOptions say what a [Cache] loads and keeps.
type CacheOptions struct {
	Dir     string  // where names are looked for; see [Find]. "": names are errors
	Options Options // how adapters are attached

	// Idle is how many bytes of weights stay loaded that nobody uses. 0: 1 GiB; below 0: none.
	Idle int64
}

// cached is an adapter in a cache, or on its way there.
type cached struct {
	file    string
	ready   chan struct{} // closed when adapter or err is there
	adapter *Adapter
	err     error
	users   int
	bytes   int64
	last    int // the clock when the last user left
}

// NewCache makes a cache of adapters for a model, which has to stay open for as long as the cache does.
func NewCache(m *sd.Model, o CacheOptions) *Cache {
	if o.Idle == 0 {
		o.Idle = 1 << 30
	}
	return &Cache{model: m, o: o, open: Open, by: map[string]*cached{}}
}

// ErrCacheClosed is the error of a [Cache] that is asked for an adapter after it was closed.
var ErrCacheClosed = errors.New("the cache of adapters was closed")

// Load returns the adapter of a file, or of a directory as peft and diffusers write it. It stays loaded until release is called; nobody
// else closes it. ctx ends the wait for another goroutine that loads it.
func (c *Cache) Load(ctx context.Context, path string) (a *Adapter, release func(), err error) {
	return c.load(ctx, path, func() (*File, error) { return c.open(path) })
}

// Add returns the adapter of a file that is open already, under its path. The cache owns the file from then on, and closes it at once if it
// has an adapter of that path.
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

// Named is Load for a name, which is looked for in CacheOptions.Dir.
func (c *Cache) Named(ctx context.Context, name string) (a *Adapter, release func(), err error) {
	if c.o.Dir == "" {
		return nil, nil, fmt.Errorf("the adapter %s: there is no directory to look for names of adapters in", quote.Quoted(name))
	}
	path, err := Find(c.o.Dir, name)
	if err != nil {
		return nil, nil, err
	}
	return c.Load(ctx, path)
}

// Tagged returns what tags in a prompt ask for, with their weights, and the embeddings that the adapters' files bring along. They stay loaded
// until release is called:
//
//	p.Tagged = func(tags []prompt.LoRA) (nn.Adapters, []sd.Inversion, error) {
//		adapters, words, release, err := cache.Tagged(ctx, tags)
//		// keep release until the images are there
//		return adapters, words, err
//	}
func (c *Cache) Tagged(ctx context.Context, tags []prompt.LoRA) (all nn.Adapters, words []sd.Inversion, release func(), err error) {
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
		a, release, err := c.Named(ctx, tag.Name)
		if err != nil {
			return nil, nil, nil, err
		}
		held = append(held, release)
		all = all.And(a.By(Weights{"": tag.Text, unetPart: tag.Weight}))
		if seen[a] {
			continue
		}
		seen[a] = true
		own, err := a.Inversions()
		if err != nil {
			return nil, nil, nil, err
		}
		words = append(words, own...)
	}
	return all, words, free, nil
}

// Close frees the adapters that nobody uses, and the others when their last user releases them.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.evict(none)
}

// load returns the adapter of a path, which the first to ask for it opens and attaches.
func (c *Cache) load(ctx context.Context, path string, open func() (*File, error)) (*Adapter, func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	file, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, nil, fmt.Errorf("%s: %w", quote.Path(path), ErrCacheClosed)
	}
	e := c.by[file]
	if e == nil {
		e = &cached{file: file, ready: make(chan struct{}), err: fmt.Errorf("%s: loading it ended early", quote.Path(path)), users: 1}
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

// fill opens and attaches an adapter. One that cannot be is forgotten: the next to ask for it tries again.
func (c *Cache) fill(e *cached, open func() (*File, error)) {
	defer func() {
		if e.err != nil {
			c.mu.Lock()
			delete(c.by, e.file)
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
	if e.adapter, err = Attach(Of(c.model), f, c.o.Options); err != nil {
		e.err = errors.Join(err, f.Close())
		return
	}
	for _, t := range e.adapter.store.Tensors() {
		e.bytes += int64(t.NumEl() * t.DType().Size())
	}
	e.err = nil
}

// release takes a user from an adapter.
func (c *Cache) release(e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.users--; e.users > 0 || c.by[e.file] != e { // what could not be loaded was forgotten
		return
	}
	c.clock++
	c.idle, e.last = c.idle+e.bytes, c.clock
	room := c.o.Idle
	if c.closed {
		room = none
	}
	_ = c.evict(room) // files that were only read
}

// none is room for no adapter, not even for one without a byte.
const none = -1

// evict closes adapters that nobody uses until the rest has room, the one first whose last user left first.
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
