package training

import (
	"context"
	"iter"
	"maps"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Snapshotter is a [Module] whose snapshots need more than its parameters, such as an adapter with its scales.
type Snapshotter interface {
	// Snapshot returns the tensors and metadata of a snapshot. They are written before s closes.
	Snapshot(s *torch.Scope) (tensors iter.Seq2[string, *torch.Tensor], metadata map[string]string, err error)
}

// Snapshots writes snapshots in a form of its own, such as an adapter's file or a model's directory, in place of a [Trainer].
type Snapshots interface {
	// Path is that of the snapshot after a step.
	Path(step int) string
	// Write writes it, in place of one that is there. The trainer calls it before it saves the checkpoint of that step.
	Write(ctx context.Context, s *torch.Scope, step int, images int64) error
}

// saveSnapshot writes a module's snapshot with metadata.
func saveSnapshot(s *torch.Scope, path string, m Module, metadata map[string]string) error {
	own, ok := m.(Snapshotter)
	if !ok {
		return torch.SaveSafetensors(path, tensorsOf(m), torch.SaveOptions{Metadata: metadata, Overwrite: true})
	}
	return s.Run(func(s *torch.Scope) error {
		tensors, more, err := own.Snapshot(s)
		if err != nil {
			return err
		}
		all := maps.Clone(metadata)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, more)
		return torch.SaveSafetensors(path, tensors, torch.SaveOptions{Metadata: all, Overwrite: true})
	})
}

// trySnapshots checks before training that snapshots of all modules can be made, and returns the metadata of the model's own.
func (t *Trainer) trySnapshots(s *torch.Scope) (said map[string]string, err error) {
	modules := []Module{t.Model}
	for _, a := range t.Averages {
		modules = append(modules, a.Into)
	}
	for i, m := range modules {
		own, ok := m.(Snapshotter)
		if !ok {
			continue
		}
		err := s.Run(func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				_, metadata, err := own.Snapshot(s)
				if i == 0 {
					said = metadata
				}
				return err
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return said, nil
}

// differ returns a key whose value differs between the metadata of a checkpoint's model and the run's.
func differ(state, run map[string]string) string {
	for _, key := range slices.Sorted(maps.Keys(state)) {
		if state[key] != run[key] {
			return key
		}
	}
	return ""
}
