package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training"
)

// How long an epoch takes is said once, when the speed has settled; the clock is the progress's own.
func TestPace(t *testing.T) {
	at := func(elapsed time.Duration, speed float64) training.Progress {
		return training.Progress{Elapsed: elapsed, ImagesPerSecond: speed}
	}
	p := pace{images: 50_000}
	require.Nil(t, p.note(at(settled-1, 100)), "the first steps are slow")
	require.Nil(t, p.note(at(settled, 0)), "nothing is known yet")
	require.Equal(t, []any{"images_per_second", "123.5", "epoch", "6m45s"}, p.note(at(settled, 123.456789)))
	require.Nil(t, p.note(at(time.Hour, 50)), "once")

	for _, c := range []struct {
		images int
		speed  float64
		want   string
	}{{10, 1000, "less than 1s"}, {1_281_167, 80, "4h26m"}, {60, 1, "1m00s"}, {1 << 24, 1e-3, "?"}} {
		p := pace{images: c.images}
		require.Equal(t, c.want, p.note(at(time.Minute, c.speed))[3], "%d at %g", c.images, c.speed)
	}
	require.Nil(t, (&pace{}).note(at(time.Minute, 100)), "no data, no epoch")
}
