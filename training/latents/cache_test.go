package latents

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/captioned"
)

// encoded returns the numbers of entries made and found when a source is opened.
func encoded(t testing.TB, c Config) (src *Source, made, found map[string]int) {
	t.Helper()
	made, found = map[string]int{}, map[string]int{}
	c.Progress = func(p Progress) { made[p.Stage], found[p.Stage] = p.Made, p.Done-p.Made }
	return source(t, c), made, found
}

// An entry depends on the content of the image and its use, on the tokens of the caption, on weights, configuration and type, and on nothing
// else.
func TestKeys(t *testing.T) {
	dir := pictures(t, 3)
	cache := t.TempDir()
	m := model(t, "sd15", sd.Options{})
	check := func(what string, c Config, images, texts int) {
		t.Helper()
		c.Cache = cache
		if c.Set == nil {
			c.Set = open(t, dir, captioned.Options{})
		}
		if c.Model == nil {
			c.Model = m
		}
		_, made, _ := encoded(t, c)
		require.Equal(t, []int{images, texts}, []int{made["latents"], made["text features"]}, what)
	}
	check("at first", Config{}, 3, 3)
	check("again, with another seed and batch size", Config{Seed: 5, Batch: 2}, 0, 0)
	check("the same weights elsewhere", Config{Model: model(t, "sd15", sd.Options{})}, 0, 0)
	check("flips", Config{Set: open(t, dir, captioned.Options{Settings: captioned.Settings{Flip: true}})}, 3, 0)
	check("another size", Config{Set: open(t, dir, captioned.Options{Resolution: 40})}, 3, 0)
	check("clip skip", Config{ClipSkip: 1}, 0, 3)
	check("another type", Config{Model: model(t, "sd15", sd.Options{DType: torch.BFloat16})}, 3, 3)
	check("another autoencoder", Config{Model: &sd.Model{VAE: tinyAuto(t), Texts: m.Texts}}, 3, 0)
	other := model(t, "sd15", sd.Options{})
	for _, p := range other.Texts[0].Parameters() {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error { p.AddScalarInPlace(s, 1); return nil })
		}))
		break
	}
	check("another text encoder", Config{Model: other}, 0, 3)
	tiled := model(t, "sd15", sd.Options{Tile: 32})
	check("tiles", Config{Model: tiled}, 3, 0)
	require.NoError(t, os.Rename(filepath.Join(dir, "00.png"), filepath.Join(dir, "09.png")))
	require.NoError(t, os.Rename(filepath.Join(dir, "00.txt"), filepath.Join(dir, "09.txt")))
	check("another name", Config{}, 0, 0)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "09.txt"), []byte("Picture  NUMBER 0"), 0o644))
	check("other letters of the same tokens", Config{}, 0, 0)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "09.txt"), []byte("a dog"), 0o644))
	check("another caption", Config{}, 0, 1)
	paint(t, filepath.Join(dir, "09.png"), 40, 32, 77)
	check("another image", Config{}, 1, 0)
	check("captions for later", Config{Captions: true}, 0, 0)
}

// Damaged entries are found when a source is opened, and made anew with a notice; one that is damaged later is made anew when it is needed,
// or is an error that names it if the encoder was closed.
func TestDamage(t *testing.T) {
	dir := pictures(t, 3)
	cache := t.TempDir()
	set := open(t, dir, captioned.Options{})
	m := model(t, "sd15", sd.Options{})
	c := Config{Set: set, Model: m, Cache: cache, Batch: 3}
	src, made, _ := encoded(t, c)
	require.Equal(t, map[string]int{"latents": 3, "text features": 3}, made)
	want := values(t, src, 0, 3)
	files := entries(t, cache)
	require.Len(t, files, 6)
	at := func(path string) []byte {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		return data
	}
	good := map[string]string{}
	for _, path := range files {
		good[path] = string(at(path))
	}
	damage := map[string]func(path string){
		"a bit":     func(p string) { b := at(p); b[len(b)-5] ^= 4; require.NoError(t, os.WriteFile(p, b, 0o644)) },
		"truncated": func(p string) { require.NoError(t, os.Truncate(p, 100)) },
		"empty":     func(p string) { require.NoError(t, os.Truncate(p, 0)) },
		"longer":    func(p string) { require.NoError(t, os.WriteFile(p, append(at(p), make([]byte, 1<<20)...), 0o644)) },
		"other entry": func(p string) {
			require.NoError(t, os.WriteFile(p, []byte(good[files[(indexOf(files, p)+1)%6]]), 0o644))
		},
		"gone": func(p string) { require.NoError(t, os.Remove(p)) },
	}
	for what, harm := range damage {
		for _, path := range files {
			harm(path)
		}
		src, made, _ := encoded(t, c)
		require.Equal(t, map[string]int{"latents": 3, "text features": 3}, made, what)
		if what != "gone" {
			require.Len(t, src.Notices(), 2, what)
			require.Contains(t, src.Notices()[0], "3 damaged files")
		}
		require.Equal(t, want, values(t, src, 0, 3), what)
		for path, data := range good {
			require.Equal(t, data, string(at(path)), "made anew to the bit")
		}
	}
	// After it was opened.
	for what, harm := range damage {
		harm(files[0])
		require.Equal(t, want, values(t, src, 0, 3), what)
		require.Equal(t, good[files[0]], string(at(files[0])))
	}
	require.Len(t, src.Notices(), len(damage)-1)
	require.NoError(t, os.Remove(files[0]))
	require.NoError(t, os.Remove(filepath.Dir(files[0])))
	require.NoError(t, os.WriteFile(filepath.Dir(files[0]), nil, 0o644))
	require.Equal(t, want, values(t, src, 0, 3), "it cannot be stored, and is used all the same")
	require.Contains(t, strings.Join(src.Notices()[len(damage)-1:], " "), filepath.Dir(files[0]))
	require.NoError(t, os.Remove(filepath.Dir(files[0])))

	gone := model(t, "sd15", sd.Options{})
	src, _, _ = encoded(t, Config{Set: set, Model: gone, Cache: cache, Batch: 3})
	require.True(t, src.Complete())
	require.NoError(t, gone.Close())
	require.Equal(t, want, values(t, src, 0, 3), "the model is not needed")
	damage["a bit"](files[0])
	for _, err := range src.Batches(t.Context(), 0) {
		require.ErrorContains(t, err, files[0])
		require.ErrorContains(t, err, "checksum")
	}
}

func indexOf(all []string, one string) int {
	for i, s := range all {
		if s == one {
			return i
		}
	}
	return -1
}

// A file of another shape, or with a tensor more, is not taken for an entry, whatever its checksum.
func TestForgedEntries(t *testing.T) {
	c := &cache{t.TempDir()}
	require.NoError(t, c.open())
	k := newKey("a key")
	want := entry{{name: "x", dtype: torch.Float32, shape: []int{2}}}
	good := entry{{name: "x", dtype: torch.Float32, shape: []int{2}, data: make([]byte, 8)}}
	more := entry{good[0], {name: "y", dtype: torch.Float32, shape: []int{0}, data: []byte{}}}
	for _, e := range []entry{{{name: "x", dtype: torch.Float32, shape: []int{1, 2}, data: make([]byte, 8)}}, {{name: "x", dtype: torch.Float16, shape: []int{4}, data: make([]byte, 8)}},
		{{name: "z", dtype: torch.Float32, shape: []int{2}, data: make([]byte, 8)}}, more} {
		require.NoError(t, c.write(k, e))
		_, err := c.read(k, want)
		var bad *damagedError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, c.path(k), bad.path)
	}
	require.NoError(t, c.write(k, good))
	got, err := c.read(k, want)
	require.NoError(t, err)
	require.Equal(t, good, got)
	require.NoError(t, os.Remove(c.path(k)))
	require.NoError(t, unix.Mkfifo(c.path(k), 0o644))
	_, err = c.read(k, want)
	require.ErrorContains(t, err, "damaged")
}

// Two runs fill a cache together: each entry is made, both are complete, and their batches are equal.
func TestTwoRunsAtOnce(t *testing.T) {
	dir := pictures(t, 12)
	cache := t.TempDir()
	var wg sync.WaitGroup
	sources := make([]*Source, 2)
	made := make([]int, 2)
	for i := range sources {
		set, m := open(t, dir, captioned.Options{}), model(t, "sd15", sd.Options{})
		wg.Go(func() {
			var err error
			sources[i], err = Open(context.Background(), Config{Set: set, Model: m, Cache: cache, Batch: 4, Progress: func(p Progress) { made[i] = p.Made }})
			if err != nil {
				panic(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, values(t, sources[0], 0, 4), values(t, sources[1], 0, 4))
	require.Len(t, entries(t, cache), 24)
	for _, src := range sources {
		require.True(t, src.Complete())
		require.Empty(t, src.Notices())
	}
}

// A run that is killed at any moment leaves whole entries only, and the next one goes on from them.
func TestKilled(t *testing.T) {
	if os.Getenv("LATENTS_CACHE") != "" {
		return // see TestHelper
	}
	root := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(root, "model"), "sd15"))
	dir, cache := pictures(t, 10), filepath.Join(root, "cache")
	kept := 0
	for _, after := range []string{"latents 2", "latents 7", "text features 3"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$")
		cmd.Env = append(os.Environ(), "LATENTS_CACHE="+cache, "LATENTS_IMAGES="+dir, "LATENTS_MODEL="+filepath.Join(root, "model"))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		seen := false
		for !seen && lines.Scan() {
			seen = lines.Text() == after
		}
		require.True(t, seen, after)
		require.NoError(t, cmd.Process.Kill())
		_, _ = io.Copy(io.Discard, out)
		require.Error(t, cmd.Wait())
		now := len(entries(t, cache))
		require.Greater(t, now, kept)
		kept = now
	}
	m, err := sd.Open(filepath.Join(root, "model"), sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	set := open(t, dir, captioned.Options{})
	src, made, found := encoded(t, Config{Set: set, Model: m, Cache: cache, Batch: 5})
	require.Empty(t, src.Notices(), "nothing is damaged")
	require.Equal(t, kept, found["latents"]+found["text features"])
	require.Equal(t, 20-kept, made["latents"]+made["text features"])
	require.Equal(t, values(t, source(t, Config{Set: set, Model: m, Batch: 5}), 0, 4), values(t, src, 0, 4))
	all, err := filepath.Glob(filepath.Join(cache, "??", ".*"))
	require.NoError(t, err)
	require.Empty(t, all, "nothing else is left")
}

// TestHelper is the process that other tests kill or limit.
func TestHelper(t *testing.T) {
	cache := os.Getenv("LATENTS_CACHE")
	if cache == "" {
		t.Skip("part of TestKilled and TestFullDisk")
	}
	m, err := sd.Open(os.Getenv("LATENTS_MODEL"), sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	if os.Getenv("LATENTS_LIMIT") != "" {
		const most = 3000 // bytes of a file: latents fit, text features do not
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: most, Max: most}))
	}
	_, err = Open(t.Context(), Config{Set: open(t, os.Getenv("LATENTS_IMAGES"), captioned.Options{}), Model: m, Cache: cache, Progress: func(p Progress) {
		fmt.Println(p.Stage, p.Done)
	}})
	if err != nil {
		fmt.Println("error:", strings.ReplaceAll(err.Error(), "\n", "\\n"), full(err))
	}
}

// A full disk, here a limit on file sizes, is one clear error, and what was made before stays.
func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, tiny.Write(filepath.Join(root, "model"), "sd15"))
	dir, at := pictures(t, 4), filepath.Join(root, "cache")
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), "LATENTS_CACHE="+at, "LATENTS_IMAGES="+dir, "LATENTS_MODEL="+filepath.Join(root, "model"), "LATENTS_LIMIT=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	var said string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "error:") {
			said = strings.TrimSpace(line)
		}
	}
	require.Contains(t, said, at)
	require.Contains(t, said, "0 of 4 text features")
	require.NotContains(t, said, `\n`)
	require.True(t, strings.HasSuffix(said, "true"), said)
	require.Len(t, entries(t, at), 4)

	m, err := sd.Open(filepath.Join(root, "model"), sd.Options{})
	require.NoError(t, err)
	defer m.Close()
	_, made, found := encoded(t, Config{Set: open(t, dir, captioned.Options{}), Model: m, Cache: at})
	require.Equal(t, 4, made["text features"])
	require.Equal(t, 4, found["latents"])

	require.ErrorIs(t, (&cache{t.TempDir()}).room(1<<60), unix.ENOSPC)
	require.NoError(t, (&cache{t.TempDir()}).room(1))
}

// No corrupt image goes unnoticed, and with SkipCorrupt the next one takes its place, with a cache and without.
func TestCorruptImages(t *testing.T) {
	dir := pictures(t, 4)
	path := filepath.Join(dir, "02.png")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data[:len(data)/2], 0o644))
	set := open(t, dir, captioned.Options{})
	m := model(t, "sd15", sd.Options{})
	_, err = Open(t.Context(), Config{Set: set, Model: m, Cache: t.TempDir()})
	require.ErrorContains(t, err, "02.png")
	for _, err := range source(t, Config{Set: set, Model: m, Batch: 4}).Batches(t.Context(), 0) {
		require.ErrorContains(t, err, "02.png")
	}
	src := source(t, Config{Set: set, Model: m, Batch: 4, Cache: t.TempDir(), SkipCorrupt: true})
	require.Len(t, src.Notices(), 1)
	require.Contains(t, src.Notices()[0], "02.png")
	require.Equal(t, values(t, source(t, Config{Set: set, Model: m, Batch: 4, SkipCorrupt: true}), 0, 3), values(t, src, 0, 3))
}

// An image that is changed between the opening of the set and its encoding is an error that names it, also where corrupt ones are skipped,
// and the cache gets no entry of one image under the sum of another.
func TestImagesChangedMeanwhile(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"another image": func(path string) error { paint(t, path, 41, 32, 9); return nil },
		"truncated":     func(path string) error { return os.Truncate(path, 60) },
	} {
		dir, at := pictures(t, 2), t.TempDir()
		m, set := model(t, "sd15", sd.Options{}), open(t, dir, captioned.Options{})
		path := filepath.Join(dir, "01.png")
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, change(path))
		_, err = Open(t.Context(), Config{Set: set, Model: m, Cache: at, SkipCorrupt: true})
		var changed *captioned.ChangedError
		require.ErrorAs(t, err, &changed, name)
		require.Equal(t, path, changed.Name)
		require.NoError(t, os.WriteFile(path, good, 0o644))
		again := open(t, dir, captioned.Options{})
		want := values(t, source(t, Config{Set: again, Model: m, Cache: t.TempDir(), Batch: 2}), 0, 2)
		require.Equal(t, want, values(t, source(t, Config{Set: again, Model: m, Cache: at, Batch: 2}), 0, 2), name)
	}
}
