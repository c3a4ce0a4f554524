package training

import (
	"context"
	"iter"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/dataset"
)

// Source yields a run's samples: images, or latents with text features. The sequence is endless and depends on the position alone,
// so that a run can be resumed at any step.
type Source interface {
	// Batches yields batches without end, starting with the sample at position start (from 0). Each yielded function makes a batch's
	// tensors on s's device; it is called before the next one is requested. An error, including the context's, ends the sequence.
	// When the loop ends, no background work continues.
	Batches(ctx context.Context, start int64) iter.Seq2[func(s *torch.Scope) Batch, error]
}

// SourceFunc is a source that computes its batches. It returns the batch whose first sample is at position start.
type SourceFunc func(s *torch.Scope, start int64) Batch

// Batches calls f for each batch.
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

// Images is a source of a data set's images, scaled to [-1, 1].
type Images struct {
	*dataset.Loader      // its Start is set by the trainer
	Labels          bool // use the images' labels as classes
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
