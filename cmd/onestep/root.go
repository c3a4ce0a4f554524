package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
)

// Exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// app is what the subcommands share.
type app struct {
	stdout, stderr io.Writer
	json           bool
}

// run executes one command line and returns the exit code. Errors are one line on stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var use *job.UsageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "onestep: interrupted")
		return exitInterrupted
	case errors.As(err, &use):
		fmt.Fprintf(stderr, "onestep: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "onestep: %v\n", err)
	return exitFailure
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "onestep",
		Short:         "Train consistency models and draw images from them in one step",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &job.UsageError{Msg: fmt.Sprintf("%v (see %s --help)", err, cmd.CommandPath())}
	})
	root.SuggestionsMinimumDistance = 2
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(a.train(), a.sample(), a.info(), a.doctor(), a.version(), a.completion())
	return root
}

func unknownCommand(cmd *cobra.Command, name string) error {
	msg := fmt.Sprintf("unknown command %q", name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		msg += ": did you mean " + strings.Join(near, " or ") + "?"
	}
	return &job.UsageError{Msg: msg + " (see onestep --help)"}
}

// exactly is cobra.ExactArgs with an error that is wrong use.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return &job.UsageError{Msg: fmt.Sprintf("want %s, got %d arguments: %s", what, len(args), strings.Join(args, " "))}
	}
}

func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print the result as one JSON object")
}

// print writes a result: v as JSON with --json, else text.
func (a *app) print(v any, text string) error {
	if a.json {
		return json.NewEncoder(a.stdout).Encode(v)
	}
	_, err := io.WriteString(a.stdout, text)
	return err
}

// terminal tells whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
