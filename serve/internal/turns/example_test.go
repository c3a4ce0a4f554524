package turns_test

import (
	"fmt"

	"github.com/onestep-go/onestep/serve/internal/turns"
)

// A client with many requests does not hold up another with one.
func Example() {
	var q turns.Lines[string]
	q.Push("a", "a1")
	q.Push("a", "a2")
	q.Push("b", "b1")
	for next := range q.Order() {
		fmt.Println(next)
	}
	// Output:
	// a1
	// b1
	// a2
}
