package component_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/component"
)

// Find the weights of the variant fp16 in a component's directory, and read a tensor.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		return torch.SaveSafetensors(filepath.Join(dir, "diffusion_pytorch_model.fp16.safetensors"), func(yield func(string, *torch.Tensor) bool) {
			yield("conv_in.bias", torch.Ones(s, torch.Float16, 3))
		}, torch.SaveOptions{})
	})
	if err != nil {
		log.Fatal(err)
	}

	fmt.Println(component.Variants(dir))
	path, err := component.Find(dir, "fp16")
	if err != nil {
		log.Fatal(err)
	}
	f, err := component.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Println(f.Info("conv_in.bias"))
	// Output:
	// [fp16]
	// [3] float16 true
}
