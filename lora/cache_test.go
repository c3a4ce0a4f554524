package lora

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/torch"
)

// shelf writes adapters for a tiny model into a directory: a.safetensors, below/b.safetensors, and c.safetensors, which is called "see" in
// its metadata.
func shelf(t *testing.T, m *sd.Model) (dir string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "below"), 0o777))
	for i, name := range []string{"a", "below/b", "c"} {
		a := filled(t, Of(m), Config{Rank: i + 1, Targets: []string{"to_q", "q_proj"}, Seed: uint64(i)})
		var o WriteOptions
		if name == "c" {
			o.Metadata = map[string]string{aliasKey: "see"}
		}
		require.NoError(t, a.Write(filepath.Join(dir, name+".safetensors"), o))
	}
	return dir
}

// Goroutines that ask for adapters at once, by paths, names and tags, share one of each file, which was opened once.
func TestCacheOpensOnce(t *testing.T) {
	m := openTiny(t, "sd15")
	dir := shelf(t, m)
	c := NewCache(m, CacheOptions{Dir: dir})
	var opened atomic.Int64
	c.open = func(path string) (*File, error) {
		opened.Add(1)
		return Open(path)
	}
	ctx := context.Background()
	tags := []prompt.LoRA{{Name: "a", Weight: 0.5, Text: 1}, {Name: "b", Weight: 1, Text: 1}, {Name: "see", Weight: 1}, {Name: "a", Weight: 0.25}}
	var all sync.WaitGroup
	var by [2]map[string]*Adapter
	var releases [2][]func()
	for i := range by {
		by[i] = map[string]*Adapter{}
		all.Go(func() {
			for name, load := range map[string]func() (*Adapter, func(), error){
				"path":   func() (*Adapter, func(), error) { return c.Load(ctx, filepath.Join(dir, "a.safetensors")) },
				"name":   func() (*Adapter, func(), error) { return c.Named(ctx, "a") },
				"folder": func() (*Adapter, func(), error) { return c.Named(ctx, "below/b") },
				"below":  func() (*Adapter, func(), error) { return c.Named(ctx, "b") },
				"alias":  func() (*Adapter, func(), error) { return c.Named(ctx, "see") },
				"file":   func() (*Adapter, func(), error) { return c.Named(ctx, "c.safetensors") },
			} {
				a, release, err := load()
				if err != nil {
					t.Error(err)
					return
				}
				by[i][name] = a
				releases[i] = append(releases[i], release)
			}
			all, release, err := c.Tagged(ctx, tags)
			if err != nil || len(all.Adapters) == 0 || all.Inversions != nil || all.Grids != nil {
				t.Error(err, len(all.Adapters), all.Inversions, all.Grids)
				return
			}
			releases[i] = append(releases[i], release, release) // once more does nothing
		})
	}
	all.Wait()
	require.Equal(t, int64(3), opened.Load())
	require.Equal(t, by[0], by[1])
	for _, pair := range [][2]string{{"path", "name"}, {"folder", "below"}, {"alias", "file"}} {
		require.Same(t, by[0][pair[0]], by[0][pair[1]])
	}
	require.NotSame(t, by[0]["path"], by[0]["folder"])

	// The weights of tags are the network's and the text encoders'; the same adapter twice adds up.
	twice, release, err := c.Tagged(ctx, []prompt.LoRA{{Name: "a", Weight: 0.5}, {Name: "a", Weight: 0.25}})
	require.NoError(t, err)
	one := by[0]["path"]
	require.Equal(t, deltas(t, Of(m), one.By(Weights{"": 0, "unet": 0.5}).And(one.By(Weights{"": 0, "unet": 0.25}))), deltas(t, Of(m), twice.Adapters))
	release()

	require.NoError(t, c.Close())
	require.False(t, by[0]["path"].Store().Closed(), "it is in use")
	_, _, err = c.Named(ctx, "a")
	require.ErrorIs(t, err, ErrCacheClosed)
	for _, list := range releases {
		for _, release := range list {
			release()
		}
	}
	for _, a := range by[0] {
		require.True(t, a.Store().Closed())
	}
}

// Adapters that nobody uses stay as far as there is room: the least recently used go first, and those in use never.
func TestCacheBound(t *testing.T) {
	m := openTiny(t, "sd15")
	dir := shelf(t, m)
	ctx := context.Background()
	size := func(a *Adapter) (n int64) {
		for _, p := range a.Parameters() {
			n += int64(4 * p.NumEl())
		}
		return n
	}
	probe := NewCache(m, CacheOptions{Dir: dir, Idle: -1})
	var bytes []int64
	for _, name := range []string{"a", "b", "c"} {
		a, release, err := probe.Named(ctx, name)
		require.NoError(t, err)
		bytes = append(bytes, size(a))
		release()
		require.True(t, a.Store().Closed(), "there is no room for any")
	}
	require.NoError(t, probe.Close())

	c := NewCache(m, CacheOptions{Dir: dir, Idle: bytes[1] + bytes[2]})
	load := func(name string) (*Adapter, func()) {
		a, release, err := c.Named(ctx, name)
		require.NoError(t, err)
		return a, release
	}
	a, doneA := load("a")
	b, doneB := load("b")
	third, doneThird := load("c")
	doneB()
	doneThird()
	require.False(t, b.Store().Closed())
	again, doneAgain := load("b") // which makes it the last that was used
	require.Same(t, b, again)
	doneAgain()
	doneA() // the room is full
	require.True(t, third.Store().Closed(), "it was used before the others")
	require.False(t, a.Store().Closed())
	require.False(t, b.Store().Closed())
	require.NoError(t, c.Close())
	require.True(t, a.Store().Closed())
	require.True(t, b.Store().Closed())
}

// What cannot be loaded is an error that names it, and is tried again; a file that was opened before serves as well.
func TestCacheErrors(t *testing.T) {
	m := openTiny(t, "sd15")
	dir := shelf(t, m)
	ctx := context.Background()
	c := NewCache(m, CacheOptions{Dir: dir})
	defer func() { require.NoError(t, c.Close()) }()
	for name, want := range map[string]string{"none": `"none"`, "../a": `"../a"`, "/etc/passwd": `"/etc/passwd"`} {
		_, _, err := c.Named(ctx, name)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, dir)
		_, _, err = c.Tagged(ctx, []prompt.LoRA{{Name: "a", Weight: 1}, {Name: name, Weight: 1}})
		require.ErrorContains(t, err, want)
	}
	_, _, err := c.Tagged(ctx, []prompt.LoRA{{Name: "a", Weight: math.Inf(1)}})
	require.ErrorContains(t, err, `"a": want weights from -1000 to 1000`)
	_, _, err = NewCache(m, CacheOptions{}).Named(ctx, "a")
	require.ErrorContains(t, err, `"a"`)
	late := filepath.Join(dir, "late.safetensors")
	_, _, err = c.Load(ctx, late)
	require.ErrorContains(t, err, late)
	require.NoError(t, os.Link(filepath.Join(dir, "a.safetensors"), late))
	_, release, err := c.Load(ctx, late)
	require.NoError(t, err)
	release()

	require.NoError(t, os.Mkdir(filepath.Join(dir, "twice"), 0o777))
	require.NoError(t, os.Link(late, filepath.Join(dir, "twice", "b.safetensors")))
	_, _, err = c.Named(ctx, "b")
	require.ErrorContains(t, err, filepath.Join("below", "b.safetensors"))
	require.ErrorContains(t, err, filepath.Join("twice", "b.safetensors"))

	xl := openTiny(t, "sdxl")
	other := NewCache(xl, CacheOptions{Dir: dir})
	_, _, err = other.Named(ctx, "a")
	require.ErrorContains(t, err, filepath.Join(dir, "a.safetensors"))
	var fit *FitError
	require.ErrorAs(t, err, &fit)
	require.NoError(t, other.Close())

	f, err := Open(filepath.Join(dir, "c.safetensors"))
	require.NoError(t, err)
	a, release, err := c.Add(ctx, f)
	require.NoError(t, err)
	require.Same(t, f, a.File())
	second, err := Open(f.Path)
	require.NoError(t, err)
	b, again, err := c.Add(ctx, second)
	require.NoError(t, err)
	require.Same(t, a, b)
	release()
	again()

	done, cancel := context.WithCancel(ctx)
	cancel()
	_, _, err = c.Named(done, "a")
	require.ErrorIs(t, err, context.Canceled)
}

// A file that was replaced or written since is loaded anew; the adapter of before serves those that have it, and goes with the last.
func TestCacheLoadsChangedFiles(t *testing.T) {
	m := openTiny(t, "sd15")
	dir := shelf(t, m)
	ctx := context.Background()
	c := NewCache(m, CacheOptions{Dir: dir})
	load := func() (*Adapter, func()) {
		a, release, err := c.Named(ctx, "a")
		require.NoError(t, err)
		return a, release
	}
	first, doneFirst := load()
	same, doneSame := load()
	require.Same(t, first, same)
	require.NoError(t, os.Rename(filepath.Join(dir, "below", "b.safetensors"), filepath.Join(dir, "a.safetensors")))
	second, doneSecond := load()
	require.NotSame(t, first, second)
	require.Equal(t, 2, second.made[0].rank)
	doneFirst()
	require.False(t, first.Store().Closed(), "it is in use")
	doneSame()
	require.True(t, first.Store().Closed())
	doneSecond()
	require.False(t, second.Store().Closed())

	data, err := os.ReadFile(filepath.Join(dir, "c.safetensors"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.safetensors"), data, 0o666)) // in place
	third, doneThird := load()
	require.True(t, second.Store().Closed(), "nobody used it")
	require.Equal(t, 3, third.made[0].rank)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.safetensors"), data[:20], 0o666))
	_, _, err = c.Named(ctx, "a")
	require.Error(t, err)
	doneThird()
	require.True(t, third.Store().Closed())
	require.Equal(t, int64(0), c.idle)
	require.NoError(t, c.Close())
}

// A wait for another goroutine's loading ends with the context; the other is not disturbed.
func TestCacheWaits(t *testing.T) {
	m := openTiny(t, "sd15")
	dir := shelf(t, m)
	c := NewCache(m, CacheOptions{Dir: dir})
	defer func() { require.NoError(t, c.Close()) }()
	begun, proceed := make(chan struct{}), make(chan struct{})
	c.open = func(path string) (*File, error) {
		close(begun)
		<-proceed
		return Open(path)
	}
	var first sync.WaitGroup
	first.Go(func() {
		a, release, err := c.Named(context.Background(), "a")
		if err != nil {
			t.Error(err)
			return
		}
		if a.Store().DType() != torch.Float32 {
			t.Error(a.Store().DType())
		}
		release()
	})
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	var second sync.WaitGroup
	second.Go(func() {
		if _, _, err := c.Named(ctx, "a"); err != context.Canceled {
			t.Error(err)
		}
	})
	cancel()
	second.Wait()
	close(proceed)
	first.Wait()
}
