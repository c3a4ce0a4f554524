package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/csrc"
)

// versionText is what the build was told to be, or else what the Go tool knows of it.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (a *app) version() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long:  "Print the versions of onestep, of the Go that compiled it and of the libtorch that it uses, without loading that.",
		Args:  arguments(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			layer, err := csrc.Find()
			v := map[string]string{"onestep": versionText(), "go": runtime.Version(), "libtorch": layer.Version}
			libtorch := layer.Version
			if err != nil || layer.Library == "" {
				libtorch += " missing: see onestep doctor"
			}
			return a.print(v, fmt.Sprintf("onestep %s, %s, libtorch %s\n", v["onestep"], v["go"], strings.TrimSpace(libtorch)))
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) completion() *cobra.Command {
	const want = "one shell: bash, zsh or fish"
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a completion script for a shell",
		Long: `Print a script that completes commands, flags and their values.

  bash: source <(onestep completion bash), in ~/.bashrc to keep it
  zsh:  onestep completion zsh > "${fpath[1]}/_onestep"
  fish: onestep completion fish > ~/.config/fish/completions/onestep.fish`,
		ValidArgs:             []string{"bash", "zsh", "fish"},
		DisableFlagsInUseLine: true,
		Args:                  arguments(1, want),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(a.stdout, true)
			}
			return &job.UsageError{Msg: fmt.Sprintf("completion: want %s, got %q", want, args[0])}
		},
	}
}
