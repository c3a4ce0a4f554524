package finetune

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/internal/weightsum"
)

// sumOf identifies the weights of a component.
func sumOf(ctx context.Context, c *weights.Component) (string, error) {
	sum := weightsum.New(weightsum.Recorded)
	sum.Config(c.Config)
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, name := range slices.Sorted(c.Names()) {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := s.Run(func(s *torch.Scope) error {
				return s.NoGrad(func(s *torch.Scope) error {
					t, err := c.Get(s, name)
					if err == nil {
						sum.Tensor(name, t)
					}
					return err
				})
			})
			c.Release(name)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return "sha256 " + sum.Hex()[:16], err
}

// sumOfFile identifies an adapter's file.
func sumOfFile(ctx context.Context, a sd.AdapterInfo) (string, error) {
	sum := sha256.New()
	if err := plainfile.CopyTo(ctx, sum, a.Tensors, nil); err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256 %.8x", sum.Sum(nil)), nil
}
