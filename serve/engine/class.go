package engine

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/checkpoint"
)

// classOf returns the class that a prompt names: by the name or number of one, a part of a single name, or as the only name with words in
// the prompt. What was guessed is in the notice.
func classOf(d checkpoint.Description, text string) (label int, notice string, err error) {
	label, err = d.ClassNamed(text)
	if err == nil {
		return label, "", nil
	}
	var within, named []int
	asked := words(text)
	for i, class := range d.ClassNames {
		if len(asked) == 0 {
			break
		}
		if of := words(class); contains(of, asked) || len(asked) == 1 && strings.Contains(strings.Join(of, " "), asked[0]) {
			within = append(within, i)
		} else if contains(asked, of) {
			named = append(named, i)
		}
	}
	switch {
	case len(within) == 1:
		return within[0], "", nil
	case len(within) == 0 && len(named) == 1:
		name := d.ClassNames[named[0]]
		return named[0], fmt.Sprintf("the model takes classes, not prompts: of %s it uses the class %s alone", quote.Quoted(text), quote.Text(name)), nil
	}
	return 0, "", refuse("Prompt", "%v", err)
}

// words splits a text into words in lower case.
func words(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// contains reports whether some words are among others, one after the other.
func contains(all, some []string) bool {
	for i := range max(len(all)-len(some)+1, 0) {
		same := len(some) > 0
		for k, word := range some {
			same = same && all[i+k] == word
		}
		if same {
			return true
		}
	}
	return false
}
