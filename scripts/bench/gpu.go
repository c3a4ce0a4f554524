package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onestep-go/onestep/internal/atomicfile"
)

// imageFLOP are the floating-point operations of a 512×512 image of Stable Diffusion 1.5 in 4 steps without guidance, by PyTorch's counter.
const imageFLOP = 5.7e12

// gpuWork is one command and what it reported.
type gpuWork struct {
	Name    string             `json:"name"`
	Command []string           `json:"command"`
	Seconds float64            `json:"seconds"` // that the command took
	Figures map[string]float64 `json:"figures,omitempty"`
	Error   string             `json:"error,omitempty"`
}

// gpuRow is a ratio of two works' figures.
type gpuRow struct {
	Name   string  `json:"name"`
	Ours   float64 `json:"ours"`
	Theirs float64 `json:"theirs"`
	Unit   string  `json:"unit"`
	Ratio  float64 `json:"ratio"`
	Target float64 `json:"target"`
}

// gpu runs the benchmarks of a GPU. A work that fails or takes too long is reported, and the others run.
func gpu(args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("gpu", flag.ContinueOnError)
	f.SetOutput(stderr)
	var (
		device  = f.String("device", "cuda", "cuda or cuda:N; with cpu and --tiny the benchmark tests itself")
		python  = f.String("python", "python3", "Python with PyTorch, and diffusers for images")
		peers   = f.String("peers", "", "directory of edm_unet.py and unet_train.py; without it training has no ratio")
		scripts = f.String("scripts", filepath.Join("scripts", "bench"), "directory of gpu.py")
		model   = f.String("model", "", "Stable Diffusion 1.5 directory, such as fullsize writes; without it there are no images")
		size    = f.Int("size", 512, "height and width of images in pixels")
		tiny    = f.Bool("tiny", false, "smallest sizes, to try the benchmark")
		limit   = f.Duration("limit", 2*time.Minute, "time limit of each command")
		asJSON  = f.String("json", "", "file to write the figures to")
		asText  = f.String("text", "", "file to write the table to, besides standard output")
	)
	if err := f.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	batch, runs, many, few, least := "512", "10", "9998", "998", "2s"
	if *tiny {
		batch, runs, many, few, least = "2", "1", "8", "4", "0s"
	}
	ours := func(work string, more ...string) []string {
		return append([]string{self, "work", work, "--device", *device, "--runs", runs, "--least", least}, more...)
	}
	theirs := func(more ...string) []string {
		return append([]string{*python, filepath.Join(*scripts, "gpu.py"), "--device", *device, "--runs", runs}, more...)
	}
	flat := func(runs string) []string {
		return append(ours("train", "--case", "tiny"), "--runs", runs)
	}
	works := []gpuWork{
		{Name: "roof", Command: theirs("roof")},
		{Name: "train", Command: ours("train", "--batch", batch, "--precision", "bf16")},
	}
	if *tiny {
		works[1].Command = append(works[1].Command, "--case", "tiny")
	}
	if *peers != "" {
		for _, variant := range []string{"eager", "channels-last"} {
			works = append(works, gpuWork{Name: "train " + variant, Command: theirs("train", "--peers", *peers, "--batch", batch, "--variant", variant)})
		}
	}
	works = append(works, gpuWork{Name: "1,000 steps", Command: flat(few)}, gpuWork{Name: "10,000 steps", Command: flat(many)})
	if *model != "" {
		at := []string{"--model", *model, "--dtype", "bf16", "--size", fmt.Sprint(*size)}
		eight := append(at[:len(at):len(at)], "--batch", "8")
		works = append(works,
			gpuWork{Name: "image", Command: ours("sd", at...)},
			gpuWork{Name: "image graphs", Command: ours("sd", append(at, "--cuda-graphs")...)},
			gpuWork{Name: "image eager", Command: theirs(append([]string{"sd"}, at...)...)},
			gpuWork{Name: "image channels-last", Command: theirs(append([]string{"sd", "--variant", "channels-last"}, at...)...)},
			gpuWork{Name: "8 images", Command: ours("sd", append(eight, "--cuda-graphs")...)},
			gpuWork{Name: "8 images eager", Command: theirs(append([]string{"sd"}, eight...)...)},
		)
		if !*tiny { // compiling takes a minute
			works = append(works, gpuWork{Name: "image compile", Command: theirs(append([]string{"sd", "--compile"}, at...)...)})
		}
	}
	for i := range works {
		works[i].run(*limit)
		w := works[i]
		fmt.Fprintf(stderr, "%s: %.0f s %s\n", w.Name, w.Seconds, w.Error)
		// What was measured stays if the machine is taken away.
		if err := writeGPU(*asJSON, *asText, works[:i+1], gpuRows(works[:i+1])); err != nil {
			return err
		}
	}
	_, err = io.WriteString(stdout, gpuText(works, gpuRows(works)))
	return err
}

// run runs the command and reads its figures from its last line.
func (w *gpuWork) run(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.Command[0], w.Command[1:]...)
	var errs strings.Builder
	cmd.Stderr = &errs
	cmd.WaitDelay = 5 * time.Second
	start := time.Now()
	out, err := cmd.Output()
	w.Seconds = time.Since(start).Seconds()
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("stopped after %s", limit)
	case err == nil:
		err = json.Unmarshal(out, &w.Figures)
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		w.Error = strings.TrimSpace(fmt.Sprintf("%v: %s", err, lines[len(lines)-1]))
	}
}

func gpuRows(works []gpuWork) (rows []gpuRow) {
	figure := func(work, key string) float64 {
		for _, w := range works {
			if w.Name == work {
				return w.Figures[key]
			}
		}
		return 0
	}
	add := func(name string, ours, theirs float64, unit string, target float64) {
		if ours > 0 && theirs > 0 {
			rows = append(rows, gpuRow{name, ours, theirs, unit, ours / theirs, target})
		}
	}
	train := figure("train", "ms_per_step")
	add("training step, bfloat16, batch 512, beside autocast", train, figure("train eager", "ms_per_step"), "ms", 0.7)
	add("the same beside autocast in channels-last", train, figure("train channels-last", "ms_per_step"), "ms", 0)
	add("GPU memory after 10,000 steps, beside 1,000", figure("10,000 steps", "gpu_mib"), figure("1,000 steps", "gpu_mib"), "MiB", 1)
	image := figure("image graphs", "image")
	add("image of Stable Diffusion 1.5, beside diffusers", image, figure("image eager", "image"), "s", 0.6)
	add("the same beside diffusers in channels-last", image, figure("image channels-last", "image"), "s", 0)
	add("the same beside torch.compile", image, figure("image compile", "image"), "s", 0.9)
	add("the same without CUDA graphs, beside diffusers", figure("image", "image"), figure("image eager", "image"), "s", 0)
	eight := figure("8 images", "image")
	add("8 images together, beside diffusers", eight, figure("8 images eager", "image"), "s", 0)
	if roof := figure("roof", "tflops"); eight > 0 && roof > 0 {
		// The other way round: 45% of the rate of matrix products is 1/0.45 of the time that they would take.
		add("8 images together, beside the time of as many operations at the rate of matrix products", eight, 8*imageFLOP/(roof*1e12), "s", 1/0.45)
	}
	return rows
}

func gpuText(works []gpuWork, rows []gpuRow) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "work\tonestep\tother\tunit\tratio\ttarget")
	for _, r := range rows {
		target := "-"
		if r.Target > 0 {
			target = fmt.Sprintf("%.2f", r.Target)
		}
		fmt.Fprintf(w, "%s\t%.4g\t%.4g\t%s\t%.3f\t%s\n", r.Name, r.Ours, r.Theirs, r.Unit, r.Ratio, target)
	}
	w.Flush()
	for _, w := range works {
		if w.Error != "" {
			fmt.Fprintf(&b, "%s: failed: %s\n", w.Name, w.Error)
		}
	}
	return b.String()
}

func writeGPU(asJSON, asText string, works []gpuWork, rows []gpuRow) error {
	var failed error
	if asJSON != "" {
		text, err := json.MarshalIndent(struct {
			Rows  []gpuRow  `json:"rows"`
			Works []gpuWork `json:"works"`
		}{rows, works}, "", " ")
		failed = errors.Join(err, atomicfile.WriteBytes(asJSON, atomicfile.Options{Overwrite: true}, append(text, '\n')))
	}
	if asText != "" {
		failed = errors.Join(failed, atomicfile.WriteBytes(asText, atomicfile.Options{Overwrite: true}, []byte(gpuText(works, rows))))
	}
	return failed
}
