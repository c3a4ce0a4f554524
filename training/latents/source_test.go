package latents

import (
	"context"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/captioned"
)

// tinyAuto is a tiny autoencoder with random weights.
func tinyAuto(t testing.TB) *vae.Tiny {
	t.Helper()
	a, err := vae.NewTiny(vae.TinyConfig{EncoderWidths: []int{8, 8, 8, 8}, DecoderWidths: []int{8, 8, 8, 8}}, torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	t.Cleanup(a.Close)
	return a
}

// A batch has what the model's own autoencoder and text encoders return for its images and captions, to the bit, with and without a cache.
func TestBatchesAreTheModels(t *testing.T) {
	dir := pictures(t, 5)
	for _, kind := range []string{"sd15", "sdxl", "tiny"} {
		for _, cached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,cached=%t", kind, cached), func(t *testing.T) {
				set := open(t, dir, captioned.Options{Settings: captioned.Settings{Flip: true, Dropout: 0.3}})
				name := kind
				if kind == "tiny" {
					name = "sd15"
				}
				m := model(t, name, sd.Options{})
				if kind == "tiny" {
					m.VAE.Close()
					m.VAE = tinyAuto(t)
				}
				c := Config{Set: set, Model: m, Batch: 3, Seed: 7, ClipSkip: 1}
				if cached {
					c.Cache = t.TempDir()
				}
				src := source(t, c)
				require.Equal(t, cached, src.Complete())
				const batches = 4
				got := values(t, src, 0, batches)
				var flips, dropped, k int
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					return s.NoGrad(func(s *torch.Scope) error {
						null := src.Null(s)
						for items := range set.Order(captioned.OrderOptions{Seed: 7, Batch: 3}).From(0) {
							var want numbers
							for _, it := range items {
								img, err := set.Read(it)
								require.NoError(t, err)
								x, err := vision.FromImages(s, 3, []image.Image{img}...)
								require.NoError(t, err)
								z := m.VAE.Encode(s, x, []*torch.Generator{torch.NewGenerator(s, src.drawSeed(it.Position))})
								want.x = append(want.x, torch.ToSlice[float32](z.Contiguous(s))...)
								text, pooled := null.Text, null.Pooled
								if it.Caption != "" {
									e := m.Embed(s, nil, sd.Text{Prompt: it.Caption, Plain: true, ClipSkip: 1})[0]
									text, pooled = e.Text, e.Pooled
								} else {
									dropped++
								}
								want.text = append(want.text, torch.ToSlice[float32](text)...)
								if kind == "sdxl" {
									want.pooled = append(want.pooled, torch.ToSlice[float32](pooled)...)
									im := set.Images()[it.Image]
									left := it.Crop.Min.X
									if it.Flip {
										flips++
										left = it.Scaled.X - it.Crop.Max.X
									}
									want.sizes = append(want.sizes, 32, float32(im.Width), 0, float32(left), 32, 32)
								}
							}
							want.shape = []int{3, 4, 4, 4}
							require.Equal(t, want, got[k])
							if k++; k == batches {
								break
							}
						}
						empty := m.Embed(s, nil, sd.Text{Plain: true, ClipSkip: 1})[0]
						require.Equal(t, []int{1, 77, m.UNet.Config().CrossAttentionDim[0]}, null.Text.Shape())
						if kind == "sdxl" {
							require.Zero(t, null.Text.Abs(s).Max(s).Item())
							require.Zero(t, null.Pooled.Abs(s).Max(s).Item())
							require.NotZero(t, empty.Text.Abs(s).Max(s).Item())
						} else {
							require.Equal(t, empty.Text.Bytes(), null.Text.Bytes())
							require.Nil(t, null.Pooled)
						}
						return nil
					})
				}))
				require.NotZero(t, dropped)
				require.Equal(t, kind == "sdxl", flips > 0)
			})
		}
	}
}

// A source begins at any position with what it has there, at any batch size the same sample has the same latents, and another draw of an
// image differs.
func TestPositions(t *testing.T) {
	set := open(t, pictures(t, 4), captioned.Options{Settings: captioned.Settings{Flip: true, RandomCrop: true}})
	m := model(t, "sd15", sd.Options{Without: sd.Components{UNet: true}})
	src := source(t, Config{Set: set, Model: m, Batch: 4, Seed: 1, Cache: t.TempDir()})
	require.False(t, src.Complete(), "random crops")
	all := values(t, src, 0, 6)
	require.Equal(t, all[2:], values(t, src, 8, 4))
	each := len(all[0].x) / 4
	part := values(t, src, 6, 2) // within a batch
	require.Equal(t, all[1].x[2*each:], part[0].x)
	require.Equal(t, all[2], part[1])
	for _, group := range []int{1, 4} { // of images encoded together: the same but for rounding
		again := source(t, Config{Set: set, Model: m, Batch: 4, Seed: 1, Together: group})
		for i, b := range values(t, again, 0, 6) {
			require.InDeltaSlice(t, all[i].x, b.x, 1e-5)
		}
	}
	one := open(t, pictures(t, 1), captioned.Options{})
	fixed := source(t, Config{Set: one, Model: m, Seed: 1, Cache: t.TempDir()})
	draws := values(t, fixed, 0, 4)
	require.NotEqual(t, draws[0].x, draws[1].x)
	wide := values(t, source(t, Config{Set: one, Model: m, Seed: 1, Batch: 4}), 0, 1)
	for i, d := range draws {
		require.Equal(t, d.x, wide[0].x[i*len(d.x):(i+1)*len(d.x)])
	}
	other := values(t, source(t, Config{Set: one, Model: m, Seed: 2}), 0, 1)
	require.NotEqual(t, draws[0].x, other[0].x)
}

// Batches of buckets have their sizes, and regularisation images their weight.
func TestBuckets(t *testing.T) {
	dir, prior := t.TempDir(), t.TempDir()
	for i := range 8 {
		w, h := 64, 32
		if i%2 == 1 {
			w, h = 32, 64
		}
		to := dir
		if i >= 4 {
			to = prior
		}
		paint(t, filepath.Join(to, fmt.Sprint(i, ".png")), w, h, i)
	}
	set := open(t, dir, captioned.Options{Resolution: 48, Uncaptioned: true, Prior: prior, PriorWeight: 0.5,
		Buckets: captioned.Buckets{Enable: true, Min: 16, Max: 64, Step: 16}})
	src := source(t, Config{Set: set, Model: model(t, "sd15", sd.Options{}), Batch: 2, Cache: t.TempDir()})
	shapes, weights := map[string]bool{}, map[float32]bool{}
	for _, b := range values(t, src, 0, 8) {
		shapes[fmt.Sprint(b.shape)] = true
		for _, w := range b.weight {
			weights[w] = true
		}
	}
	require.Equal(t, map[string]bool{"[2 4 4 8]": true, "[2 4 8 4]": true}, shapes)
	require.Equal(t, map[float32]bool{0.5: true, 1: true}, weights)
}

// When a loop ends, in whatever way, nothing goes on in the background.
func TestBatchesEnd(t *testing.T) {
	set := open(t, pictures(t, 3), captioned.Options{})
	src := source(t, Config{Set: set, Model: model(t, "sd15", sd.Options{}), Batch: 2, Cache: t.TempDir()})
	before := runtime.NumGoroutine()
	for _, err := range src.Batches(t.Context(), 0) {
		require.NoError(t, err)
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	var last error
	for _, err := range src.Batches(ctx, 0) {
		if last = err; err != nil {
			break
		}
		if n++; n == 3 {
			cancel()
		}
	}
	require.ErrorIs(t, last, context.Canceled)
	for _, err := range src.Batches(t.Context(), -1) {
		require.ErrorContains(t, err, "-1")
	}
	for i := 0; runtime.NumGoroutine() > before && i < 1000; i++ {
		time.Sleep(time.Millisecond) // they are ending
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
}

// Without captions a lone autoencoder is enough.
func TestUnconditional(t *testing.T) {
	set := open(t, pictures(t, 3), captioned.Options{})
	src := source(t, Config{Set: set, Model: &sd.Model{VAE: tinyAuto(t)}, Batch: 2, Unconditional: true, Cache: t.TempDir()})
	require.True(t, src.Complete())
	b := values(t, src, 0, 1)[0]
	require.Equal(t, []int{2, 4, 4, 4}, b.shape)
	require.Nil(t, b.text)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.Equal(t, models.Cond{}, src.Null(s))
		return nil
	}))
}

// What is not cached, and what is truncated, is said.
func TestNotices(t *testing.T) {
	dir := pictures(t, 3)
	long := "word"
	for range 100 {
		long += " word"
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "01.txt"), []byte(long), 0o644))
	m := model(t, "sd15", sd.Options{})
	src := source(t, Config{Set: open(t, dir, captioned.Options{}), Model: m, Cache: t.TempDir()})
	require.Len(t, src.Notices(), 1)
	require.Regexp(t, `1 caption .*\b75\b.*01\.png`, src.Notices()[0])
	src = source(t, Config{Set: open(t, dir, captioned.Options{Settings: captioned.Settings{RandomCrop: true, Shuffle: true}}), Model: m, Cache: t.TempDir()})
	require.False(t, src.Complete())
	require.Len(t, values(t, src, 0, 2)[0].text, 77*16)
	require.Len(t, src.Notices(), 3)
	require.Contains(t, src.Notices()[0], "01.png")
	require.Contains(t, src.Notices()[1], "3 of 3 images")
	require.Contains(t, src.Notices()[2], "3 of 3 images")
	src = source(t, Config{Set: open(t, dir, captioned.Options{}), Model: m, Captions: true})
	require.Len(t, src.Notices(), 1)
	require.NoError(t, src.Close())
	for _, err := range src.Batches(t.Context(), 0) {
		require.ErrorIs(t, err, torch.ErrFreed)
	}
}

// A source says what it is made of, so that a resumed run notices another.
func TestString(t *testing.T) {
	dir := pictures(t, 2)
	m := model(t, "sd15", sd.Options{})
	all := map[string]bool{}
	for _, c := range []Config{{Model: m}, {Model: m, ClipSkip: 1}, {Model: &sd.Model{VAE: tinyAuto(t), Texts: m.Texts}}, {Model: m, Unconditional: true},
		{Model: m, Set: open(t, dir, captioned.Options{Resolution: 40})}} {
		if c.Set == nil {
			c.Set = open(t, dir, captioned.Options{})
		}
		src := source(t, c)
		require.Contains(t, src.String(), c.Set.Identity())
		require.Contains(t, src.String(), src.Encoders())
		all[src.String()] = true
	}
	require.Len(t, all, 5)

	// With text encoders that are trained, it does not change with their weights.
	c := Config{Model: m, Set: open(t, dir, captioned.Options{}), Captions: true}
	before := source(t, c).String()
	for _, p := range m.Texts[0].Parameters() {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error { p.AddScalarInPlace(s, 1); return nil })
		}))
	}
	require.Equal(t, before, source(t, c).String())
}

// In half precision latents are drawn in float32 and text features keep the model's type; both are near those of float32.
func TestHalfPrecision(t *testing.T) {
	set := open(t, pictures(t, 3), captioned.Options{Settings: captioned.Settings{Dropout: 0.3}})
	want := values(t, source(t, Config{Set: set, Model: model(t, "sdxl", sd.Options{}), Batch: 3}), 0, 2)
	for _, d := range []torch.DType{torch.BFloat16, torch.Float16} {
		src := source(t, Config{Set: set, Model: model(t, "sdxl", sd.Options{DType: d}), Batch: 3, Cache: t.TempDir()})
		for i, got := range values(t, src, 0, 2) {
			require.InDeltaSlice(t, want[i].x, got.x, 0.05)
			require.InDeltaSlice(t, want[i].text, got.text, 0.15) // bfloat16 has 8 bits, and values up to 5
			require.Equal(t, want[i].sizes, got.sizes)
		}
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			for batch, err := range src.Batches(t.Context(), 0) {
				require.NoError(t, err)
				b := batch(s)
				require.Equal(t, []torch.DType{torch.Float32, d, d, torch.Float32}, []torch.DType{b.X.DType(), b.Cond.Text.DType(), b.Cond.Pooled.DType(), b.Cond.Sizes.DType()})
				require.Equal(t, d, src.Null(s).Text.DType())
				break
			}
			return nil
		}))
	}
}

// Features are in files, not in memory: reading them over and over leaves no more than a few batches.
func TestMemory(t *testing.T) {
	a, err := vae.NewTiny(vae.TinyConfig{LatentChannels: 64, EncoderWidths: []int{4, 4}, DecoderWidths: []int{4, 4}, EncoderBlocks: []int{1, 1}, DecoderBlocks: []int{1, 1}},
		torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer a.Close()
	const n = 40
	src := source(t, Config{Set: open(t, pictures(t, n), captioned.Options{Resolution: 64}), Model: &sd.Model{VAE: a}, Unconditional: true, Cache: t.TempDir()})
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := held()
	seen := 0
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		for batch, err := range src.Batches(t.Context(), 0) {
			require.NoError(t, err)
			require.NoError(t, s.Run(func(s *torch.Scope) error { require.Equal(t, 64*32*32, batch(s).X.NumEl()); return nil }))
			if seen++; seen == 2*n {
				require.Less(t, held(), before+n*64*32*32*4/2, "half of all features")
				break
			}
		}
		return nil
	}))
}
