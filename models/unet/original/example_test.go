package original_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/models/unet/original"
)

// The names and shapes of the published network for ImageNet at 64×64 pixels in the file of openai/consistency_models.
func Example() {
	l, err := original.For(original.ConsistencyModels, unet.ADMImageNet64())
	if err != nil {
		log.Fatal(err)
	}
	shapes := l.Shapes()
	fmt.Println(len(shapes), "tensors")
	for _, t := range shapes {
		if t.Name == "middle_block.1.qkv.weight" {
			fmt.Println(t.Name, t.Dims)
		}
	}
	// Output:
	// 541 tensors
	// middle_block.1.qkv.weight [2304 768 1 1]
}
