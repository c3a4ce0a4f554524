package main

import (
	"cmp"
	"errors"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// decimal is a flag for numbers that are written as people do, 10 or 0.1 or 1e-4, and not as Go's 1_0, 0x1p3 and 010, which is 8 there.
type decimal struct {
	pflag.Value
	whole bool // pflag's own types of whole numbers take a zero in front for a sign of base 8
}

var decimalNumber = regexp.MustCompile(`^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$`)

// Set implements pflag.Value. Words such as none and inf are left to the value.
func (d decimal) Set(s string) error {
	for word := range strings.SplitSeq(s, ",") {
		word = strings.TrimSpace(word)
		if strings.ContainsAny(word, "0123456789") && !decimalNumber.MatchString(word) {
			return errors.New("not a decimal number")
		}
	}
	if n := strings.TrimLeft(s, "+-"); d.whole && n != "" {
		s = s[:len(s)-len(n)] + cmp.Or(strings.TrimLeft(n, "0"), "0")
	}
	return d.Value.Set(s)
}

// onlyDecimal makes all flags for numbers, of a command and those below it, such flags.
func onlyDecimal(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		switch v := plain(f); v.Type() {
		case "int", "uint64":
			f.Value = decimal{f.Value, true}
		case "float64", "float64Slice", "intSlice", "X", "N", "N,N":
			f.Value = decimal{f.Value, false}
		}
	})
	for _, c := range cmd.Commands() {
		onlyDecimal(c)
	}
}
