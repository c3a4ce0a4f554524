package scheduler

import "fmt"

// OptionError reports an option that is invalid, or that the sampler or the model does not support. Option is the name of a field of
// [Options], of a sampler, or of package texttoimage's Pipeline, such as "Steps".
type OptionError struct {
	Option string
	Err    error
}

// Error returns the message of Err.
func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *OptionError) Unwrap() error { return e.Err }

func refuse(option, format string, args ...any) error {
	return &OptionError{option, fmt.Errorf(format, args...)}
}
