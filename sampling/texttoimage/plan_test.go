package texttoimage_test

import (
	"context"
	"image"
	"image/color"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// counted is an image that counts how often its pixels are read.
type counted struct {
	image.Image
	reads *atomic.Int64
}

func (c counted) At(x, y int) color.Color {
	c.reads.Add(1)
	return c.Image.At(x, y)
}

// started is a sampler that counts how often it is started.
type started struct {
	scheduler.Method
	times *atomic.Int64
}

func (m started) Start(c noise.Config, o scheduler.Options) (scheduler.Schedule, error) {
	m.times.Add(1)
	return m.Method.Start(c, o)
}

// A plan is what runs: input images are resized and the sampler is started when it is made, adapters are found once, and images of it are
// those of the pipeline, as often as they are drawn and by several goroutines at once.
func TestPlanRuns(t *testing.T) {
	m := openTiny(t, sd.Options{})
	var reads, starts, finds atomic.Int64
	picture := counted{image.NewNRGBA(image.Rect(0, 0, 100, 90)), &reads}
	mask := counted{image.NewGray(image.Rect(0, 0, 33, 20)), &reads}
	p := texttoimage.Pipeline{
		Model: m, Method: started{scheduler.UniPC{}, &starts}, Steps: 4, N: 3, Batch: 2, Seed: 5, Guidance: 3,
		Width: 64, Height: 64, Init: picture, Mask: mask, Strength: 0.8,
		Tagged: func([]prompt.LoRA) (sd.Adaptation, error) {
			finds.Add(1)
			return sd.Adaptation{}, nil
		},
	}
	prompts := []string{"a cat <lora:x:1>", "a dog"}
	plan, err := p.Plan(prompts...)
	require.NoError(t, err)
	require.Equal(t, int64(1), starts.Load())
	require.Equal(t, int64(1), finds.Load())
	once := reads.Load()
	require.Positive(t, once)
	draw := func() (all []image.Image) {
		for m, err := range plan.Images(context.Background()) {
			require.NoError(t, err)
			all = append(all, m)
		}
		return all
	}
	want := draw()
	require.Len(t, want, 6)
	var both sync.WaitGroup
	var got [2][]image.Image
	for i := range got {
		both.Go(func() { got[i] = draw() })
	}
	both.Wait()
	for _, all := range got {
		require.Len(t, all, 6)
		for i := range all {
			require.LessOrEqual(t, off(want[i], all[i]), 1)
		}
	}
	require.Equal(t, []int64{1, 1, once}, []int64{starts.Load(), finds.Load(), reads.Load()}, "nothing is decided again")

	for i, one := range images(t, p, prompts...) {
		require.LessOrEqual(t, off(want[i], one), 1)
	}
	require.Equal(t, []int64{2, 2, 2 * once}, []int64{starts.Load(), finds.Load(), reads.Load()}, "a pipeline plans once")
}

// What changes in a pipeline after it was planned does not change the plan.
func TestPlanKeeps(t *testing.T) {
	m := openTiny(t, sd.Options{})
	p := texttoimage.Pipeline{Model: m, Timesteps: []int{999, 499}, Seed: 3}
	plan, err := p.Plan("a cat")
	require.NoError(t, err)
	want := images(t, p, "a cat")[0]
	p.Timesteps[1] = 259
	p.Seed = 4
	for m, err := range plan.Images(context.Background()) {
		require.NoError(t, err)
		require.Zero(t, off(want, m))
	}
	require.NoError(t, m.Close())
	for _, err := range plan.Images(context.Background()) {
		require.ErrorContains(t, err, "closed")
	}
}
