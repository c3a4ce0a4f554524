package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// An empty name is refused, by all flags for files and directories: it is that of a shell's variable that is not set, whose value would be missed.
func TestNoEmptyNames(t *testing.T) {
	root, flags := (&app{}).root(), 0
	var all func(cmd *cobra.Command)
	all = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if namesFiles.MatchString(f.Value.Type()) {
				flags++
				args := append(strings.Fields(cmd.CommandPath())[1:], "--"+f.Name, "")
				if use := strings.Fields(cmd.Use); len(use) > 1 && !strings.HasPrefix(use[1], "-") {
					args = append(args, "an argument")
				}
				code, _, errs := try(args...)
				require.Equal(t, exitUsage, code, "%s --%s", cmd.CommandPath(), f.Name)
				require.Contains(t, errs, "--"+f.Name)
				require.Regexp(t, `got an empty name|""`, errs)
			}
		})
		for _, c := range cmd.Commands() {
			all(c)
		}
	}
	all(root)
	for _, args := range []string{"info", "lora info", "lora convert", "average"} {
		code, _, errs := try(append(strings.Fields(args), "")...)
		require.Equal(t, exitUsage, code, args)
		require.Contains(t, errs, "got an empty argument", args)
	}
	require.Greater(t, flags, 80)
}
