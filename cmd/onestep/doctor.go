package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/csrc"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
)

// health is the result of doctor, as JSON.
type health struct {
	Onestep       string   `json:"onestep"`
	Go            string   `json:"go"`
	Platform      string   `json:"platform"`
	Libtorch      string   `json:"libtorch"`          // its version; "" if it was not loaded
	Expected      string   `json:"expected"`          // the version that is needed
	Library       string   `json:"library"`           // the file that libtorch_cpu was loaded from, or would be
	Layer         string   `json:"layer"`             // our library over it; "" if there is none
	Searched      []string `json:"searched,omitzero"` // directories searched for what is missing
	CPUCapability string   `json:"cpu_capability"`
	Threads       int      `json:"threads"`        // per operator
	CUDA          bool     `json:"cuda"`           // whether libtorch_cuda was opened
	CUDAReason    string   `json:"cuda_reason"`    // the loader's message if it was not
	Driver        string   `json:"nvidia_driver"`  // its version; "" if there is none
	Cards         []string `json:"nvidia_cards"`   // models that the driver lists, in its own order
	GPUs          []gpu    `json:"gpus"`           // those that libtorch can use
	Works         []string `json:"works"`          // devices on which a test computation succeeded
	Error         string   `json:"error,omitzero"` // what does not work
	Remedy        string   `json:"fix,omitzero"`   // the command that fixes it
}

type gpu struct {
	Device      string `json:"device"`
	FreeMemory  int64  `json:"free_memory"`  // bytes
	TotalMemory int64  `json:"total_memory"` // bytes
}

func (a *app) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:        "doctor",
		SuggestFor: []string{"check", "diagnose"},
		Short:      "Check libtorch, CPU and GPUs",
		Long: `Print versions, where libtorch was loaded from, what the CPU can do and whether CUDA was found (else the loader's own
reason), and make and add a tensor on every device. Where libtorch is missing, damaged or of another version: which version
is expected, where it was looked for, and the command that fixes it. Exits with 1 when something does not work.`,
		Args: arguments(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			h, err := examine("/")
			return errors.Join(err, a.print(h, h.String()))
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

// String returns the findings, one per line.
func (h health) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", quote.Text(name), quote.Lines(fmt.Sprintf(format, args...)))
	}
	row("onestep", "%s (%s, %s)", h.Onestep, h.Go, h.Platform)
	if h.Libtorch != "" {
		row("libtorch", "%s", h.Libtorch)
	} else {
		row("libtorch", "not loaded, expected %s", h.Expected)
	}
	for _, r := range []struct{ name, path string }{{"from", h.Library}, {"searched", strings.Join(h.Searched, ", ")}, {"layer", h.Layer}} {
		if r.path != "" && !strings.Contains(h.Error, r.path) { // the error names it already
			row(r.name, "%s", r.path)
		}
	}
	if h.CPUCapability != "" {
		row("CPU", "%s, %s", h.CPUCapability, plural.N(h.Threads, "thread"))
	}
	switch {
	case h.Driver == "":
		row("NVIDIA", "no driver found")
	case len(h.Cards) == 0:
		row("NVIDIA", "driver %s", h.Driver)
	default:
		row("NVIDIA", "driver %s, %s", h.Driver, strings.Join(h.Cards, ", "))
	}
	switch {
	case h.CUDA:
		row("CUDA", "loaded, %s", plural.N(len(h.GPUs), "GPU"))
	case h.CUDAReason != "":
		row("CUDA", "not loaded: %s", h.CUDAReason)
	}
	for _, g := range h.GPUs {
		row(g.Device, "%.1f of %.1f GiB free", float64(g.FreeMemory)/(1<<30), float64(g.TotalMemory)/(1<<30))
	}
	if len(h.Works) > 0 {
		row("tensors", "work on %s", strings.Join(h.Works, ", "))
	}
	if h.Error != "" {
		row("problem", "%s", h.Error)
	}
	if h.Remedy != "" {
		row("fix", "%s", h.Remedy)
	}
	return b.String()
}

// examine checks the machine, whose files are under root, and runs a test computation on every device. The error is the first thing that fails.
func examine(root string) (health, error) {
	h := health{
		Onestep: versionText(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, GPUs: []gpu{}, Works: []string{},
	}
	h.Driver, h.Cards = driver(root)
	if layer, err := csrc.Find(); err == nil {
		h.Expected, h.Layer = layer.Version, layer.Path
	}
	if err := torch.Open(); err != nil {
		var e *csrc.OpenError
		if errors.As(err, &e) {
			h.Expected, h.Layer, h.Library, h.Searched, h.Remedy = e.Want, e.Layer, e.Library, e.Searched, e.Remedy
			h.Error = oneLine(e.Reason)
			return h, errors.New("libtorch cannot be used")
		}
		h.Error = oneLine(err.Error())
		return h, err
	}
	h.Libtorch, h.Library, h.CPUCapability, h.Threads = torch.Version(), torch.LibraryPath(), torch.CPUCapability(), torch.Threads()
	h.CUDA, h.CUDAReason = torch.CUDAOpened()
	err := h.try()
	if err != nil {
		h.Error = oneLine(err.Error())
	}
	return h, err
}

// try runs a test computation on every device.
func (h *health) try() error {
	devices := []torch.Device{torch.CPU}
	for i := range torch.CUDACount() {
		devices = append(devices, torch.CUDA(i))
	}
	var errs []error
	for _, d := range devices {
		if err := add(d); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d, err))
			continue
		}
		h.Works = append(h.Works, d.String())
		if d.IsCUDA() {
			m, err := d.Memory()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", d, err))
			}
			h.GPUs = append(h.GPUs, gpu{d.String(), m.Free, m.Total})
		}
	}
	return errors.Join(errs...)
}

func add(d torch.Device) error {
	if err := d.Available(); err != nil {
		return err
	}
	return torch.Run(d, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 3)
		if sum := x.Add(s, x).Sum(s).Item(); sum != 6 {
			return fmt.Errorf("1+1 summed over 3 elements is %g, want 6", sum)
		}
		return nil
	})
}

var (
	driverVersion = regexp.MustCompile(`Kernel Module.*?\s(\d+\.[\d.]+)\s`)
	cardModel     = regexp.MustCompile(`(?m)^Model:\s*(.+?)\s*$`)
)

// driver reads the kernel's files, not CUDA: this works even when libtorch cannot use the GPUs.
func driver(root string) (version string, cards []string) {
	dir := filepath.Join(root, "proc", "driver", "nvidia")
	text, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil {
		return "", []string{}
	}
	version = "of unknown version"
	if m := driverVersion.FindSubmatch(text); m != nil {
		version = string(m[1])
	}
	cards = []string{}
	files, _ := filepath.Glob(filepath.Join(dir, "gpus", "*", "information")) // the pattern is valid
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil {
			if m := cardModel.FindSubmatch(text); m != nil {
				cards = append(cards, string(m[1]))
			}
		}
	}
	return version, cards
}
