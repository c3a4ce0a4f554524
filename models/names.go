package models

import (
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// names are the words for the values of an enumeration, in files and options.
type names[E ~int] struct {
	what  string
	words []string // of 0, 1, …
}

func (n names[E]) text(v E) ([]byte, error) {
	if int(v) < 0 || int(v) >= len(n.words) {
		return nil, fmt.Errorf("%s: there is no value %d: want 0 to %d", n.what, v, len(n.words)-1)
	}
	return []byte(n.words[v]), nil
}

func (n names[E]) parse(text []byte, into *E) error {
	i := slices.Index(n.words, string(text))
	if i < 0 {
		return fmt.Errorf("%s: want one of %s, got %s", n.what, strings.Join(n.words, ", "), quote.Quoted(text))
	}
	*into = E(i)
	return nil
}
