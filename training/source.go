package training

import (
	"context"
	"iter"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/dataset"
)

// Source is where a run's samples come from: images, or latents with text features. Their order is endless and a function of the
// position alone, so that a run can be resumed anywhere.
type Source interface {
	// Batches yields batches without end, the first sample at that position (from 0). What is yielded makes a batch's tensors on
	// s's device; it is called before the next one is asked for. An error, the context's too, is the last thing that is yielded.
	// When the loop ends, however it does, nothing goes on in the background.
	Batches(ctx context.Context, start int64) iter.Seq2[func(s *torch.Scope) Batch, error]
}

// SourceFunc is a source that computes its batches: the one whose first sample is at that position.
type SourceFunc func(s *torch.Scope, start int64) Batch

// Batches calls f for batch after batch.
func (f SourceFunc) Batches(ctx context.Context, start int64) iter.Seq2[func(s *torch.Scope) Batch, error] {
	return func(yield func(func(s *torch.Scope) Batch, error) bool) {
		for at := start; ; {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			samples := 0
			batch := func(s *torch.Scope) Batch {
				b := f(s, at)
				samples = b.X.Dim(0)
				return b
			}
			if !yield(batch, nil) {
				return
			}
			at += int64(samples)
		}
	}
}

// Images is the source of a data set's images, scaled to [-1, 1].
type Images struct {
	*dataset.Loader      // its Start is set by the trainer
	Labels          bool // the batches' classes are the images' labels
}

// String names the data set.
func (m Images) String() string { return m.Dataset.Name() }

// Batches yields the loader's batches.
func (m Images) Batches(ctx context.Context, start int64) iter.Seq2[func(s *torch.Scope) Batch, error] {
	return func(yield func(func(s *torch.Scope) Batch, error) bool) {
		loader := *m.Loader
		loader.Start = start
		for pixels, err := range loader.Batches(ctx) {
			if !yield(func(s *torch.Scope) Batch { return m.batch(s, pixels) }, err) {
				return
			}
		}
	}
}

// batch moves decoded pixels to the device and scales them.
func (m Images) batch(s *torch.Scope, in dataset.Batch) Batch {
	c, h, w := m.Dataset.Shape()
	n := len(in.Labels)
	b := Batch{X: s.Tidy(func(s *torch.Scope) *torch.Tensor {
		return torch.FromSlice(s, in.Pixels, n, c, h, w).To(s, torch.Float32).DivScalar(s, 127.5).SubScalar(s, 1)
	})}
	if m.Labels {
		b.Cond = models.Cond{Class: torch.FromSlice(s, in.Labels, n)}
	}
	return b
}
