package training

import (
	"math"
	"time"

	"github.com/onestep-go/onestep/torch"
)

// Progress is the progress of a run.
type Progress struct {
	Step, Steps     int
	Loss            float64 // of this step
	Skipped         int     // skipped steps, whose loss or gradients were NaN or infinite
	ImagesPerSecond float64 // over the last few seconds
	Elapsed         time.Duration
	Left            time.Duration // estimated time to the last step, or to the end of Duration
}

// bins are ranges of noise levels, by their upper ends.
var bins = []struct {
	below float64
	name  string
}{{0.1, "loss_below_0.1"}, {1, "loss_0.1_to_1"}, {10, "loss_1_to_10"}, {math.Inf(1), "loss_above_10"}}

// mean is a sum of numbers and their count.
type mean struct {
	sum float64
	n   int
}

// observe adds the losses of a step to the bins of their noise levels.
func (r *session) observe(levels []float64, each *torch.Tensor) {
	if r.bins == nil {
		r.bins = map[string]mean{}
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	for i, loss := range torch.ToSlice[float32](each.Detach(s).To(s, torch.Float32)) {
		for _, b := range bins {
			if levels[i] < b.below {
				m := r.bins[b.name]
				r.bins[b.name] = mean{m.sum + float64(loss), m.n + 1}
				break
			}
		}
	}
}

// left estimates the remaining time.
func (t *Trainer) left(k, batch int, r *rate, elapsed time.Duration) time.Duration {
	left := time.Duration(math.MaxInt64)
	if per := r.perSecond(); per > 0 {
		left = time.Duration(float64((t.Steps-k)*batch) / per * float64(time.Second))
	}
	if t.Duration > 0 {
		left = min(left, t.Duration-elapsed)
	}
	return max(left, 0)
}

// rate measures the speed over the last 10 seconds.
type rate struct {
	at     []time.Duration
	images []int
	sum    int
}

func newRate() *rate { return &rate{at: []time.Duration{0}, images: []int{0}} }

func (r *rate) add(at time.Duration, images int) {
	r.at, r.images, r.sum = append(r.at, at), append(r.images, images), r.sum+images
	for len(r.at) > 2 && at-r.at[1] > 10*time.Second {
		r.sum -= r.images[1]
		r.at, r.images = r.at[1:], r.images[1:]
	}
}

func (r *rate) perSecond() float64 {
	span := r.at[len(r.at)-1] - r.at[0]
	if span <= 0 {
		return 0
	}
	return float64(r.sum) / span.Seconds()
}
