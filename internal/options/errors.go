package options

import (
	"errors"
	"fmt"
	"strings"
)

// Error is an error about an option. Its method Error names options as in JSON; Text names them as a program's users know them, such as by
// flags.
type Error struct {
	Option  string // the option at fault
	Usage   bool   // the options are wrong, whatever the machine and its files
	NoModel bool   // the option names no model file or directory
	Err     error  // its text has marks where options are named; see NameOf
}

// Naming defines how a program names options in errors.
type Naming struct {
	Name func(option string) string        // such as "--label-dropout" for label-dropout
	Set  func(option, value string) string // such as "pass --label-dropout 0.1"; the value may be ""
}

// Error names options as in JSON.
func (e *Error) Error() string {
	key := func(option string) string { return strings.ReplaceAll(option, "-", "_") }
	return e.Text(Naming{Name: key, Set: func(option, value string) string {
		if value == "" {
			return "set " + key(option)
		}
		return "set " + key(option) + " to " + value
	}})
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return errors.Unwrap(e.Err) }

// The marks around an option's name in a text; what comes from outside has no control characters, which package quote sees to.
const (
	nameBegins = "\x01"
	setBegins  = "\x02"
	valueIs    = "\x03"
	markEnds   = "\x04"
)

// NameOf stands for an option's name in the text of an [Error].
func NameOf(option string) string { return nameBegins + option + markEnds }

// SetOf stands there for the advice to set an option, to a value or any.
func SetOf(option, value string) string { return setBegins + option + valueIs + value + markEnds }

// Text returns the error with a program's own names of options.
func (e *Error) Text(n Naming) string {
	var b strings.Builder
	rest := e.Err.Error()
	for {
		at := strings.IndexAny(rest, nameBegins+setBegins)
		if at < 0 {
			b.WriteString(rest)
			return b.String()
		}
		b.WriteString(rest[:at])
		mark, after, _ := strings.Cut(rest[at+1:], markEnds)
		if rest[at:at+1] == nameBegins {
			b.WriteString(n.Name(mark))
		} else {
			option, value, _ := strings.Cut(mark, valueIs)
			b.WriteString(n.Set(option, value))
		}
		rest = after
	}
}

// Refuse refuses the value of an option.
func Refuse(option, format string, args ...any) error {
	return &Error{Option: option, Usage: true, Err: fmt.Errorf(format, args...)}
}

// Failed says at which option's file or data something went wrong; nil for no error.
func Failed(option string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Option: option, Err: fmt.Errorf("%s: %w", NameOf(option), err)}
}
