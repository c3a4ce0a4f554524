package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/csrc"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/component"
)

// Exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitMemory      = 3
	exitInterrupted = 130
)

// app is what the subcommands share.
type app struct {
	stdout, stderr io.Writer
	json, quiet    bool
	wrong          error // what help was asked for that does not exist
}

// run executes one command line and returns the exit code. Errors are one line on stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &checked{w: stdout}
	a := &app{stdout: out, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// The flags of a mistyped command are not those of the command above it.
		if _, rest, found := root.Find(args); found == nil && cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			return unknownCommand(cmd, rest[0])
		}
		return flagError(cmd, err)
	})
	root.SetOut(out)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = errors.Join(a.wrong, out.err)
	}
	if err == nil {
		return 0
	}
	msg, code := explain(err, cmd, ctx.Err() != nil)
	fmt.Fprintln(stderr, "onestep: "+quote.Lines(oneLine(msg)))
	return code
}

// checked is a writer that keeps its first error: the help is written without a look at it.
type checked struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (c *checked) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

// explain returns what to say of an error of a command, and its exit code.
func explain(err error, cmd *cobra.Command, interrupted bool) (msg string, code int) {
	var use *job.UsageError
	var space *job.MemoryError
	var missing *csrc.OpenError
	var variant *component.VariantError
	switch {
	case interrupted && errors.Is(err, context.Canceled):
		return "interrupted", exitInterrupted
	case errors.As(err, &use):
		return err.Error(), exitUsage
	case errors.As(err, &space):
		return err.Error(), exitMemory
	case errors.As(err, &missing):
		return missing.Error() + " (onestep doctor tells more)", exitFailure
	case errors.Is(err, torch.ErrOutOfMemory):
		return fmt.Sprintf("not enough memory: %v: %s", err, needsLess(cmd)), exitMemory
	}
	if errors.As(err, &variant) && cmd.Flags().Lookup("variant") != nil {
		if msg := otherVariant(variant, cmd.Flags().Lookup("mixed-variant") != nil); msg != "" {
			return msg, exitFailure
		}
	}
	if front, ok := strings.CutSuffix(err.Error(), "allow overwriting"); ok && errors.Is(err, fs.ErrExist) { // of a library, which knows no flags
		return front + "pass --overwrite", exitFailure
	}
	return err.Error(), exitFailure
}

// otherVariant says which variants of a directory's weights can be chosen instead; "": none.
func otherVariant(e *component.VariantError, mixed bool) string {
	var remedies []string
	for _, v := range e.Found {
		if v != "" {
			remedies = append(remedies, "pass --variant "+quote.Text(v))
		}
	}
	path := quote.Path(e.Path)
	if e.Variant == "" {
		if remedies == nil {
			return ""
		}
		return fmt.Sprintf("%s has weights only with a variant in their names: %s", path, strings.Join(remedies, ", or "))
	}
	has := "has no such weights"
	if e.Some {
		has = "has such weights for some components only"
		if mixed {
			remedies = append([]string{"pass --mixed-variant to use the default files of the others"}, remedies...)
		}
	}
	if slices.Contains(e.Found, "") {
		remedies = append(remedies, "leave the option out")
	}
	if remedies == nil {
		return ""
	}
	return fmt.Sprintf("--variant %s: %s %s: %s", quote.Text(e.Variant), path, has, strings.Join(remedies, ", or "))
}

// needsLess says what makes a command need less memory: what it has flags for.
func needsLess(cmd *cobra.Command) string {
	has := func(name string) bool { return cmd.Flags().Lookup(name) != nil }
	var flags []string
	for _, name := range []string{"batch", "n", "resolution", "channels"} {
		if has(name) && (name != "n" || !has("batch")) {
			flags = append(flags, "--"+name)
		}
	}
	switch batch := cmd.Flags().Lookup("batch"); {
	case has("tile") && batch.Value.String() != batch.DefValue:
		return "choose a smaller --batch"
	case has("tile"):
		return "choose a smaller --width and --height, --tile 512, or --dtype bf16"
	case flags != nil:
		return "choose a smaller " + strings.Join(flags, " or ")
	}
	return "stop other programs, or use a machine with more memory"
}

// oneLine joins the lines of a message.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return strings.Join(lines, "; ")
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "onestep",
		Short: "Train consistency models, and generate images in one step",
		Long: `Train consistency models, and generate images in one step.

Results go to standard output, progress and logs to standard error. Exit codes: 0 done, 1 failure, 2 wrong use,
3 not enough memory, 130 interrupted.`,
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return noEmptyNames(cmd) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetHelpCommand(helpCommand())
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if a.wrong = nothingToHelp(root, args); a.wrong == nil {
			help(cmd, args)
		}
	})
	root.SetUsageFunc(func(cmd *cobra.Command) error { return usage(cmd, nil) })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(a.train(), a.trainLCM(), a.trainLoRA(), a.trainLDM(), a.sample(), a.edit(), a.generate(), a.serve(), a.eval(), a.convert(), a.lora(), a.inspect(), a.average(), a.info(), a.doctor(), a.version(), a.completion())
	onlyDecimal(root)
	return root
}

// helpCommand is cobra's, but a topic that does not exist is wrong use.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := nothingToHelp(cmd.Root(), args); err != nil {
				return err
			}
			about, _, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

// nothingToHelp is an error if the words of a command line that asks for help name no command: cobra shows the help of what is above.
func nothingToHelp(root *cobra.Command, args []string) error {
	about, rest, err := root.Find(args)
	if !about.HasSubCommands() && err == nil {
		return nil
	}
	for _, word := range rest {
		if !strings.HasPrefix(word, "-") {
			return unknownCommand(about, word)
		}
	}
	return nil
}

func unknownCommand(root *cobra.Command, name string) error {
	near := suggest.Near(name, commandNames(root))
	for _, c := range root.Commands() {
		if slices.Contains(c.SuggestFor, strings.ToLower(name)) && !slices.Contains(near, c.Name()) {
			near = append(near, c.Name())
		}
	}
	return &job.UsageError{Msg: fmt.Sprintf("unknown command %s%s (see %s --help)", quote.Quoted(name), suggest.Question(near...), root.CommandPath())}
}

// arguments is cobra.ExactArgs with an error that is wrong use.
func arguments(n int, want string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case slices.Contains(args, ""): // of a shell's variable that is not set
			return &job.UsageError{Msg: fmt.Sprintf("want %s, got an empty argument", want)}
		case len(args) == n:
			return nil
		case len(args) == 0:
			return &job.UsageError{Msg: "want " + want}
		}
		return &job.UsageError{Msg: fmt.Sprintf("want %s, got %s", want, quote.Quoted(strings.Join(args, " ")))}
	}
}

func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print the result as one JSON object")
}

func (a *app) quietFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.quiet, "quiet", false, "show no progress on standard error; notices and errors stay")
}

// print writes a result: v as JSON with --json, else text.
func (a *app) print(v any, text string) error {
	if a.json {
		return writeJSON(a.stdout, v, "")
	}
	_, err := io.WriteString(a.stdout, quote.Lines(text))
	return err
}
