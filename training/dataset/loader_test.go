package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/internal/shuffle"
)

// numbers is a set of n images of 2×2 whose pixels tell which they are.
type numbers struct {
	n     int
	bad   map[int]error
	reads atomic.Int64
	slow  bool
}

func (d *numbers) Name() string           { return "numbers" }
func (d *numbers) Len() int               { return d.n }
func (d *numbers) Shape() (int, int, int) { return 1, 2, 2 }
func (d *numbers) Classes() []string      { return numbered(d.n) }
func (d *numbers) Read(i int, dst []byte) (int, error) {
	if k := d.reads.Add(1); d.slow && k%3 == 0 {
		time.Sleep(time.Millisecond) // so that batches are done out of order
	}
	copy(dst, []byte{byte(i), byte(i >> 8), 1, 2})
	return i, d.bad[i]
}

// take returns the labels, and whether the image is mirrored, of the first images.
func take(t *testing.T, l *Loader, batches int) (labels []int, mirrored []bool) {
	seen := l.Start
	for b, err := range l.Batches(t.Context()) {
		require.NoError(t, err)
		require.Len(t, b.Labels, l.Batch)
		seen += int64(l.Batch)
		require.Equal(t, seen, b.Seen)
		for i, label := range b.Labels {
			px := b.Pixels[4*i : 4*i+4]
			flip := px[2] == 2
			if flip {
				px = []byte{px[1], px[0], px[3], px[2]}
			}
			require.Equal(t, []byte{byte(label), byte(label >> 8), 1, 2}, px)
			labels, mirrored = append(labels, int(label)), append(mirrored, flip)
		}
		if batches--; batches == 0 {
			break
		}
	}
	return labels, mirrored
}

func TestOrder(t *testing.T) {
	const n = 101
	l := Loader{Dataset: &numbers{n: n}, Batch: 10, Seed: 5, Flip: true}
	labels, mirrored := take(t, &l, 40)
	t.Run("every epoch is a permutation of its own", func(t *testing.T) {
		var epochs [][]int
		for e := range 3 {
			epoch := labels[e*n : (e+1)*n]
			epochs = append(epochs, epoch)
			sorted := slices.Sorted(slices.Values(epoch))
			for i, v := range sorted {
				require.Equal(t, i, v)
			}
		}
		assert.NotEqual(t, epochs[0], epochs[1])
		assert.NotEqual(t, epochs[1], epochs[2])
	})
	t.Run("half are mirrored", func(t *testing.T) {
		count := 0
		for _, m := range mirrored {
			if m {
				count++
			}
		}
		assert.InDelta(t, 200, count, 50) // 5 standard deviations
	})
	t.Run("resumed", func(t *testing.T) {
		for _, start := range []int64{1, 10, 101, 250} {
			again := l
			again.Start = start
			got, flips := take(t, &again, 10)
			assert.Equal(t, labels[start:start+100], got)
			assert.Equal(t, mirrored[start:start+100], flips)
		}
	})
	t.Run("any number of workers", func(t *testing.T) {
		for _, workers := range []int{1, 2, 7} {
			again := Loader{Dataset: &numbers{n: n, slow: true}, Batch: 10, Seed: 5, Flip: true, Workers: workers}
			got, flips := take(t, &again, 40)
			assert.Equal(t, labels, got)
			assert.Equal(t, mirrored, flips)
		}
	})
	t.Run("any size of batches", func(t *testing.T) {
		again := l
		again.Batch = 400
		got, _ := take(t, &again, 1)
		assert.Equal(t, labels, got)
	})
	t.Run("another seed", func(t *testing.T) {
		again := l
		again.Seed = 6
		got, flips := take(t, &again, 40)
		assert.NotEqual(t, labels, got)
		assert.NotEqual(t, mirrored, flips)
	})
	t.Run("the order of released versions", func(t *testing.T) {
		// A saved run goes on with another build: the order must not change.
		assert.Equal(t, []int{13, 75, 65, 62, 6, 95, 82, 57, 92, 46}, labels[:10])
	})
}

// Each of the 24 orders of 4 images is as likely as another: the statistic of a χ² test with 23 degrees of freedom is
// below 49.7 with probability 0.999.
func TestPermutationsAreUniform(t *testing.T) {
	const epochs = 24000
	count := map[string]int{}
	for e := range uint64(epochs) {
		var order [4]byte
		for i := range uint64(4) {
			order[i] = '0' + byte(shuffle.Permute(1, e, 4, i))
		}
		count[string(order[:])]++
	}
	require.Len(t, count, 24)
	chi := 0.0
	for _, c := range count {
		d := float64(c) - epochs/24
		chi += d * d / (epochs / 24)
	}
	assert.Less(t, chi, 49.7)
}

// In a large set, where an image stands in one epoch says nothing of where it stands in the next, nor of its neighbours.
func TestPermutationsAreUncorrelated(t *testing.T) {
	const n = 50000
	correlation := func(f, g func(i uint64) uint64) float64 {
		sum := 0.0
		for i := range uint64(n) {
			sum += (float64(f(i)) - n/2) * (float64(g(i)) - n/2)
		}
		return sum / n / (float64(n) * n / 12)
	}
	at := func(seed, epoch, shift uint64) func(i uint64) uint64 {
		return func(i uint64) uint64 { return shuffle.Permute(seed, epoch, n, (i+shift)%n) }
	}
	limit := 0.0224 // 5/√n
	assert.InDelta(t, 0, correlation(at(1, 0, 0), func(i uint64) uint64 { return i }), limit)
	assert.InDelta(t, 0, correlation(at(1, 0, 0), at(1, 1, 0)), limit)
	assert.InDelta(t, 0, correlation(at(1, 0, 0), at(2, 0, 0)), limit)
	for shift := range uint64(4) {
		assert.InDelta(t, 0, correlation(at(1, 0, 0), at(1, 0, shift+1)), limit)
	}
}

func TestPermutationOfEverySize(t *testing.T) {
	for n := uint64(1); n < 300; n++ {
		seen := make([]bool, n)
		for i := range n {
			p := shuffle.Permute(3, n, n, i)
			require.False(t, seen[p], "%d images", n)
			seen[p] = true
		}
	}
	assert.Less(t, shuffle.Permute(1, 2, 1<<32-1, 1<<32-2), uint64(1<<32-1))
}

func TestSkipCorrupt(t *testing.T) {
	bad := map[int]error{}
	for _, i := range []int{3, 4, 11} {
		bad[i] = fmt.Errorf("wrapped: %w", &CorruptError{Name: fmt.Sprint(i), Err: errors.New("cut")})
	}
	good, _ := take(t, &Loader{Dataset: &numbers{n: 20}, Batch: 5, Seed: 1}, 8)
	var mu sync.Mutex
	told := map[string]int{}
	l := Loader{Dataset: &numbers{n: 20, bad: bad}, Batch: 5, Seed: 1, SkipCorrupt: true, Corrupt: func(err error) {
		var c *CorruptError
		require.ErrorAs(t, err, &c)
		mu.Lock()
		defer mu.Unlock()
		told[c.Name]++
	}}
	for _, workers := range []int{1, 4} {
		l.Workers = workers
		clear(told)
		got, skipped, n := []int(nil), 0, 0
		for b, err := range l.Batches(t.Context()) {
			require.NoError(t, err)
			skipped += b.Skipped
			for _, label := range b.Labels {
				got = append(got, int(label))
			}
			if n++; n == 8 {
				break
			}
		}
		want, passed := slices.Clone(good), 0
		for at := range want {
			for k := at; bad[want[at]] != nil; {
				k = at/20*20 + (k+1)%20 // in the epoch's order
				want[at] = good[k]
				passed++
			}
		}
		assert.Equal(t, want, got)
		assert.Equal(t, passed, skipped)
		assert.GreaterOrEqual(t, skipped, 6, "three in each of two epochs")
		for _, name := range []string{"3", "4", "11"} {
			assert.GreaterOrEqual(t, told[name], 2)
		}
		assert.Len(t, told, 3)
	}
}

func TestLoaderFails(t *testing.T) {
	cut := &CorruptError{Name: "x.png", Err: errors.New("cut")}
	disk := errors.New("disk on fire")
	all := map[int]error{0: cut, 1: cut, 2: cut}
	for _, c := range []struct {
		name   string
		loader Loader
		want   string
	}{
		{"corrupt", Loader{Dataset: &numbers{n: 3, bad: map[int]error{1: cut}}, Batch: 3}, "data: corrupt image x.png: cut"},
		{"all corrupt", Loader{Dataset: &numbers{n: 3, bad: all}, Batch: 3, SkipCorrupt: true}, "3 images|corrupt image x.png"},
		{"not the image's fault", Loader{Dataset: &numbers{n: 3, bad: map[int]error{1: disk}}, Batch: 3, SkipCorrupt: true}, "disk on fire"},
		{"no set", Loader{Batch: 1}, "no dataset"},
		{"empty", Loader{Dataset: &numbers{}, Batch: 1}, "no images"},
		{"batch", Loader{Dataset: &numbers{n: 1}}, "batch|got 0"},
		{"start", Loader{Dataset: &numbers{n: 1}, Batch: 1, Start: -1}, "got -1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var last error
			for b, err := range c.loader.Batches(t.Context()) {
				require.NoError(t, last, "nothing follows an error")
				if last = err; err != nil {
					assert.Equal(t, Batch{}, b)
				}
			}
			says(t, last, c.want)
		})
	}
}

// A bubble of synctest fails when it ends with goroutines that wait for something.
func TestLoaderLeavesNoGoroutine(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, l *Loader){
		"break": func(t *testing.T, l *Loader) {
			for range l.Batches(t.Context()) {
				break
			}
		},
		"cancel": func(t *testing.T, l *Loader) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n, last := 0, error(nil)
			for _, err := range l.Batches(ctx) {
				if n++; n == 3 {
					cancel()
				}
				last = err
			}
			require.ErrorIs(t, last, context.Canceled)
		},
		"cancelled before": func(t *testing.T, l *Loader) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			last := error(nil)
			for _, last = range l.Batches(ctx) {
			}
			require.ErrorIs(t, last, context.Canceled)
		},
		"panic of the consumer": func(t *testing.T, l *Loader) {
			assert.Panics(t, func() {
				for range l.Batches(t.Context()) {
					panic("consumer")
				}
			})
		},
		"error": func(t *testing.T, l *Loader) {
			l.Dataset = &numbers{n: 7, bad: map[int]error{1: errors.New("cut")}}
			last := error(nil)
			for _, last = range l.Batches(t.Context()) {
			}
			require.ErrorContains(t, last, "cut")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				use(t, &Loader{Dataset: &numbers{n: 7, slow: true}, Batch: 16, Workers: 5})
			})
		})
	}
}

// Two loops over one loader at once, and a set that fills its cache meanwhile, see the same.
func TestLoaderAtOnce(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		write(t, dir, fmt.Sprintf("%d/%02d.png", i%2, i), plain(grey(i), 5, 5))
	}
	s := opened(t, dir, Options{Resolution: 4, Channels: 1})
	l := Loader{Dataset: s, Batch: 8, Seed: 1, Flip: true}
	var first [2][]byte
	var wg sync.WaitGroup
	for k := range first {
		wg.Go(func() {
			n := 0
			for b, err := range l.Batches(context.Background()) {
				if !assert.NoError(t, err) {
					return
				}
				first[k] = append(first[k], b.Pixels...)
				for i, label := range b.Labels {
					assert.Equal(t, int64(b.Pixels[16*i]%2), label)
				}
				if n++; n == 30 {
					break
				}
			}
		})
	}
	wg.Wait()
	assert.True(t, bytes.Equal(first[0], first[1]))
}

func ExampleLoader() {
	set, err := Open("emoji", Options{Resolution: 16})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer set.Close()
	loader := Loader{Dataset: set, Batch: 64, Seed: 1, Start: 1900} // as a run that has seen 1,900 images
	for batch, err := range loader.Batches(context.Background()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(len(batch.Pixels), "bytes after", batch.Seen, "images")
		break
	}
	// Output: 49152 bytes after 1964 images
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name, spec string
		o          Options
	}{
		{"emoji", "emoji", Options{}},
		{"emoji to 64", "emoji", Options{Resolution: 64}},
		{"CIFAR-10 JPEG", "cifar10/test-00.tar.gz", Options{}},
		{"256 WebP to 32", "emoji/fluent3d-256.tar", Options{Resolution: 32}},
	} {
		b.Run(c.name, func(b *testing.B) {
			if c.spec != "emoji" {
				c.spec = sharedData(b, c.spec)
			}
			s := opened(b, c.spec, c.o)
			s.cache = nil
			dst := make([]byte, s.size())
			i := 0
			for b.Loop() {
				if _, err := s.Read(i%s.Len(), dst); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
