package captioned

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/archive"
)

// Limits of what is fetched.
const (
	defaultCacheLimit = 64 << 30 // bytes of all shards of a set
	attempts          = 5        // of a download, each of which continues the one before
)

// Waiting times of a download; variables, so that tests need not wait.
var (
	stalled = time.Minute // without a byte
	pause   = time.Second // before the second attempt; it doubles
)

// fetcher fetches shards into files.
type fetcher struct {
	dir  string // where files are kept
	left int64  // bytes that may still be fetched
	all  int64
	tell func(shard string, done, all int64) // may be nil

	fetched, reused int
}

func newFetcher(o Options) (*fetcher, error) {
	f := &fetcher{dir: o.Cache, left: o.CacheLimit, tell: o.Downloading}
	if f.left == 0 {
		f.left = defaultCacheLimit
	}
	f.all = f.left
	if f.dir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no directory to keep downloaded shards in: %w", quote.Error(err))
		}
		f.dir = filepath.Join(dir, "onestep", "shards")
	}
	return f, quote.Error(os.MkdirAll(f.dir, 0o755))
}

// tooMuch is the error of shards above the limit.
func (f *fetcher) tooMuch(what string) error {
	return fmt.Errorf("%s: the shards have over %s, the limit of the cache: fetch fewer, or raise it", what, size(f.all))
}

func size(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// isURL reports whether a spec is fetched by HTTP.
func isURL(spec string) bool {
	return strings.HasPrefix(spec, "http://") || strings.HasPrefix(spec, "https://")
}

// shown is an address without what may be secret: the user, the password, and the query, which signs addresses of object stores.
func shown(u *url.URL) string {
	short := *u
	short.User, short.Fragment = nil, ""
	if short.RawQuery != "" {
		short.RawQuery = "…"
	}
	return quote.Path(short.String())
}

// withoutAddress is an error of net/http without the address, which may be secret and is said elsewhere.
func withoutAddress(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return quote.Error(err)
}

// file returns the path of a shard at an address, and the address as it is shown. It downloads the shard unless that was done before. What is there of an interrupted download is
// continued if the server still has the same file.
func (f *fetcher) file(ctx context.Context, address string) (local, name string, err error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", "", errors.New("want http://HOST/PATH or https://HOST/PATH of a shard, got another address")
	}
	name = shown(u)
	base := path.Base(u.Path)
	if !archive.IsShard(base) {
		return "", name, fmt.Errorf("%s: want the address of a .tar or .tar.gz shard", name) //quote: shown quotes it
	}
	// The name is kept for people; the sum tells addresses apart.
	sum := sha256.Sum256([]byte(address))
	file := filepath.Join(f.dir, fmt.Sprintf("%x-%s", sum[:8], strings.Map(plainName, base)))
	if st, err := os.Stat(file); err == nil {
		f.reused++
		return file, name, f.take(st.Size(), name)
	}
	d := download{fetcher: f, url: u, address: address, part: file + ".part", tag: file + ".etag"}
	if err := d.run(ctx); err != nil {
		return "", name, fmt.Errorf("%s: %w", name, err) //quote: shown quotes it
	}
	f.fetched++
	if err := os.Rename(d.part, file); err != nil {
		return "", name, quote.Error(err)
	}
	if err := os.Remove(d.tag); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", name, quote.Error(err)
	}
	return file, name, nil
}

func (f *fetcher) take(n int64, what string) error {
	if f.left -= n; f.left < 0 {
		return f.tooMuch(what)
	}
	return nil
}

// plainName replaces characters of a file's name that are not plain.
func plainName(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
		return r
	}
	return '_'
}

// download is one file's.
type download struct {
	*fetcher
	url     *url.URL
	address string
	part    string // what has been downloaded
	tag     string // holds the server's name of its version, ETag
	reached bool   // the last attempt got further
}

// fatal is an error that another attempt would meet again.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

func (d *download) run(ctx context.Context) error {
	file, err := os.OpenFile(d.part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return quote.Error(err)
	}
	defer file.Close()
	if err := locked(ctx, file); err != nil {
		return err
	}
	defer func() {
		// Nothing is left of an address without a file.
		if st, err := file.Stat(); err == nil && st.Size() == 0 {
			os.Remove(d.part)
			os.Remove(d.tag)
		}
	}()
	wait := pause
	for n := 1; ; n++ {
		err := d.attempt(ctx, file)
		var final fatal
		switch {
		case err == nil:
			return errors.Join(quote.Error(file.Sync()), quote.Error(file.Close()))
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &final):
			return final.error
		case n >= attempts:
			return fmt.Errorf("%w (%s; what is there is kept, and the next run continues it)", err, plural.N(attempts, "attempt"))
		}
		if d.reached {
			n, wait, d.reached = 0, pause, false
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// locked waits until no other process downloads the same file.
func locked(ctx context.Context, file *os.File) error {
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// attempt continues the download where it stands.
func (d *download) attempt(ctx context.Context, file *os.File) error {
	have, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return fatal{quote.Error(err)}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(stalled, func() { cancel(fmt.Errorf("nothing came for %v", stalled)) })
	defer idle.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.address, nil)
	if err != nil {
		return fatal{withoutAddress(err)}
	}
	request.Header.Set("Accept-Encoding", "identity") // so that bytes can be counted and continued
	tag, _ := os.ReadFile(d.tag)
	if have > 0 && len(tag) > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		request.Header.Set("If-Range", string(tag))
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return causeOf(ctx, withoutAddress(err))
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusPartialContent && strings.HasPrefix(answer.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have)):
	case answer.StatusCode == http.StatusOK: // from the beginning
		have = 0
		if err := errors.Join(file.Truncate(0), os.WriteFile(d.tag, []byte(strongTag(answer)), 0o644)); err != nil {
			return fatal{quote.Error(err)}
		}
	case answer.StatusCode == http.StatusRequestedRangeNotSatisfiable, answer.StatusCode == http.StatusPartialContent:
		if err := file.Truncate(0); err != nil {
			return fatal{quote.Error(err)}
		}
		return fmt.Errorf("the server cannot continue at byte %d", have)
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout:
		return fmt.Errorf("the server answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode)) //quote: the names of net/http
	default:
		return fatal{fmt.Errorf("the server answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))} //quote: the names of net/http
	}
	if _, err := file.Seek(have, io.SeekStart); err != nil {
		return fatal{quote.Error(err)}
	}
	most := d.left - have
	if answer.ContentLength > most {
		return fatal{d.tooMuch("it has " + size(have+answer.ContentLength))}
	}
	n, err := io.Copy(diskFile{file}, io.LimitReader(&watched{answer.Body, idle, d.told(have, answer.ContentLength)}, most+1))
	d.reached = n > 0
	var disk diskError
	switch {
	case errors.As(err, &disk):
		return fatal{quote.Error(disk.error)}
	case err != nil:
		return causeOf(ctx, withoutAddress(err))
	case n > most:
		return fatal{d.tooMuch("it is too large")}
	case answer.ContentLength >= 0 && n < answer.ContentLength:
		return io.ErrUnexpectedEOF
	}
	d.left -= have + n
	return nil
}

// told returns a function that is called with the number of bytes that came, of rest after those that were there, -1 if that is unknown.
func (d *download) told(have, rest int64) func(n int) {
	all := int64(-1)
	if rest >= 0 {
		all = have + rest
	}
	return func(n int) {
		if have += int64(n); d.tell != nil {
			d.tell(path.Base(d.url.Path), have, all)
		}
	}
}

// strongTag is what tells the version of a file from others byte by byte; "": nothing does.
func strongTag(answer *http.Response) string {
	tag := answer.Header.Get("ETag")
	if tag == "" {
		tag = answer.Header.Get("Last-Modified")
	}
	if strings.HasPrefix(tag, "W/") || len(tag) > 1000 {
		return ""
	}
	return tag
}

// causeOf is why a request ended, if we ended it.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watched is a body whose reads put off a timer.
type watched struct {
	io.Reader
	idle *time.Timer
	came func(n int)
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.idle.Reset(stalled)
		w.came(n)
	}
	return n, err
}

// diskFile is a file whose errors are told from those of the network.
type diskFile struct{ *os.File }

type diskError struct{ error }

func (d diskFile) Write(p []byte) (int, error) {
	n, err := d.File.Write(p)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("the disk is full; what is there is kept: %w", err)
		}
		return n, diskError{err}
	}
	return n, nil
}
