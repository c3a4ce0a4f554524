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
	for _, name := range []string{"train", "generate", "sample", "convert", "inspect", "lora merge", "train-lcm", "train-ldm"} {
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

// docs/methods.md names each command that trains.
func TestMethodsAreDocumented(t *testing.T) {
	methods, err := os.ReadFile("../../docs/methods.md")
	require.NoError(t, err)
	for _, cmd := range (&app{}).root().Commands() {
		if strings.HasPrefix(cmd.Name(), "train") {
			require.Contains(t, strings.ReplaceAll(string(methods), "onestep train ", "`train`"), "`"+cmd.Name()+"`")
		}
	}
}
