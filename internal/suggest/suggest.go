// Package suggest finds names similar to a mistyped one.
package suggest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// maxSuggestions is how many names a hint lists.
const maxSuggestions = 3

// Near returns the names similar to a mistyped one, ignoring case, the most similar first: those within a few typing errors, fewer for
// short names and at most one in the first letter; if there are none, those of which one is a prefix of the other.
func Near(typed string, names []string) []string {
	type near struct {
		name     string
		distance int
	}
	var found, longer []near
	lower := strings.ToLower(typed)
	for _, original := range slices.Compact(slices.Sorted(slices.Values(names))) {
		name := strings.ToLower(original)
		length := max(len(lower), len(name))
		most := min(length/4, 3) // typing errors
		if !sameInitial(lower, name) {
			most = min(length/5, 1)
		}
		shorter := min(len(lower), len(name))
		d := typingErrors(lower, name)
		if d == 1 && swapped(lower, name) {
			most = 1 // also in short names, such as itc for ict
		}
		if d <= most {
			found = append(found, near{original, d})
		} else if shorter >= 3 && lower[:shorter] == name[:shorter] {
			longer = append(longer, near{original, length - shorter})
		}
	}
	if found == nil {
		found = longer
	}
	slices.SortStableFunc(found, func(a, b near) int { return cmp.Compare(a.distance, b.distance) })
	var out []string
	for _, f := range found[:min(len(found), maxSuggestions)] {
		out = append(out, f.name)
	}
	return out
}

// OneOf is the message of an unknown name, with a suggestion: want one of a, b, got "c": did you mean a?
func OneOf(typed string, names []string) string {
	return fmt.Sprintf("want one of %s, got %s%s", strings.Join(quote.Texts(names), ", "), quote.Quoted(typed), Hint(typed, names))
}

// Hint is the end of a message about an unknown name, ": did you mean a?"; "" if none is similar.
func Hint(typed string, names []string) string { return Question(Near(typed, names)...) }

// Question is the end of a message that asks which of the names was meant, ": did you mean a or b?"; "" without names.
func Question(names ...string) string {
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf(": did you mean %s?", strings.Join(quote.Texts(names), " or "))
}

func sameInitial(a, b string) bool { return a != "" && b != "" && a[0] == b[0] }

// swapped reports whether two texts consist of the same letters.
func swapped(a, b string) bool { return slices.Equal(letters(a), letters(b)) }

func letters(s string) []rune { return slices.Sorted(slices.Values([]rune(s))) }

// typingErrors counts the insertions, deletions, substitutions and swaps of neighbours that turn a into b (the optimal string alignment
// distance). Texts of over a hundred bytes are never similar.
func typingErrors(a, b string) int {
	const long = 100
	if len(a) > long || len(b) > long {
		return long
	}
	d := make([][]int, len(a)+1) // d[i][j]: of a[:i] and b[:j]
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			other := 1
			if a[i-1] == b[j-1] {
				other = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+other)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
