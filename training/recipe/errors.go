package recipe

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/options"
)

// OptionError is an error about an option. Error names options as in JSON; Text names them as a program's users know them, such as by
// flags.
type OptionError = options.Error

// Naming is how a program names options.
type Naming = options.Naming

// name stands for an option's name in an error.
func name(option string) string { return options.NameOf(option) }

// set stands for the advice to set an option, to a value or any.
func set(option, value string) string { return options.SetOf(option, value) }

// usage refuses the value of an option.
func usage(option, format string, args ...any) error { return options.Refuse(option, format, args...) }

// failed says at which option's file or data set something went wrong.
func failed(option string, err error) error { return options.Failed(option, err) }

// noModel returns the error for an option that does not name a model.
func noModel(option string, err error) error {
	return &OptionError{Option: option, NoModel: true, Err: fmt.Errorf("%s: %w", name(option), err)}
}
