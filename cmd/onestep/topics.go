package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpColumns is the width of the flags in a help text.
const helpColumns = 120

// topicKey is the annotation of a flag that has its topic.
const topicKey = "topic"

// topic is a part of the flags in a help text.
type topic struct {
	title string
	flags string // names, separated by spaces; "*" is all those that no topic names
}

// byTopic divides a command's flags in its help text. Flags of no topic come last, as "Other".
func byTopic(cmd *cobra.Command, topics ...topic) {
	for _, t := range topics {
		for name := range strings.FieldsSeq(t.flags) {
			if name != "*" {
				setTopic(cmd.Flags(), name, t.title)
			}
		}
	}
	for _, t := range topics {
		if t.flags == "*" {
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if topicOf(f) == "" {
					setTopic(cmd.Flags(), f.Name, t.title)
				}
			})
		}
	}
	cmd.SetUsageFunc(func(cmd *cobra.Command) error {
		var titles []string
		for _, t := range topics {
			titles = append(titles, t.title)
		}
		return usage(cmd, titles)
	})
}

// setTopic puts a flag under a title.
func setTopic(flags *pflag.FlagSet, name, title string) {
	if err := flags.SetAnnotation(name, topicKey, []string{title}); err != nil {
		panic(err) // a flag that does not exist: a mistake in this package
	}
}

// topicOf returns the title that a flag is under, or "".
func topicOf(f *pflag.Flag) string {
	if t := f.Annotations[topicKey]; t != nil {
		return t[0]
	}
	return ""
}

// usage writes what follows the description of a command in its help text: how to use it, examples, commands below it and flags,
// under the given titles.
func usage(cmd *cobra.Command, titles []string) error {
	w := cmd.OutOrStderr()
	fmt.Fprintln(w, "Usage:")
	if cmd.Runnable() {
		fmt.Fprintf(w, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s [command]\n", cmd.CommandPath())
	}
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprint(w, "\nCommands:\n")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() || c.Name() == "help" {
				fmt.Fprintf(w, "  %-*s %s\n", c.NamePadding(), c.Name(), c.Short)
			}
		}
	}
	last := "Flags"
	if titles != nil {
		last = "Other"
	}
	for _, title := range append(slices.Clone(titles), "") {
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		flags.SortFlags = false
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if topicOf(f) == title {
				flags.AddFlag(reflowed(f))
			}
		})
		if title == "" {
			title = last
		}
		writeFlags(w, title, flags)
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nUse \"%s [command] --help\" for more about a command.\n", cmd.CommandPath())
	}
	return nil
}

// writeFlags writes flags under a title.
func writeFlags(w io.Writer, title string, flags *pflag.FlagSet) {
	if flags.HasAvailableFlags() {
		fmt.Fprintf(w, "\n%s:\n%s\n", title, strings.TrimRight(flags.FlagUsagesWrapped(helpColumns), " \n"))
	}
}

// reflowed is a flag whose description is one line, to be wrapped.
func reflowed(f *pflag.Flag) *pflag.Flag {
	g := *f
	g.Usage = strings.Join(strings.Fields(f.Usage), " ")
	return &g
}
