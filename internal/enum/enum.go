// Package enum names the values of enumerations in files and options.
package enum

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/suggest"
)

// Names are the names of an enumeration's values.
type Names[E ~int] struct {
	What  string   // name of the enumeration, for errors
	Words []string // of the values 0, 1, …
}

// Text returns the name of v, for encoding.TextMarshaler.
func (n Names[E]) Text(v E) ([]byte, error) {
	if int(v) < 0 || int(v) >= len(n.Words) {
		return nil, fmt.Errorf("%s: unknown value %d: want 0 to %d", n.What, v, len(n.Words)-1)
	}
	return []byte(n.Words[v]), nil
}

// Parse sets *into to the value with a name, for encoding.TextUnmarshaler.
func (n Names[E]) Parse(text []byte, into *E) error {
	i := slices.Index(n.Words, string(text))
	if i < 0 {
		return fmt.Errorf("%s: %s", n.What, suggest.OneOf(string(text), n.Words))
	}
	*into = E(i)
	return nil
}
