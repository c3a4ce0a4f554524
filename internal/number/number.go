// Package number formats numbers for messages.
package number

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Short formats a number for messages: exactly if that takes few digits, such as 0.0001, else with four significant digits. Files for
// programs have all digits.
func Short(v float64) string {
	const few = 6
	s := strconv.FormatFloat(v, 'g', -1, 64)
	mantissa, _, _ := strings.Cut(s, "e")
	if digits := len(strings.TrimLeft(strings.NewReplacer(".", "", "-", "").Replace(mantissa), "0")); digits <= few || math.IsNaN(v) || math.IsInf(v, 0) {
		return s
	}
	if a := math.Abs(v); a >= 1e4 && a < 1e9 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// Shape writes a shape as 3×32×32.
func Shape(shape []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(shape), "[]"), " ", "×")
}
