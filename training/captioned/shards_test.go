package captioned

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/dataset"
)

// tarOf is an archive of pairs of a name and a content.
func tarOf(t testing.TB, pairs ...string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1])), Format: tar.FormatUSTAR}))
		_, err := w.Write([]byte(pairs[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.String()
}

func gzipped(data string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(data))
	z.Close()
	return b.String()
}

func TestShards(t *testing.T) {
	img := gradient(8, 8, 0)
	one := tarOf(t, "0.png", img, "0.txt", "a", "1.json", `{"caption": ["b", "c"], "text": null}`, "1.png", img, "2.text", "d", "2.png", img, "3.caption", "x", "3.txt", "e", "3.png", img, "4.heic", "x", "4.txt", "x")
	two := tarOf(t, "0.png", img, "0.txt", "f")
	want := map[string][]string{"0": {"a"}, "1": {"b", "c"}, "2": {"d"}, "3": {"e"}}
	o := Options{Resolution: 8}
	dir := tree(t, "x-0.tar", one, "x-1.tar", two, "x.tar.gz", gzipped(one))
	for _, name := range []string{"x-0.tar", "x.tar.gz"} {
		s := opened(t, filepath.Join(dir, name), o)
		assert.Equal(t, want, captionsOf(s))
		assert.Equal(t, map[string]int{".heic": 1}, s.Summary().LeftOut)
		for _, b := range batches(s.Order(OrderOptions{}), 0, 8) {
			_, err := s.Read(b[0])
			require.NoError(t, err)
		}
	}
	for _, spec := range []string{"x-{0..1}.tar", "x-?.tar", "x-{0,1}.t*r"} {
		s := opened(t, filepath.Join(dir, spec), o)
		assert.Equal(t, 5, s.Len(), spec)
		assert.Equal(t, []string{"f"}, captionsOf(s)["x-1.tar/0"])
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "x.tar.gz")))
	assert.Equal(t, 5, opened(t, dir, o).Len(), "a directory of shards")

	write(t, dir, "a.png", img)
	for name, spec := range map[string]string{
		"both":         dir,
		"no match":     filepath.Join(dir, "y-*.tar"),
		"no shards":    filepath.Join(dir, "*"),
		"descending":   filepath.Join(dir, "x-{3..1}.tar"),
		"one missing":  filepath.Join(dir, "x-{0..2}.tar"),
		"truncated":    write(t, t.TempDir(), "x.tar", one[:2000]),
		"no images":    write(t, t.TempDir(), "x.tar", tarOf(t, "0.txt", "a")),
		"empty":        write(t, t.TempDir(), "x.tar", tarOf(t)),
		"no archive":   write(t, t.TempDir(), "x.tar", "x"),
		"bomb":         write(t, t.TempDir(), "x.tar.gz", gzipped(tarOf(t, "README", strings.Repeat("\x00", 200<<20)))),
		"long caption": write(t, t.TempDir(), "x.tar", tarOf(t, "0.png", img, "0.txt", strings.Repeat("x", 2<<20))),
		"no caption":   write(t, t.TempDir(), "x.tar", tarOf(t, "0.png", img)),
		"bad JSON":     write(t, t.TempDir(), "x.tar", tarOf(t, "0.png", img, "0.json", "{")),
		"not UTF-8":    write(t, t.TempDir(), "x.tar", tarOf(t, "0.png", img, "0.txt", "\xff")),
	} {
		err := refused(t, spec, o)
		assert.Contains(t, err.Error(), filepath.Base(filepath.Dir(spec)), name)
	}
	var corrupt *dataset.CorruptError
	require.ErrorAs(t, refused(t, write(t, t.TempDir(), "x.tar", tarOf(t, "a/7.png", "x", "a/7.txt", "y")), o), &corrupt)
	assert.Contains(t, corrupt.Error(), "a/7", "its key")
}

// server serves files, which break off at a byte if that is above 0.
type server struct {
	files    map[string]string
	tag      string
	breakAt  atomic.Int64
	requests atomic.Int64
	ranges   atomic.Int64
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	data, ok := s.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", s.tag)
	if r.Header.Get("Range") != "" {
		s.ranges.Add(1)
	}
	if at := s.breakAt.Swap(0); at > 0 {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write([]byte(data[:at]))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(data))
}

func TestDownloads(t *testing.T) {
	pause = time.Millisecond
	img := gradient(64, 64, 0)
	files := &server{tag: `"1"`, files: map[string]string{"/x-0.tar": tarOf(t, "0.png", img, "0.txt", "a"), "/x-1.tar": tarOf(t, "0.png", img, "0.txt", "b")}}
	web := httptest.NewServer(files)
	defer web.Close()
	o := Options{Resolution: 8, Cache: t.TempDir()}

	told := map[string]int64{}
	o.Downloading = func(shard string, done, all int64) {
		told[shard] = done
		require.Len(t, files.files["/"+shard], int(all))
	}
	s := opened(t, web.URL+"/x-{0..1}.tar", o)
	require.Equal(t, 2, s.Len())
	require.Equal(t, map[string]int64{"x-0.tar": int64(len(files.files["/x-0.tar"])), "x-1.tar": int64(len(files.files["/x-1.tar"]))}, told)
	o.Downloading = nil
	require.EqualValues(t, 2, files.requests.Load())
	s = opened(t, web.URL+"/x-{0..1}.tar", o)
	require.Equal(t, 2, s.Len())
	require.EqualValues(t, 2, files.requests.Load(), "kept")
	assert.Contains(t, strings.Join(s.Notices(), "\n"), o.Cache)

	// What breaks off is continued, and begun anew if the file has changed.
	for _, changed := range []bool{false, true} {
		o.Cache = t.TempDir()
		files.breakAt.Store(1000)
		ranges := files.ranges.Load()
		if changed {
			ctx, cancel := context.WithCancel(context.Background())
			pause = time.Hour
			time.AfterFunc(200*time.Millisecond, cancel)
			_, err := Open(ctx, web.URL+"/x-0.tar", o)
			require.ErrorIs(t, err, context.Canceled)
			pause = time.Millisecond
			part, _ := filepath.Glob(filepath.Join(o.Cache, "*.part"))
			require.Len(t, part, 1)
			files.tag, files.files["/x-0.tar"] = `"2"`, tarOf(t, "0.png", img, "0.txt", "another")
		}
		s = opened(t, web.URL+"/x-0.tar", o)
		require.EqualValues(t, ranges+1, files.ranges.Load())
		require.Equal(t, []string{map[bool]string{false: "a", true: "another"}[changed]}, s.Images()[0].Captions)
		left, _ := os.ReadDir(o.Cache)
		require.Len(t, left, 1, "no part and no tag is left")
	}

	// Errors say what is wrong, and no password or signature.
	secret := strings.Replace(web.URL, "http://", "http://me:secret@", 1)
	for spec, want := range map[string]string{
		secret + "/nowhere.tar?sign=secret": "404", secret + "/x-0.zip?secret": "shard", "http:///x.tar": "HOST", "http://127.0.0.1:1/x.tar": "refused",
	} {
		err := refused(t, spec, o)
		assert.Contains(t, err.Error(), want)
		assert.NotContains(t, err.Error(), "secret")
	}
	left, _ := filepath.Glob(filepath.Join(o.Cache, "*.part"))
	assert.Empty(t, left)
	assert.Contains(t, captionsOf(opened(t, web.URL+"/x-{0..1}.tar", o)), "x-1.tar/0")
	o.Cache, o.CacheLimit = t.TempDir(), 100
	assert.ErrorContains(t, refused(t, web.URL+"/x-0.tar", o), "limit")
	o.CacheLimit = -1
	refused(t, web.URL+"/x-0.tar", o)
}

// A server that stops sending does not hold a run up for ever.
func TestDownloadStalls(t *testing.T) {
	pause, stalled = time.Millisecond, 50*time.Millisecond
	defer func() { stalled = time.Minute }()
	done := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-done:
		}
	}))
	defer web.Close()
	defer close(done)
	assert.ErrorContains(t, refused(t, web.URL+"/x.tar", Options{Cache: t.TempDir()}), "50ms")
}

func TestPipe(t *testing.T) {
	img := gradient(64, 64, 0)
	dir := tree(t, "x-0.tar", tarOf(t, "0.png", img, "0.txt", "a"), "x-1.tar", tarOf(t, "0.png", img, "0.txt", "b"))
	o := Options{Resolution: 8, Cache: t.TempDir()}
	s := opened(t, "pipe:cat "+dir+"/x-{0..1}.tar", o)
	require.Equal(t, 2, s.Len())
	for _, b := range batches(s.Order(OrderOptions{}), 0, 4) {
		_, err := s.Read(b[0])
		require.NoError(t, err)
	}
	again := opened(t, "pipe:cat "+dir+"/x-{0..1}.tar", o)
	require.Equal(t, s.Identity(), again.Identity(), "temporary files' names do not count")
	require.Equal(t, map[string][]string{"x-0.tar/0": {"a"}, "x-1.tar/0": {"b"}}, captionsOf(again))
	for spec, want := range map[string]string{
		"pipe:": "nothing", "pipe:true": "nothing", "pipe:echo broken >&2; exit 3": "broken", "pipe:echo x": "damaged", "pipe:exit 3": "3",
	} {
		assert.Contains(t, refused(t, spec, o).Error(), want, spec)
	}
	o.CacheLimit = 1 << 20
	assert.ErrorContains(t, refused(t, "pipe:cat /dev/zero", o), "limit")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := Open(ctx, "pipe:sleep 100 & sleep 100", o)
	require.Error(t, err)
	require.Less(t, time.Since(begin), 9*time.Second, "children end, too")
	left, _ := os.ReadDir(o.Cache)
	assert.Empty(t, left)
	// A configuration runs no commands and fetches nothing.
	for _, spec := range []string{"pipe:touch " + filepath.Join(dir, "ran"), "http://127.0.0.1:1/x.tar"} {
		refused(t, write(t, dir, "data.toml", "[[datasets]]\n[[datasets.subsets]]\nimage_dir = '"+spec+"'"), o)
	}
	_, err = os.Stat(filepath.Join(dir, "ran"))
	require.True(t, errors.Is(err, os.ErrNotExist))
}
