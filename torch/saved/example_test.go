package saved_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/saved"
)

// The tensors of a checkpoint that PyTorch wrote.
func Example() {
	f, err := saved.Open("testdata/tiny.ckpt")
	if err != nil {
		log.Fatal(err)
	}
	shape, dtype, _ := f.Info("turned")
	fmt.Println(shape, dtype)
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		t, err := f.Get(s, "part")
		if err != nil {
			return err
		}
		fmt.Println(torch.ToSlice[float32](t)[:3])
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// [6 4] float32
	// [0.625 0.75 0.875]
}
