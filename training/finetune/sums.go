package finetune

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

// sumOf identifies the weights of a component.
func sumOf(ctx context.Context, c *weights.Component) (string, error) {
	sum := sha256.New()
	sum.Write(c.Config)
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		for _, name := range slices.Sorted(c.Names()) {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := s.Run(func(s *torch.Scope) error {
				return s.NoGrad(func(s *torch.Scope) error {
					t, err := c.Get(s, name)
					if err == nil {
						fmt.Fprintf(sum, "%q %v ", name, t.Shape()) //quote: a sum is made of it
						sum.Write(t.Bytes())
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
	return fmt.Sprintf("sha256 %.8x", sum.Sum(nil)), err
}

// sumOfFile identifies an adapter's file. It reads no more than the file had when it was inspected.
func sumOfFile(ctx context.Context, a sd.AdapterInfo) (string, error) {
	f, err := os.Open(a.Tensors)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum, left := sha256.New(), io.LimitReader(f, a.Size)
	for err == nil {
		if err = ctx.Err(); err == nil {
			_, err = io.CopyN(sum, left, 1<<20)
		}
	}
	if !errors.Is(err, io.EOF) {
		return "", err
	}
	return fmt.Sprintf("sha256 %.8x", sum.Sum(nil)), nil
}
