// Package plural writes counted nouns.
package plural

import (
	"fmt"
	"strings"
)

// integer is an integer type.
type integer interface{ ~int | ~int32 | ~int64 }

// N returns a number with its noun: 1 step, 2 steps, 3 classes, 4 entries. The last word of the noun gets the plural.
func N[T integer](n T, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "s"), strings.HasSuffix(noun, "x"), strings.HasSuffix(noun, "ch"), strings.HasSuffix(noun, "sh"):
		noun += "es"
	case strings.HasSuffix(noun, "y") && !strings.ContainsAny(noun[max(0, len(noun)-2):], "aeou"):
		noun = noun[:len(noun)-1] + "ies"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
