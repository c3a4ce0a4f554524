package recipe

import (
	"errors"
	"fmt"
	"strings"
)

// OptionError is an error that names options. Error gives their names in JSON; Text gives them those that a program's users know, such as
// flags.
type OptionError struct {
	Option  string // the option that is wrong
	Usage   bool   // it cannot work, whatever the machine and its files
	NoModel bool   // what it names is no file or directory of a model
	err     error  // its text has marks where options are named
}

// Naming is how a program names options.
type Naming struct {
	Name func(option string) string        // such as "--label-dropout" of label_dropout
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

// The marks around an option's name in a text; what comes from outside has no control characters, which package quote sees to.
const (
	nameBegins = "\x01"
	setBegins  = "\x02"
	valueIs    = "\x03"
	markEnds   = "\x04"
)

// name stands for an option's name in an error.
func name(option string) string { return nameBegins + option + markEnds }

// set stands for the advice to set an option, to a value or any.
func set(option, value string) string { return setBegins + option + valueIs + value + markEnds }

// Text returns the error with a program's own names of options.
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

// usage refuses the value of an option.
func usage(option, format string, args ...any) error {
	return &OptionError{Option: option, Usage: true, err: fmt.Errorf(format, args...)}
}

// failed says at which option's file or data set something went wrong.
func failed(option string, err error) error {
	if err == nil {
		return nil
	}
	return &OptionError{Option: option, err: fmt.Errorf("%s: %w", name(option), err)}
}

// noModel says that an option names what describes no model.
func noModel(option string, err error) error {
	return &OptionError{Option: option, NoModel: true, err: fmt.Errorf("%s: %w", name(option), err)}
}
