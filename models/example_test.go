package models_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/torch"
)

// Wrap a network as a consistency function: at the smallest noise level it is the identity, whatever its weights.
func ExampleConsistency() {
	net, err := mlp.New(mlp.Config{}, torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	f := models.Consistency{Net: net} // σ from 0.002 on
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.FromSlice(s, []float32{0.5, -0.25}, 1, 2)
		t := torch.FromSlice(s, []float32{0.002})
		fmt.Println(f.Origin(s, x, t, models.Cond{}).Detach(s))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: tensor([[ 0.5000, -0.2500]], float32[1, 2])
}

// Add classifier-free guidance to the exact denoiser of two points: a guidance scale of 2 overshoots the class's own prediction.
func ExampleGuided() {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		exact := &models.Empirical{Data: torch.FromSlice(s, []float32{-1, 1}, 2, 1), Labels: torch.FromSlice(s, []int64{0, 1})}
		guided := &models.Guided{Model: exact, Null: models.Cond{Class: torch.FromSlice(s, []int64{-1})}, Scale: 2}
		x, sigma := torch.FromSlice(s, []float32{0}, 1, 1), torch.FromSlice(s, []float32{5})
		class := models.Cond{Class: torch.FromSlice(s, []int64{1})}
		fmt.Println(exact.Denoise(s, x, sigma, models.Cond{}).Item(), exact.Denoise(s, x, sigma, class).Item(), guided.Denoise(s, x, sigma, class).Item())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: 0 1 2
}
