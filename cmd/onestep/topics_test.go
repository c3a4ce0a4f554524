package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// A help text divides the flags of commands that have many, each flag under one title.
func TestTopics(t *testing.T) {
	for _, name := range []string{"train", "generate", "sample", "convert", "inspect", "lora merge"} {
		cmd, _, err := (&app{}).root().Find(strings.Fields(name))
		require.NoError(t, err)
		code, help, _ := try(append(strings.Fields(name), "--help")...)
		require.Zero(t, code)
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" {
				return
			}
			require.NotEmpty(t, topicOf(f), "%s --%s", name, f.Name)
			require.Contains(t, help, "\n"+topicOf(f)+":\n", "%s --%s", name, f.Name)
			require.Equal(t, 1, strings.Count(help, "\n      --"+f.Name+" "), "%s --%s is in the help once", name, f.Name)
		})
		for line := range strings.Lines(help[strings.Index(help, "\nExamples:"):][1:]) {
			if strings.HasPrefix(line, "      --") {
				require.LessOrEqual(t, len([]rune(line)), helpColumns+1, line)
			}
		}
	}
	require.Panics(t, func() { byTopic(&cobra.Command{}, topic{"Model", "nothing"}) })
}

// The examples of help texts have flags that there are, and docs/methods.md names each command that trains.
func TestExamplesOfHelp(t *testing.T) {
	methods, err := os.ReadFile("../../docs/methods.md")
	require.NoError(t, err)
	root := (&app{}).root()
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "onestep" {
				continue
			}
			of, rest, err := root.Find(words[1:])
			require.NoError(t, err, line)
			for _, word := range rest {
				if name, ok := strings.CutPrefix(word, "--"); ok {
					name, _, _ = strings.Cut(name, "=")
					require.NotNil(t, of.Flag(name), "%s: --%s", strings.TrimSpace(line), name)
				}
			}
		}
		if strings.HasPrefix(cmd.Name(), "train") && cmd.Runnable() {
			require.Contains(t, string(methods), cmd.Name())
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
	require.Contains(t, string(methods), "`train-lcm`")
	require.Contains(t, string(methods), "`train-lora`")
}
