// Command bench compares the speed and memory of onestep and PyTorch on the same work, in alternation, and prints ratios.
//
//	bench compare --peers DIR [--python PYTHON] [--onestep BIN] [--sd DIR] [--rounds N] [--only NAME] [--json FILE] [--quick] [--last FILE]
//	bench work ops|train|sample|sd [--case cifar|mnist] [--batch N] [--precision f32|bf16] [--runs N] [--threads N] [--device cpu|cuda]
//	bench gpu [--peers DIR] [--python PYTHON] [--json FILE] [--text FILE] [--limit TIME]
//	bench grow --peers DIR [--python PYTHON] [--json FILE]
//	bench load [--onestep BIN] [--model pixels|sd|PATH] [--requests N] [--clients N] [--steps N] [--sizes WIDTHxHEIGHT,...] [--threads N]
//
// compare runs each benchmark in its own process, ours and the peer's in turn, and takes medians over the rounds.
// work runs one of our benchmarks in this process and prints its figures as JSON; compare calls it.
// gpu runs the benchmarks of a GPU, each within a time limit.
// grow measures how time and memory grow with batch, resolution, steps and parameters.
// load sends requests to onestep serve and prints its memory meanwhile.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// As in the tool, all work is on the main thread: libtorch keeps a team of workers for each thread that calls it, and the workers of several teams
// sleep after every operator.
func init() { runtime.LockOSThread() }

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("want compare, work, gpu, grow or load, got nothing")
	}
	switch args[0] {
	case "compare":
		return compare(args[1:], stdout, stderr)
	case "work":
		return work(args[1:], stdout)
	case "gpu":
		return gpu(args[1:], stdout, stderr)
	case "grow":
		return grow(args[1:], stderr)
	case "load":
		return load(args[1:], stdout)
	}
	return fmt.Errorf("want compare, work, gpu, grow or load, got %q", args[0])
}

func work(args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("work: want ops, train, ct, cd, ect, scd, sample, sd, lora or lcm-lora, got nothing")
	}
	f := flag.NewFlagSet("work", flag.ContinueOnError)
	o := options{}
	f.StringVar(&o.name, "case", "cifar", "cifar (32x32x3, batch 32), mnist (28x28x1, batch 64) or tiny (8x8x3, batch 2, for tests)")
	f.IntVar(&o.batch, "batch", 0, "batch size; 0: that of the case")
	f.IntVar(&o.resolution, "resolution", 0, "height and width of the images in pixels (with train or sample); 0: that of the case")
	f.IntVar(&o.channels, "channels", 64, "channels of the network's first level (with train or sample)")
	f.IntVar(&o.steps, "steps", 0, "sampling steps (with sample); 0: 1 and then 4")
	f.IntVar(&o.runs, "runs", 5, "timed runs")
	f.DurationVar(&o.least, "least", 2*time.Second, "least time for which short work is repeated")
	f.IntVar(&o.threads, "threads", 2, "threads per operator")
	f.StringVar(&o.model, "model", "", "directory of a Stable Diffusion model (with sd or lora), or file of its U-Net (with lcm-lora)")
	f.StringVar(&o.precision, "precision", "f32", "type in which the network computes: f32, bf16 or f16 (with train, ct, cd, ect, scd or sample)")
	f.BoolVar(&o.plain, "plain", false, "libtorch's operators in place of this project's own")
	f.StringVar(&o.dtype, "dtype", "f32", "data type of weights and computation: f32 or bf16 (with sd, lora or lcm-lora; there f16, too)")
	f.IntVar(&o.size, "size", 512, "height and width of images in pixels (with sd, lora or lcm-lora)")
	f.BoolVar(&o.checkpointing, "checkpointing", false, "gradient checkpointing (with lcm-lora)")
	f.StringVar(&o.lora, "lora", "", "adapter file for the model (with lora)")
	device := f.String("device", "cpu", "cpu, cuda or cuda:N (with train, ct, cd, ect, scd, sample or sd)")
	f.BoolVar(&o.graphs, "cuda-graphs", false, "CUDA graphs (with sd)")
	f.StringVar(&o.save, "save", "", "path to write the network's model file to instead of measuring (with sample or lcm-lora)")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	works := map[string]func(options) (any, error){"ops": ops, "train": train, "sample": sample, "sd": drawSD, "lora": adaptSD, "lcm-lora": lcmLoRA,
		"ct": method("ct"), "cd": method("cd"), "ect": method("ect"), "scd": method("scd")}
	do, ok := works[args[0]]
	if !ok {
		return fmt.Errorf("work: want ops, train, ct, cd, ect, scd, sample, sd, lora or lcm-lora, got %q", args[0])
	}
	if _, ok := training.DTypeNamed(o.precision); !ok {
		return fmt.Errorf("work: --precision: want f32, bf16 or f16, got %q", o.precision)
	}
	var err error
	if o.device, err = torch.ParseDevice(*device); err != nil {
		return fmt.Errorf("work: --device: %w", err)
	}
	torch.SetFused(!o.plain)
	got, err := do(o)
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(got)
}

type options struct {
	name                 string
	batch, runs, threads int

	resolution, channels, steps int
	save                        string
	model, dtype, lora          string
	precision                   string
	plain                       bool
	size                        int
	checkpointing               bool
	device                      torch.Device
	graphs                      bool
	least                       time.Duration
}
