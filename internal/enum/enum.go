// Package enum has the words for the values of enumerations, in files and options.
package enum

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/suggest"
)

// Names are the words for the values of an enumeration.
type Names[E ~int] struct {
	What  string   // what the values are, for errors
	Words []string // of 0, 1, …
}

// Text returns the word for v, as encoding.TextMarshaler wants it.
func (n Names[E]) Text(v E) ([]byte, error) {
	if int(v) < 0 || int(v) >= len(n.Words) {
		return nil, fmt.Errorf("%s: there is no value %d: want 0 to %d", n.What, v, len(n.Words)-1)
	}
	return []byte(n.Words[v]), nil
}

// Parse sets *into to the value of a word, as encoding.TextUnmarshaler wants it.
func (n Names[E]) Parse(text []byte, into *E) error {
	i := slices.Index(n.Words, string(text))
	if i < 0 {
		return fmt.Errorf("%s: %s", n.What, suggest.OneOf(string(text), n.Words))
	}
	*into = E(i)
	return nil
}
