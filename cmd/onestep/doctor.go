package main

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/torch"
)

// health is what doctor finds.
type health struct {
	Onestep       string   `json:"onestep"`
	Go            string   `json:"go"`
	Libtorch      string   `json:"libtorch"`
	CompiledFor   string   `json:"compiled_for"`
	Library       string   `json:"library"`
	CPUCapability string   `json:"cpu_capability"`
	Threads       int      `json:"threads"`
	GPUs          int      `json:"gpus"`
	CUDA          string   `json:"cuda"` // "loaded", or why not
	GPUMemory     []string `json:"gpu_memory,omitempty"`
	Works         []string `json:"works"` // devices on which a tensor was made and added
}

func (a *app) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check libtorch, CPU and GPUs",
		Long: `Print versions, where libtorch was loaded from, what the CPU can do and whether CUDA was found (else the loader's own
reason), and make and add a tensor on every device. Exits with 1 when that fails.`,
		Args: exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			h, err := examine()
			var b strings.Builder
			row := func(name, format string, args ...any) {
				fmt.Fprintf(&b, "%-14s "+format+"\n", append([]any{name}, args...)...)
			}
			row("onestep", "%s (%s, %s/%s)", h.Onestep, h.Go, runtime.GOOS, runtime.GOARCH)
			row("libtorch", "%s, compiled for %s", h.Libtorch, h.CompiledFor)
			row("from", "%s", h.Library)
			row("CPU", "%s, %d threads", h.CPUCapability, h.Threads)
			row("CUDA", "%s, %d GPUs", h.CUDA, h.GPUs)
			for i, m := range h.GPUMemory {
				row(fmt.Sprintf("cuda:%d", i), "%s", m)
			}
			row("tensors", "work on %s", strings.Join(h.Works, ", "))
			if perr := a.print(h, b.String()); err == nil {
				err = perr
			}
			return err
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func examine() (health, error) {
	h := health{
		Onestep: versionText(), Go: runtime.Version(), Libtorch: torch.Version(), CompiledFor: torch.CompiledVersion(), Library: torch.LibraryPath(),
		CPUCapability: torch.CPUCapability(), Threads: torch.Threads(), GPUs: torch.CUDACount(), CUDA: "loaded",
	}
	if ok, reason := torch.CUDAOpened(); !ok {
		h.CUDA = "not loaded (" + reason + ")"
	}
	if err := torch.CPU.Available(); err != nil {
		return h, err
	}
	devices := []torch.Device{torch.CPU}
	for i := range h.GPUs {
		devices = append(devices, torch.CUDA(i))
	}
	for _, d := range devices {
		err := torch.Run(d, func(s *torch.Scope) error {
			x := torch.Ones(s, torch.Float32, 3)
			if sum := x.Add(s, x).Sum(s).Item(); sum != 6 {
				return fmt.Errorf("1+1 summed over 3 elements is %g, want 6", sum)
			}
			return nil
		})
		if err != nil {
			return h, fmt.Errorf("%s: %w", d, err)
		}
		h.Works = append(h.Works, d.String())
		if d.IsCUDA() {
			m, err := d.Memory()
			if err != nil {
				return h, err
			}
			h.GPUMemory = append(h.GPUMemory, fmt.Sprintf("%.1f of %.1f GiB free", float64(m.Free)/(1<<30), float64(m.Total)/(1<<30)))
		}
	}
	return h, nil
}

func (a *app) version() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"onestep": versionText(), "go": runtime.Version(), "libtorch": torch.Version()}
			return a.print(v, fmt.Sprintf("onestep %s, %s, libtorch %s\n", v["onestep"], v["go"], v["libtorch"]))
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) completion() *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print a completion script for a shell",
		Example:   `  source <(onestep completion bash)`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      exactly(1, "one shell: bash, zsh or fish"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(a.stdout, true)
			}
			return &job.UsageError{Msg: fmt.Sprintf("completion: want bash, zsh or fish, got %q", args[0])}
		},
	}
}
