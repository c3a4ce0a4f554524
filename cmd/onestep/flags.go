package main

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/suggest"
)

// count is a flag for a number from 1 on. Zero is what it holds while nothing is said.
type count struct{ v *int }

func (c count) String() string {
	if c.v == nil {
		return "0"
	}
	return strconv.Itoa(*c.v)
}

func (c count) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err == nil && n < 1 {
		err = errors.New("too small")
	}
	if err == nil {
		*c.v = n
	}
	return err
}

func (c count) Type() string { return "N" }

// above is a flag for a number above 0. Zero is what it holds while nothing is said, so that it cannot be said.
type above struct{ v *float64 }

func (a above) String() string {
	if a.v == nil {
		return "0"
	}
	return strconv.FormatFloat(*a.v, 'g', -1, 64)
}

func (a above) Set(s string) error {
	n, err := strconv.ParseFloat(s, 64)
	if err == nil && !(n > 0 && n <= math.MaxFloat64) {
		err = errors.New("not above 0")
	}
	if err == nil {
		*a.v = n
	}
	return err
}

func (a above) Type() string { return "X" }

// choice is a flag for one of a few words.
type choice struct {
	v    *string
	from []string
}

func (c choice) String() string {
	if c.v == nil {
		return ""
	}
	return *c.v
}

func (c choice) Set(s string) error {
	if !slices.Contains(c.from, s) {
		return errors.New("not one of the words")
	}
	*c.v = s
	return nil
}

func (c choice) Type() string { return strings.Join(c.from, "|") }

// wants says what a flag's value has to look like.
func wants(f *pflag.Flag) string {
	if c, ok := chosen(plain(f)); ok {
		last := len(c.from) - 1
		return strings.Join(c.from[:last], ", ") + " or " + c.from[last]
	}
	switch v := plain(f).(type) {
	case guidance:
		return "a number from 0 on"
	case option:
		return v.Wants()
	}
	switch plain(f).Type() {
	case "N":
		return "a whole number from 1 on"
	case "N,N":
		return "whole numbers from 1 on with commas between them"
	case "X":
		return "a number above 0"
	case "int":
		return "a whole number"
	case "intSlice":
		return "whole numbers with commas between them, such as 999,499"
	case "uint64":
		return "a whole number from 0 on"
	case "float64":
		return "a number"
	case "float64Slice":
		return "numbers with commas between them, such as 80,0.8"
	case "duration":
		return "a time such as 90s, 30m or 2h"
	case "bool":
		return "true or false"
	}
	return "another value"
}

// invalidValue says what is wrong with a flag's value.
func invalidValue(value *pflag.InvalidValueError) string {
	v := plain(value.GetFlag())
	switch v.(type) {
	case sampler, spacing: // package scheduler says what there is, and which spacing a sampler cannot have
		return value.Unwrap().Error()
	}
	var words []string
	if c, ok := chosen(v); ok {
		words = c.from
	}
	return fmt.Sprintf("want %s, got %q%s", wants(value.GetFlag()), value.GetValue(), suggest.Hint(value.GetValue(), words))
}

// flagError turns pflag's errors into ours.
func flagError(cmd *cobra.Command, err error) error {
	var (
		value   *pflag.InvalidValueError
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		msg     = err.Error()
	)
	switch {
	case errors.As(err, &value):
		msg = fmt.Sprintf("--%s: %s", value.GetFlag().Name, invalidValue(value))
	case errors.As(err, &missing):
		msg = fmt.Sprintf("--%s: its value is missing", missing.GetFlag().Name)
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		near := nearFlags(unknown.GetSpecifiedName(), cmd.Flags())
		for i := range near {
			near[i] = "--" + near[i]
		}
		msg = fmt.Sprintf("unknown flag --%s%s", unknown.GetSpecifiedName(), suggest.Question(near...))
	}
	return &job.UsageError{Msg: fmt.Sprintf("%s (see %s --help)", msg, cmd.CommandPath())}
}

// namesFiles matches what the values of flags for files and directories are called in help texts.
var namesFiles = regexp.MustCompile(`\b(FILE|DIR|PATH|DATA|NAME)\b`)

// noEmptyNames refuses empty names of files and directories, such as that of a shell's variable that is not set, whose flag would otherwise seem not
// to be given. With --from an empty name takes away what the image was generated with.
func noEmptyNames(cmd *cobra.Command) (err error) {
	var takesAway []string
	if from := cmd.Flags().Lookup("from"); from != nil && from.Value.String() != "" {
		takesAway = []string{"unet", "text-encoder", "text-encoder-2", "vae", "tiny-vae", "lora"}
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains(takesAway, f.Name) {
			return
		}
		names := []string{f.Value.String()}
		if list, ok := plain(f).(pflag.SliceValue); ok {
			names = list.GetSlice()
		}
		if o, ok := plain(f).(option); ok && o.Option.Type().Kind() == reflect.Slice && names[0] == options.None {
			names[0] = ""
		}
		if err == nil && namesFiles.MatchString(f.Value.Type()) && slices.Contains(names, "") {
			err = &job.UsageError{Msg: fmt.Sprintf("--%s: want %s, got an empty name; leave the flag out if there is none (see %s --help)", f.Name, f.Value.Type(), cmd.CommandPath())}
		}
	})
	return err
}

// readBeneath runs read, which fills in the variables behind flags, and puts back what was given on the command line.
func readBeneath(flags *pflag.FlagSet, read func() error) error {
	var restore []func() error
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := plain(f).(pflag.SliceValue); ok { // these add what they are set to
			was := list.GetSlice()
			restore = append(restore, func() error { return list.Replace(was) })
			return
		}
		was := f.Value.String()
		restore = append(restore, func() error { return f.Value.Set(was) })
	})
	if err := read(); err != nil {
		return err
	}
	for _, r := range restore {
		if err := r(); err != nil {
			return err
		}
	}
	return nil
}

// named is a flag whose value has another name in help texts.
type named struct {
	pflag.Value
	name string
}

func (n named) Type() string { return n.name }

// plain returns a flag's value without such a name, and without [decimal].
func plain(f *pflag.Flag) pflag.Value {
	v := f.Value
	if d, ok := v.(decimal); ok {
		v = d.Value
	}
	if n, ok := v.(named); ok {
		v = n.Value
	}
	return v
}

// call names the values of flags.
func call(flags *pflag.FlagSet, value string, names ...string) {
	for _, name := range names {
		f := flags.Lookup(name)
		f.Value = named{f.Value, value}
		if f.DefValue == "[]" { // an empty list, which pflag does not recognise in there
			f.DefValue = ""
		}
	}
}

// hideDefault keeps a default that stands for "not given" out of the help text.
func hideDefault(flags *pflag.FlagSet, name string) { flags.Lookup(name).DefValue = "" }

// offerChoices completes the values of flags that have a choice.
func offerChoices(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if c, ok := chosen(plain(f)); ok {
			offer(cmd, f.Name, c.from...)
		}
	})
}

// offer completes a flag's value from a fixed list, or with files.
func offer(cmd *cobra.Command, name string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveDefault
	})
	if err != nil {
		panic(err) // a flag that does not exist, or twice: a mistake in this package
	}
}
