package builtin_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/torch"
)

// Open the model and read its description.
func ExampleOpen() {
	m, err := builtin.Open(torch.CPU)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	fmt.Println(m.Description.Kind, m.Description.Method, m.Shape())
	// Output: consistency ict [3 32 32]
}
