package torch_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// noLeak fails the test when it leaves tensors behind.
func noLeak(t *testing.T) {
	before := torch.Live()
	t.Cleanup(func() { assert.Equal(t, before, torch.Live(), "live tensors") })
}

func each(names []string, ts []*torch.Tensor) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for i, name := range names {
			if !yield(name, ts[i]) {
				return
			}
		}
	}
}

// requireSame checks that tensors have the same type, shape and bits.
func requireSame(t *testing.T, want, got *torch.Tensor) {
	t.Helper()
	require.Equal(t, want.DType(), got.DType())
	require.Equal(t, want.Shape(), got.Shape())
	require.Equal(t, want.Bytes(), got.Bytes())
}

// everyType makes one tensor of each type, a scalar, an empty one, and one that is not contiguous.
func everyType(s *torch.Scope) ([]string, []*torch.Tensor) {
	x := torch.FromSlice(s, []float32{0, 1.5, -2, 1e-3, 65504, 7}, 2, 3)
	names := []string{"scalar", "empty", "transposed", "bool"}
	ts := []*torch.Tensor{
		torch.Scalar(s, int64(-5)), torch.Zeros(s, torch.BFloat16, 0, 3), x.Transpose(s, 0, 1),
		torch.FromSlice(s, []bool{true, false, true}),
	}
	for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.Float16, torch.BFloat16, torch.Int64, torch.Int32, torch.Uint8} {
		names = append(names, d.String())
		ts = append(ts, x.Abs(s).Clamp(s, 0, 200).To(s, d))
	}
	return names, ts
}

// Python's golden file gives the values it was made of.
func TestWeightsGolden(t *testing.T) {
	noLeak(t)
	w, err := torch.OpenWeights("safetensors/testdata/types.safetensors")
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		get := func(name string) *torch.Tensor {
			x, err := w.Get(s, name)
			require.NoError(t, err)
			return x
		}
		assert.Equal(t, []float64{1.5, -2.25, 3e300, 0, 0, math.Inf(1)}, torch.ToSlice[float64](get("z.f64")))
		assert.Equal(t, []float32{0.25}, torch.ToSlice[float32](get("b.f32")))
		assert.Equal(t, []float32{1, 65504, -5.9604645e-8}, torch.ToSlice[float32](get("x.f16").To(s, torch.Float32)))
		assert.Equal(t, []float32{1, math.Float32frombits(0xff62_0000), math.Float32frombits(0x3a83_0000)}, torch.ToSlice[float32](get("w.bf16").To(s, torch.Float32)))
		assert.Equal(t, []int64{math.MinInt64, math.MaxInt64}, torch.ToSlice[int64](get("d.i64")))
		assert.Equal(t, []int32{math.MinInt32, math.MaxInt32}, torch.ToSlice[int32](get("c.i32")))
		assert.Equal(t, []int{2, 1}, get("c.i32").Shape())
		assert.Equal(t, []uint8{0, 1, 255}, torch.ToSlice[uint8](get("a.u8")))
		assert.Equal(t, []bool{true, false, true, true, false}, torch.ToSlice[bool](get("a.bool")))
		assert.Equal(t, 42.0, get("scalar.f32").Item())
		assert.Empty(t, get("scalar.f32").Shape())
		assert.Equal(t, []int{2, 0, 4}, get("empty.i64").Shape())
		_, err := w.Get(s, "absent")
		assert.ErrorContains(t, err, `types.safetensors: there is no tensor "absent"`)
		return nil
	}))
}

func TestSaveAndOpen(t *testing.T) {
	noLeak(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a.safetensors")
	metadata := map[string]string{"format": "pt"}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		names, ts := everyType(s)
		require.NoError(t, torch.SaveSafetensors(path, each(names, ts), torch.SaveOptions{Metadata: metadata}))
		require.ErrorIs(t, torch.SaveSafetensors(path, each(names, ts), torch.SaveOptions{Metadata: metadata}), fs.ErrExist)
		require.NoError(t, torch.SaveSafetensors(path, each(names, ts), torch.SaveOptions{Metadata: metadata, Overwrite: true}))
		index, err := torch.SaveSharded(filepath.Join(dir, "set.safetensors"), each(names, ts), 40, torch.SaveOptions{Metadata: metadata})
		require.NoError(t, err)

		for _, path := range []string{path, index} {
			w, err := torch.OpenWeights(path)
			require.NoError(t, err)
			assert.Equal(t, metadata, w.File().Metadata())
			assert.Equal(t, len(names), w.File().Len())
			for i, name := range names {
				got, err := w.Get(s, name)
				require.NoError(t, err)
				requireSame(t, ts[i], got)
			}
			seen := 0
			for name, got := range w.All(s) {
				requireSame(t, ts[slices.Index(names, name)], got)
				seen++
			}
			assert.Equal(t, len(names), seen)
			for range w.All(s) {
				break
			}
			require.ErrorIs(t, w.Close(), torch.ErrInUse)
			t.Cleanup(func() { assert.NoError(t, w.Close()) })
		}

		// The same from memory.
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		f, err := safetensors.Parse("memory", b)
		require.NoError(t, err)
		all, err := torch.FromFile(s, f)
		require.NoError(t, err)
		copies := map[string]*torch.Tensor{}
		for name, got := range all {
			copies[name] = got
		}
		clear(b) // what a copy was made of may change
		for i, name := range names {
			requireSame(t, ts[i], copies[name])
		}
		return nil
	}))
}

// A file cannot be unmapped under its tensors, whatever still holds them: a view of a view, or autograd.
func TestWeightsClose(t *testing.T) {
	noLeak(t)
	path := filepath.Join(t.TempDir(), "a.safetensors")
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	require.NoError(t, torch.SaveSafetensors(path, each([]string{"a"}, []*torch.Tensor{torch.FromSlice(s, []float32{1, 2, 3, 4}, 2, 2)}), torch.SaveOptions{}))
	open := func() (*torch.Weights, *torch.Tensor) {
		w, err := torch.OpenWeights(path)
		require.NoError(t, err)
		a, err := w.Get(s, "a")
		require.NoError(t, err)
		return w, a
	}

	w, a := open()
	row := a.Select(s, 0, 1)
	a.Free()
	err := w.Close()
	require.ErrorIs(t, err, torch.ErrInUse)
	require.ErrorContains(t, err, "a.safetensors: 1 tensor: still in use")
	assert.Equal(t, []float32{3, 4}, torch.ToSlice[float32](row))
	row.Free()
	require.NoError(t, w.Close())
	require.NoError(t, w.Close())
	_, err = w.Get(s, "a")
	require.ErrorIs(t, err, torch.ErrFreed)
	require.ErrorContains(t, err, "a.safetensors was closed")

	w, a = open()
	x := torch.FromSlice(s, []float32{1, 1}, 1, 2)
	x.SetRequiresGrad(true)
	y := x.MatMul(s, a).Sum(s) // saves a for backward
	a.Free()
	require.ErrorIs(t, w.Close(), torch.ErrInUse)
	y.Backward()
	assert.Equal(t, []float32{3, 7}, torch.ToSlice[float32](x.Grad(s)))
	y.Free()
	require.NoError(t, w.Close())

	// An iteration that begins or goes on after Close fails instead of touching the map.
	w, a = open()
	a.Free()
	all := w.All(s)
	err = torch.Catch(func() {
		for _, a := range all {
			a.Free()
			require.NoError(t, w.Close())
		}
	})
	require.NoError(t, err, "there was only one tensor")
	require.ErrorIs(t, torch.Catch(func() {
		for range all {
			t.Error("a closed file has a tensor")
		}
	}), torch.ErrFreed)
}

// Changing a view in place changes this view and the views beside it, but never the file.
func TestWeightsInPlace(t *testing.T) {
	noLeak(t)
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.NoError(t, torch.SaveSafetensors(path, each([]string{"a"}, []*torch.Tensor{torch.Ones(s, torch.Float32, 3)}), torch.SaveOptions{}))
		before, err := os.ReadFile(path)
		require.NoError(t, err)
		w, err := torch.OpenWeights(path)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, w.Close()) })
		a, err := w.Get(s, "a")
		require.NoError(t, err)
		b, err := w.Get(s, "a")
		require.NoError(t, err)
		a.ZeroInPlace(s)
		assert.Equal(t, []float32{0, 0, 0}, torch.ToSlice[float32](b))
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, before, after)

		// The file may be replaced under its own views.
		require.NoError(t, torch.SaveSafetensors(path, each([]string{"a"}, []*torch.Tensor{a}), torch.SaveOptions{Overwrite: true}))
		assert.Equal(t, []float32{0, 0, 0}, torch.ToSlice[float32](b))
		return nil
	}))
}

// handmade writes a file with this header, whose data begin unaligned unless it has a length that is a multiple of 8.
func handmade(t *testing.T, header string, data ...byte) string {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	require.NoError(t, os.WriteFile(path, append(b, data...), 0o644))
	return path
}

func TestWeightsUnaligned(t *testing.T) {
	noLeak(t)
	header := `{"a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`
	for pad := range 8 {
		w, err := torch.OpenWeights(handmade(t, header+strings.Repeat(" ", pad), 7, 0, 0, 128, 63, 0, 0, 0, 64))
		require.NoError(t, err)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			a, err := w.Get(s, "a")
			require.NoError(t, err)
			assert.Equal(t, []float32{1, 2}, torch.ToSlice[float32](a))
			b, err := w.Get(s, "b")
			require.NoError(t, err)
			assert.Equal(t, []uint8{7}, torch.ToSlice[uint8](b))
			return nil
		}))
		require.NoError(t, w.Close())
	}
}

func TestWeightsRefuses(t *testing.T) {
	noLeak(t)
	_, err := torch.OpenWeights(filepath.Join(t.TempDir(), "absent.safetensors"))
	require.ErrorIs(t, err, fs.ErrNotExist)

	path := handmade(t, `{"a":{"dtype":"I16","shape":[1],"data_offsets":[0,2]}}`, 0, 0)
	_, err = torch.OpenWeights(path)
	require.ErrorContains(t, err, path+`: tensor "a" has elements of type I16: want one of [F32 F64 `)

	path = handmade(t, `{"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}`, 0, 1, 2)
	_, err = torch.OpenWeights(path)
	var e *safetensors.FormatError
	require.ErrorAs(t, err, &e)
	require.ErrorContains(t, err, path+`: not a valid safetensors file: tensor "a" of type BOOL holds the byte 2`)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	f, err := safetensors.Parse("memory", b)
	require.NoError(t, err)
	_, err = torch.FromFile(nil, f)
	require.ErrorAs(t, err, &e)
}

func TestSaveRefuses(t *testing.T) {
	noLeak(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a.safetensors")
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		a, b := torch.Ones(s, torch.Float32, 3), torch.Ones(s, torch.Float32, 3)
		err := torch.SaveSafetensors(path, each([]string{"a", "a"}, []*torch.Tensor{a, b}), torch.SaveOptions{})
		require.ErrorContains(t, err, `tensor "a" occurs twice`)
		b.Free()
		err = torch.SaveSafetensors(path, each([]string{"a", "b"}, []*torch.Tensor{a, b}), torch.SaveOptions{})
		require.ErrorIs(t, err, torch.ErrFreed)
		require.ErrorContains(t, err, path)

		// A tensor that is freed before its turn, as when the sequence frees what it has yielded.
		freeing := func(yield func(string, *torch.Tensor) bool) {
			yield("a", a)
			a.Free()
		}
		err = torch.SaveSafetensors(path, freeing, torch.SaveOptions{})
		require.ErrorIs(t, err, torch.ErrFreed)
		require.ErrorContains(t, err, `tensor "a"`)
		return nil
	}))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// Goroutines share one file.
func TestWeightsConcurrent(t *testing.T) {
	noLeak(t)
	path := filepath.Join(t.TempDir(), "a.safetensors")
	const n = 32
	var names []string
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var ts []*torch.Tensor
		for i := range n {
			names = append(names, fmt.Sprint(i))
			ts = append(ts, torch.Full(s, float64(i), torch.Float32, 100))
		}
		return torch.SaveSafetensors(path, each(names, ts), torch.SaveOptions{})
	}))
	w, err := torch.OpenWeights(path)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			assert.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				for k := range 50 {
					i := (g + k) % n
					x, err := w.Get(s, names[i])
					if err != nil {
						return err
					}
					if got := x.Sum(s).Item(); got != float64(100*i) {
						return fmt.Errorf("tensor %d: sum %g", i, got)
					}
				}
				return nil
			}))
		})
	}
	wg.Wait()
	require.NoError(t, w.Close())
}

func TestWeightsCUDA(t *testing.T) {
	if err := torch.CUDA(0).Available(); err != nil {
		t.Skip(err)
	}
	noLeak(t)
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, torch.Run(torch.CUDA(0), func(s *torch.Scope) error {
		names, ts := everyType(s)
		require.NoError(t, torch.SaveSafetensors(path, each(names, ts), torch.SaveOptions{}))
		w, err := torch.OpenWeights(path)
		require.NoError(t, err)
		for name, got := range w.All(s) {
			assert.Equal(t, torch.CUDA(0), got.Device())
			requireSame(t, ts[slices.Index(names, name)], got)
		}
		require.NoError(t, w.Close(), "copies on the GPU do not hold the file")
		return nil
	}))
}

// resident returns what /proc says of this process's memory, in bytes: all of it, and the part that no file backs.
func resident(t *testing.T) (all, anonymous int) {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "VmRSS:":
			all = kb << 10
		case "RssAnon:":
			anonymous = kb << 10
		}
	}
	if anonymous == 0 {
		t.Skip("/proc/self/status has no RssAnon")
	}
	return all, anonymous
}

// Using a file of 200 MB costs 200 MB, all of it the file's own pages, and writing it costs one tensor's copy.
func TestWeightsMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 200 MB")
	}
	noLeak(t)
	const count, size, MB = 10, 20_000_000, 1_000_000
	path := filepath.Join(t.TempDir(), "large.safetensors")
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var names []string
		for i := range count {
			names = append(names, fmt.Sprint(i))
		}
		one := torch.Ones(s, torch.Float32, size/4)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		require.NoError(t, torch.SaveSafetensors(path, each(names, slices.Repeat([]*torch.Tensor{one}, count)), torch.SaveOptions{}))
		runtime.ReadMemStats(&after)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(size+size/10), "writing")
		one.Free()

		all0, anon0 := resident(t)
		w, err := torch.OpenWeights(path)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, w.Close()) })
		sum := 0.0
		for _, x := range w.All(s) {
			sum += x.Sum(s).Item()
		}
		assert.Equal(t, float64(count*size/4), sum)
		all1, anon1 := resident(t)
		t.Logf("file %d MB: resident +%d MB, of which +%d MB are not the file's", count*size/MB, (all1-all0)/MB, (anon1-anon0)/MB)
		assert.Greater(t, all1-all0, count*size*9/10, "the file was read")
		assert.Less(t, all1-all0, count*size*12/10)
		assert.Less(t, anon1-anon0, size)
		return nil
	}))
}
