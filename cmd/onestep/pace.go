package main

import (
	"fmt"
	"time"

	"github.com/onestep-go/onestep/training"
)

// pace logs once how long an epoch takes, after the first seconds have shown the speed of training.
type pace struct {
	images int // in the data set; 0: unknown
	told   bool
}

// settled is the time after which the speed is representative: the first steps allocate memory and fill caches.
const settled = 5 * time.Second

// note returns keys and values for the log; nil if there is nothing to log.
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
