package main

import (
	"fmt"
	"time"

	"github.com/onestep-go/onestep/training"
)

// pace says once how long an epoch takes, when a few seconds have shown how fast training is.
type pace struct {
	images int // of the data; 0: unknown
	told   bool
}

// settled is the time after which the speed is that of the run: the first steps take memory and fill caches.
const settled = 5 * time.Second

// note returns keys and values for the log, nil if there is nothing to say now.
func (p *pace) note(at training.Progress) []any {
	if p.told || p.images == 0 || !(at.ImagesPerSecond > 0) || at.Elapsed < settled {
		return nil
	}
	p.told = true
	epoch := "less than 1s"
	const most = 9e9 // seconds that fit into a duration
	if seconds := float64(p.images) / at.ImagesPerSecond; seconds >= 1 {
		epoch = duration(time.Duration(min(seconds, most) * float64(time.Second)))
	}
	return []any{"images_per_second", fmt.Sprintf("%.4g", at.ImagesPerSecond), "epoch", epoch}
}
