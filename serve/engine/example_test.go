package engine_test

import (
	"fmt"

	"github.com/onestep-go/onestep/serve/engine"
)

func Example() {
	err := error(&engine.RequestError{Field: "Steps", Msg: "want 1 to 50, got 100"})
	fmt.Println(err)
	// Output: Steps: want 1 to 50, got 100
}
