package recipe

import (
	"errors"
	"fmt"
	"strings"
)

// OptionError is an error about an option. Error names options as in JSON; Text names them as a program's users know them, such as by
// flags.
type OptionError struct {
	Option  string // the option at fault
	Usage   bool   // the options are wrong, whatever the machine and its files
	NoModel bool   // the option names no model file or directory
	err     error  // its text has marks around the names of options
}

// Naming defines how a program names options in errors.
type Naming struct {
	Name func(option string) string        // such as "--label-dropout" for label-dropout
	Set  func(option, value string) string // such as "pass --label-dropout 0.1"; the value may be ""
}

// Error names options as in JSON.
func (e *OptionError) Error() string {
	return e.Text(Naming{Name: key, Set: func(option, value string) string {
		if value == "" {
			return "set " + key(option)
		}
		return "set " + key(option) + " to " + value
	}})
}

// Unwrap returns the cause.
func (e *OptionError) Unwrap() error { return errors.Unwrap(e.err) }

// The marks around an option's name in a text. Text from outside has no control characters: package quote removes them.
const (
	nameBegins = "\x01"
	setBegins  = "\x02"
	valueIs    = "\x03"
	markEnds   = "\x04"
)

// name stands for an option's name in an error.
func name(option string) string { return nameBegins + option + markEnds }

// set stands for the advice to set an option, to a value if that is not empty.
func set(option, value string) string { return setBegins + option + valueIs + value + markEnds }

// Text returns the error with options named as in n.
func (e *OptionError) Text(n Naming) string {
	var b strings.Builder
	rest := e.err.Error()
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

// usage returns the error for an option with a wrong value.
func usage(option, format string, args ...any) error {
	return &OptionError{Option: option, Usage: true, err: fmt.Errorf(format, args...)}
}

// failed returns the error for an option whose file or data set cannot be used.
func failed(option string, err error) error {
	if err == nil {
		return nil
	}
	return &OptionError{Option: option, err: fmt.Errorf("%s: %w", name(option), err)}
}

// noModel returns the error for an option that does not name a model.
func noModel(option string, err error) error {
	return &OptionError{Option: option, NoModel: true, err: fmt.Errorf("%s: %w", name(option), err)}
}
