package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/training/recipe"
)

// option is a flag for an option of runs. What it was set to is in into.
type option struct {
	options.Option
	into recipe.Values
}

func (o option) String() string {
	if v, ok := o.into[o.Name]; ok {
		return options.Text(v)
	}
	return o.Default
}

func (o option) Set(text string) error {
	if list, again := o.into[o.Name]; again && o.Option.Type().Kind() == reflect.Slice && text != options.None {
		text = strings.TrimPrefix(options.Text(list)+","+text, options.None+",") // as pflag has it
	}
	v, err := o.Parse(text)
	if err == nil {
		o.into[o.Name] = v
	}
	return err
}

// Type is what help calls the value.
func (o option) Type() string {
	number := map[reflect.Kind]string{reflect.Int: "N", reflect.Uint64: "N", reflect.Float64: "X"}
	t := o.Option.Type()
	switch {
	case o.Called != "":
		return o.Called
	case o.Choices != nil:
		return strings.Join(o.Choices, "|")
	case t.Kind() == reflect.Bool:
		return "bool"
	case t.Kind() == reflect.Slice:
		return number[t.Elem().Kind()] + "," + number[t.Elem().Kind()]
	}
	return number[t.Kind()]
}

// runFlags are the flags for the options of runs.
type runFlags struct {
	values recipe.Values // that were given
	method string
}

// runOptions makes a flag for every option of runs, in their order.
func runOptions(f *pflag.FlagSet) *runFlags {
	given := &runFlags{values: recipe.Values{}}
	f.Var(choice{&given.method, recipe.Names()}, "method", "training method, see above (default "+recipe.Default+", or that of the run to resume)")
	ofNetworks := job.NetworkOptions()
	for _, o := range recipe.Options() {
		help := o.Help
		if i := slices.IndexFunc(ofNetworks, func(n job.NetworkOption) bool { return n.Name == o.Name }); i >= 0 {
			help, o.Default = ofNetworks[i].Help, "" // which has the default of each
		}
		if o.Name == "network" {
			o.Choices, o.Called = job.Networks(), "NETWORK"
		}
		flag := f.VarPF(option{o.Option, given.values}, o.Name, "", usedBy(o.Name, help))
		if o.Type().Kind() == reflect.Bool {
			flag.NoOptDefVal = "true"
		}
	}
	return given
}

// helpOfMethod limits the help of a command with --method to the options that the method uses.
func helpOfMethod(cmd *cobra.Command, given *runFlags) {
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if m, err := recipe.Named(given.method); err == nil {
			cmd.Long = fmt.Sprintf("Train with the method %s: %s.\n\nThese are the options of the method; onestep train --help lists all methods and options.",
				given.method, m.Spec().About)
			cmd.Long += "\n\nThe networks:\n\n" + job.AboutNetworks()
			cmd.Example = ""
			for _, o := range recipe.Options() {
				flag := cmd.Flags().Lookup(o.Name)
				if names := recipe.UsedBy(o.Name); names != nil && !slices.Contains(names, given.method) {
					flag.Hidden = true
				} else if names != nil {
					flag.Usage = o.Help
				}
			}
		}
		cmd.Parent().HelpFunc()(cmd, args)
	})
}

// usedBy adds to an option's help which methods use it, if not all do.
func usedBy(option, help string) string {
	names, all := recipe.UsedBy(option), recipe.Names()
	switch {
	case len(names) == 0 || len(names) == len(all):
		return help
	case len(names) <= len(all)/2:
		return strings.Join(names, ", ") + ": " + help
	}
	others := slices.DeleteFunc(all, func(m string) bool { return slices.Contains(names, m) })
	return help + "; not for " + strings.Join(others, ", ")
}

// apply sets the options of a run: those of values beneath, which files have, then those of flags.
func (g *runFlags) apply(run *recipe.Run, beneath ...recipe.Values) error {
	all := recipe.Values{}
	for _, v := range beneath {
		maps.Copy(all, v)
	}
	maps.Copy(all, g.values)
	if g.method != "" {
		all["method"] = g.method
	}
	if err := all.Apply(run); err != nil {
		return err
	}
	for _, option := range slices.Sorted(maps.Keys(g.values)) {
		if err := run.Unused(option); err != nil {
			return err
		}
	}
	return nil
}
