package latents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/dataset"
)

// filler brings the cache to hold all that a set needs and that does not change at random.
type filler struct {
	*Source
	progress func(Progress)

	mu    sync.Mutex
	state map[string]Progress // by stage
}

// work is a kind of entries, and the jobs of those that have to be made.
type work struct {
	task
	jobs []job
}

// fill makes what the cache does not have, and says which kinds are then complete.
func (f *filler) fill(ctx context.Context) error {
	var all []work
	f.state = map[string]Progress{}
	add := func(whole *bool, t task, jobs []job, loose int) error {
		*whole = loose == 0
		f.state[t.name()] = Progress{Stage: t.name(), All: len(jobs)}
		rest, err := f.check(ctx, t, jobs)
		all = append(all, work{t, rest})
		return err
	}
	images, loose := f.imageJobs()
	if err := add(&f.wholeImages, imageTask{f.Source}, images, loose); err != nil {
		return err
	}
	f.wholeTexts = true
	if f.Source.texts != nil && !f.later {
		texts, loose := f.textJobs()
		if err := add(&f.wholeTexts, textTask{f.Source}, texts, loose); err != nil {
			return err
		}
	}
	const block = 4096 // least size of a file on most disks
	need := int64(0)
	for _, w := range all {
		for _, j := range w.jobs {
			need += int64((w.want(j).bytes() + 1024 + block - 1) / block * block)
		}
	}
	if need == 0 {
		return nil
	}
	if err := atomicfile.Probe(f.cache.dir); err != nil { // only now: a complete cache may be read-only
		return &CacheError{quote.Error(err)}
	}
	if err := f.cache.room(need); err != nil {
		return &CacheError{err}
	}
	first, unlock := f.cache.lock()
	defer unlock()
	for _, w := range all {
		// By size, since networks prepare their weights for a size.
		slices.SortStableFunc(w.jobs, func(a, b job) int { return cmp.Compare(sizeOf(w.want(a)), sizeOf(w.want(b))) })
		if !first {
			slices.Reverse(w.jobs) // another run begins at the other end
		}
		err := f.make(ctx, w.task, w.jobs)
		if full(err) {
			state := f.state[w.name()]
			return fmt.Errorf("%w; the %d of %d %s that are made stay in the cache: free some space, and continue", err, state.Done, state.All, quote.Text(w.name()))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// job is one entry: use n of image i. Keys are made when they are needed, since a set may have millions of them.
type job struct{ i, n int }

// task is a kind of entries.
type task interface {
	name() string
	device() torch.Device
	group() int // jobs to encode together, of the same size
	key(j job) key
	want(j job) entry
	failed(j job, err error) error // says what an error is about
	// load reads what is encoded. It runs in the background.
	load(j job) (any, error)
	encode(s *torch.Scope, of []any) ([]*torch.Tensor, error)
}

// imageJobs lists the images' entries, and counts the images with random crops.
func (f *filler) imageJobs() (jobs []job, loose int) {
	t := imageTask{f.Source}
	known := map[[32]byte]bool{}
	for i := range f.set.Len() {
		items, fixed := f.set.Items(i)
		if !fixed {
			loose++
			continue
		}
		for n := range items {
			if k := t.key(job{i, n}).sum; !known[k] {
				known[k] = true
				jobs = append(jobs, job{i, n})
			}
		}
	}
	if loose > 0 {
		f.note("%d of %s have random crops: their latents are encoded at each step and not cached", loose, plural.N(f.set.Len(), "image"))
	}
	return jobs, loose
}

// textJobs lists the captions' entries, and counts the images whose captions change at random.
func (f *filler) textJobs() (jobs []job, loose int) {
	known := map[string]bool{"": true} // the empty one is the null condition
	for i := range f.set.Len() {
		texts, fixed := f.set.Captions(i)
		if !fixed {
			loose++
			continue
		}
		for n, text := range texts {
			if !known[text] {
				known[text] = true
				jobs = append(jobs, job{i, n})
			}
		}
	}
	if loose > 0 {
		f.note("the captions of %d of %s change at random: their text features are encoded at each step and not cached", loose, plural.N(f.set.Len(), "image"))
	}
	return jobs, loose
}

// imageTask encodes images.
type imageTask struct{ *Source }

func (t imageTask) item(j job) captioned.Item {
	items, _ := t.set.Items(j.i)
	return items[j.n]
}

func (t imageTask) name() string         { return "latents" }
func (t imageTask) device() torch.Device { return t.images.device }
func (t imageTask) group() int           { return t.Source.group }
func (t imageTask) key(j job) key        { return t.images.key(&t.set.Images()[j.i], t.item(j)) }
func (t imageTask) failed(j job, err error) error {
	return fmt.Errorf("image %s: %w", quote.Path(t.set.Images()[j.i].Key), err)
}
func (t imageTask) want(j job) entry {
	it := t.item(j)
	return t.images.want(it.Width, it.Height)
}

func (t imageTask) load(j job) (any, error) { return t.set.Read(t.item(j)) }

func (t imageTask) encode(s *torch.Scope, of []any) ([]*torch.Tensor, error) {
	images := make([]image.Image, len(of))
	for i := range of {
		images[i] = of[i].(image.Image)
	}
	return t.images.encode(s, images)
}

// textTask encodes captions.
type textTask struct{ *Source }

func (t textTask) caption(j job) string {
	texts, _ := t.set.Captions(j.i)
	return texts[j.n]
}

func (t textTask) name() string         { return "text features" }
func (t textTask) device() torch.Device { return t.texts.device() }
func (t textTask) group() int           { return 8 } // captions are encoded one by one all the same: see sd.Model.Embed
func (t textTask) key(j job) key        { return t.texts.key(t.caption(j)) }
func (t textTask) failed(j job, err error) error {
	return fmt.Errorf("caption of %s: %w", quote.Path(t.set.Images()[j.i].Key), err)
}
func (t textTask) want(job) entry          { return t.texts.want() }
func (t textTask) load(j job) (any, error) { return t.caption(j), nil }

func (t textTask) encode(s *torch.Scope, of []any) ([]*torch.Tensor, error) {
	texts := make([]string, len(of))
	for i := range of {
		texts[i] = of[i].(string)
	}
	return t.texts.encode(s, texts)
}

// sizeOf tells entries of different shapes apart.
func sizeOf(want entry) string { return fmt.Sprint(want[0].shape) }

// check reads the entries that are there and returns the jobs of those that are missing or damaged.
func (f *filler) check(ctx context.Context, t task, jobs []job) (rest []job, err error) {
	errs := make([]error, len(jobs))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 8) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return
				}
				if _, errs[i] = f.cache.read(t.key(jobs[i]), t.want(jobs[i])); errs[i] == nil {
					f.done(t, false)
				}
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	damaged, first := 0, error(nil)
	for i, err := range errs {
		var bad *damagedError
		switch {
		case err == nil:
			continue
		case !missing(err):
			return nil, &CacheError{quote.Error(err)}
		case errors.As(err, &bad):
			if damaged++; first == nil {
				first = err
			}
			if err := bad.remove(); err != nil {
				return nil, err
			}
		}
		rest = append(rest, jobs[i])
	}
	if damaged > 0 {
		f.note("%s in the cache made anew; the first: %v", plural.N(damaged, "damaged file"), quote.Error(first))
	}
	return rest, nil
}

// done reports one more entry.
func (f *filler) done(t task, made bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.state[t.name()]
	state.Done++
	if made {
		state.Made++
	}
	f.state[t.name()] = state
	if f.progress != nil {
		f.progress(state)
	}
}

// loading is a job whose input is read in the background.
type loading struct {
	job
	value any
	err   error
	ready chan struct{}
}

// make encodes the jobs: inputs are read ahead, and entries written behind.
func (f *filler) make(ctx context.Context, t task, jobs []job) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var readers, writers sync.WaitGroup
	defer readers.Wait()
	defer stop(nil)

	queue := make(chan *loading, 2*t.group()+runtime.GOMAXPROCS(0))
	readers.Go(func() {
		defer close(queue)
		for _, j := range jobs {
			l := &loading{job: j, ready: make(chan struct{})}
			select {
			case queue <- l:
			case <-ctx.Done():
				return
			}
			readers.Go(func() {
				defer close(l.ready)
				if !f.cache.has(t.key(j)) {
					l.value, l.err = t.load(j)
				}
			})
		}
	})

	type made struct {
		key
		entry
	}
	output := make(chan made, 2*t.group())
	for range 4 { // each waits for the disk most of the time
		writers.Go(func() {
			for m := range output {
				if ctx.Err() != nil {
					continue
				}
				if err := f.cache.write(m.key, m.entry); err != nil {
					stop(&CacheError{err})
					continue
				}
				f.done(t, true)
			}
		})
	}

	corrupt, firstCorrupt := 0, error(nil)
	var pending []*loading
	flush := func(s *torch.Scope) error {
		keys := make([]key, 0, len(pending))
		values := make([]any, 0, len(pending))
		of := make([]job, 0, len(pending))
		want := entry(nil)
		for _, l := range pending {
			k := t.key(l.job)
			if f.cache.has(k) { // another run has made it meanwhile
				f.done(t, false)
				continue
			}
			keys, values, of, want = append(keys, k), append(values, l.value), append(of, l.job), t.want(l.job)
		}
		pending = pending[:0]
		if len(keys) == 0 {
			return nil
		}
		return s.Run(func(s *torch.Scope) error {
			tensors, err := t.encode(s, values)
			if err != nil {
				return t.failed(of[0], err)
			}
			for i, k := range keys {
				e, err := arrays(s, want, tensors, i)
				if err != nil {
					return t.failed(of[i], err)
				}
				select {
				case output <- made{k, e}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		})
	}
	err := torch.Run(t.device(), func(s *torch.Scope) error {
		for l := range queue {
			select {
			case <-l.ready:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			var bad *dataset.CorruptError
			switch {
			case errors.As(l.err, &bad) && f.skip:
				if corrupt++; firstCorrupt == nil {
					firstCorrupt = l.err
				}
				continue
			case l.err != nil:
				return l.err
			case l.value == nil: // it was there
				f.done(t, false)
				continue
			}
			if len(pending) > 0 && (len(pending) == t.group() || sizeOf(t.want(pending[0].job)) != sizeOf(t.want(l.job))) {
				if err := flush(s); err != nil {
					return err
				}
			}
			pending = append(pending, l)
		}
		return flush(s)
	})
	close(output)
	if err != nil {
		stop(err)
	}
	writers.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if corrupt > 0 {
		f.note("%s of which the next of their buckets take the place; the first: %v", plural.N(corrupt, "corrupt image"), quote.Error(firstCorrupt))
	}
	return err
}

// lock reports whether no other run fills this cache. Its file stays, and its lock ends with the process at the latest.
func (c *cache) lock() (first bool, unlock func()) {
	fd, err := unix.Open(filepath.Join(c.dir, "lock"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o666)
	if err != nil {
		return true, func() {}
	}
	f := os.NewFile(uintptr(fd), "lock")
	first = !errors.Is(unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	return first, func() { _ = f.Close() }
}
