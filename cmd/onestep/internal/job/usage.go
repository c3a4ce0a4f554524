package job

import (
	"fmt"
	"strings"
)

// Unset is the label when none is given.
const Unset = -1

// UsageError is an option that cannot work, whatever the machine and its files.
type UsageError struct{ Msg string }

// Error returns what is wrong with the option.
func (e *UsageError) Error() string { return e.Msg }

func usage(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// shellWord makes a shell read s as one word.
func shellWord(s string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:,=+@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
