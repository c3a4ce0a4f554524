package search_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/sampling/search"
	"github.com/onestep-go/onestep/torch"
)

// Search the second noise level of two-step sampling from the built-in model. The metric here is a toy, how bright the images are; package
// evaluation has those that compare images with a data set.
func Example() {
	f, err := builtin.Open(torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	brightness := func(_ context.Context, samples search.Samples) (sum float64, err error) {
		err = samples(func(s *torch.Scope, _ int, x *torch.Tensor) error {
			sum += x.Sum(s).Item()
			return nil
		})
		return sum, err
	}
	got, err := search.Levels(context.Background(), f, search.Options{
		Steps: 2, N: 4, Shape: f.Shape(), Trials: 3, Metric: brightness,
		Cond: func(s *torch.Scope, first, n int) models.Cond {
			return models.Cond{Class: torch.Full(s, 2, torch.Int64, n)}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(got.Levels), len(got.Trials), got.Value <= got.Before.Value)
	// Output: 2 4 true
}
