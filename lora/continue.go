package lora

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

// Continue reads an adapter's file to train it further: its weights are in float32 and require gradients, and neither they nor the networks'
// weights are packed from then on; see [New]. Modules without a layer in the model, and other kinds than LoRA, are an error.
func Continue(m *sd.Model, path string) (*Adapter, error) {
	f32 := torch.Float32
	a, err := Load(m, path, Options{DType: &f32})
	if err != nil {
		return nil, err
	}
	if err := a.file.trainable(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.store.SetRequiresGrad(true)
	a.store.Unpack()
	for _, st := range Of(m) {
		st.Unpack()
	}
	return a, nil
}

// trainable returns an error for modules that are not a plain LoRA.
func (f *File) trainable() error {
	for _, m := range f.Modules {
		if m.Kind != LowRank || m.DoRA || m.shapes[diffBias] != nil {
			return fmt.Errorf("%s: only LoRA can be trained, and %s is not a plain one", quote.Path(f.Path), quote.Text(m.Name))
		}
	}
	return nil
}

// Continue implements the interface of package training/finetune: see the function [Continue].
func (Adapters) Continue(m *sd.Model, path string) (sd.Adapter, error) {
	a, err := Continue(m, path)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Inspect describes an adapter's file for a model whose weights are not read. It returns the errors of [Continue].
func (Adapters) Inspect(m *weights.Model, path string) (info sd.AdapterInfo, err error) {
	f, err := Open(path)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	match, err := f.MatchFiles(m)
	if err == nil {
		err = match.Err(false)
	}
	if err != nil {
		return info, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if err := f.trainable(); err != nil {
		return info, err
	}
	info.Modules = len(match.pairs)
	for _, p := range match.pairs {
		info.Text = info.Text || p.spot.part != unetPart
		for _, r := range []role{down, up} {
			info.Parameters += int64(product(p.shapes[r]))
		}
	}
	info.Tensors, info.OriginalSteps, info.Run = f.Tensors, f.OriginalSteps(), f.Run()
	if err := f.finite(match.pairs); err != nil {
		return info, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	if err := f.weigh(match.pairs, &info); err != nil {
		return info, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	return info, nil
}

// weigh reads the factors of low-rank modules, to tell whether they have an effect.
func (f *File) weigh(pairs []pair, info *sd.AdapterInfo) error {
	pairs = slices.SortedFunc(slices.Values(pairs), func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.spot.part, b.spot.part), cmp.Compare(a.spot.path, b.spot.path))
	})
	sum := sha256.New()
	info.Idle, info.Stuck = true, true
	for _, p := range pairs {
		fmt.Fprintf(sum, "%s %s\n", p.spot.part, p.spot.path) //quote: a sum is made of it
		set := map[role]bool{}
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				for _, r := range []role{down, up} {
					t, err := f.src.Get(s, p.tensors[r])
					if err != nil {
						return err
					}
					t = t.To(s, torch.Float32)
					set[r] = p.Scale != 0 && t.Abs(s).Max(s).Item() != 0
					_, _ = sum.Write(t.Bytes()) // never fails
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		info.Idle = info.Idle && !(set[down] && set[up] && p.spot.part == unetPart)
		info.Stuck = info.Stuck && !set[down] && !set[up]
	}
	info.Sum = hex.EncodeToString(sum.Sum(nil))
	return nil
}
