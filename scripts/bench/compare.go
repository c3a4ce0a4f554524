package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// row is one line of the comparison. Ratio is ours/theirs for times and memory and theirs/ours for throughput, so a ratio below 1 is always
// better.
type row struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Ours   float64 `json:"ours"`
	Theirs float64 `json:"theirs"`
	Ratio  float64 `json:"ratio"`
	Target float64 `json:"target,omitempty"` // the largest ratio that meets the target; 0: no target
	More   bool    `json:"more,omitempty"`   // more is better
}

// job is a benchmark that both sides run in turn; the functions return figures by name.
type job struct {
	name         string
	ours, theirs func() (map[string]float64, error)
	figures      []figure
}

type figure struct {
	key, unit string
	more      bool // more is better
	target    float64
}

func compare(args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("compare", flag.ContinueOnError)
	peers := f.String("peers", "../shared/bench/peers", "directory of the PyTorch benchmarks")
	python := f.String("python", "python3", "Python with torch 2.11.0 and Pillow")
	onestep := f.String("onestep", "bin/onestep", "path of the onestep binary")
	rounds := f.Int("rounds", 3, "rounds in which each side runs each benchmark once")
	runs := f.Int("runs", 5, "timed runs in one process")
	only := f.String("only", "", "run only benchmarks whose names contain this")
	sd := f.String("sd", "", "model directory that the peers' sd_model.py wrote; adds the Stable Diffusion benchmarks")
	size := f.Int("size", 512, "height and width in pixels of generated images (with --sd)")
	out := f.String("json", "", "file to write the figures to, as JSON")
	quick := f.Bool("quick", false, "only a few benchmarks, once, in at most three minutes: to see what a change does")
	last := f.String("last", "", "file of an earlier run's figures, as --json wrote them, to compare ours with; it may be missing")
	if err := f.Parse(args); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(*peers, "unet_train.py")); err != nil {
		return fmt.Errorf("%w: pass the directory of the PyTorch benchmarks as --peers", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "onestep-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	b := bench{self: self, python: *python, peers: *peers, onestep: *onestep, tmp: tmp, runs: fmt.Sprint(*runs), sd: *sd, size: *size}
	jobs := b.jobs()
	if *quick {
		b.runs, *rounds = "2", 1
		jobs = b.quick()
	}
	before, err := readRows(*last)
	if err != nil {
		return err
	}
	var rows []row
	for _, j := range jobs {
		if !strings.Contains(j.name, *only) {
			continue
		}
		got, err := alternate(j, *rounds, stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", j.name, err)
		}
		rows = append(rows, got...)
	}
	fmt.Fprintf(stdout, "%s/%s, %d CPUs, %s, %s, %d rounds\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), cpu(), time.Now().Format(time.DateOnly), *rounds)
	w := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "work\tonestep\tPyTorch\tunit\tratio\ttarget\tbefore")
	for _, r := range rows {
		against := "-"
		if was := before[r.Name]; was.Ours > 0 {
			ratio := r.Ours / was.Ours
			if r.More {
				ratio = 1 / ratio
			}
			against = fmt.Sprintf("%.3f", ratio)
		}
		target := "-"
		if r.Target > 0 {
			target = fmt.Sprintf("%.2f", r.Target)
			if r.Ratio > r.Target {
				target += "  missed"
			}
		}
		fmt.Fprintf(w, "%s\t%.4g\t%.4g\t%s\t%.3f\t%s\t%s\n", r.Name, r.Ours, r.Theirs, r.Unit, r.Ratio, target, against)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if *out == "" {
		return nil
	}
	text, err := json.MarshalIndent(rows, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(text, '\n'), 0o644)
}

// readRows reads the figures of an earlier run by their names. A file that is missing, or none, has none.
func readRows(path string) (map[string]row, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rows []row
	if err := json.Unmarshal(text, &rows); err != nil {
		return nil, fmt.Errorf("%s: %w: remove it", path, err)
	}
	all := map[string]row{}
	for _, r := range rows {
		all[r.Name] = r
	}
	return all, nil
}

func cpu() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return "unknown CPU"
}

// alternate runs a benchmark rounds times on each side, in turn, and compares medians.
func alternate(j job, rounds int, stderr io.Writer) ([]row, error) {
	ours, theirs := map[string][]float64{}, map[string][]float64{}
	for i := range rounds {
		for _, side := range []struct {
			name string
			do   func() (map[string]float64, error)
			into map[string][]float64
		}{{"onestep", j.ours, ours}, {"PyTorch", j.theirs, theirs}} {
			fmt.Fprintf(stderr, "%s, round %d of %d: %s\n", j.name, i+1, rounds, side.name)
			got, err := side.do()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", side.name, err)
			}
			for k, v := range got {
				side.into[k] = append(side.into[k], v)
			}
		}
	}
	var rows []row
	for _, f := range j.figures {
		if len(ours[f.key]) == 0 || len(theirs[f.key]) == 0 {
			return nil, fmt.Errorf("one side did not report %q", f.key)
		}
		r := row{Name: j.name + " " + f.key, Unit: f.unit, Ours: median(ours[f.key]), Theirs: median(theirs[f.key]), Target: f.target, More: f.more}
		r.Ratio = r.Ours / r.Theirs
		if f.more {
			r.Ratio = 1 / r.Ratio
		}
		rows = append(rows, r)
	}
	return rows, nil
}

type bench struct {
	self, python, peers, onestep, tmp, runs string

	sd   string // directory of a Stable Diffusion model; "": none
	size int    // height and width of its images in pixels
}

func (b bench) jobs() []job {
	jobs := []job{
		{"op", b.here("work", "ops", "--runs", b.runs), b.peerOps(), []figure{
			{"add/no_grad", "us", false, 0.7}, {"add/grad", "us", false, 0.7}, {"add/fwd_bwd", "us", false, 0.7},
			{"matmul64/no_grad", "us", false, 0.7}, {"matmul64/fwd_bwd", "us", false, 0.7},
			{"chain10/fwd_bwd", "us", false, 0.7}, {"view/no_grad", "us", false, 0.7}, {"item/no_grad", "us", false, 0.7},
			{"silu64/no_grad", "us", false, 0}, {"conv2d/no_grad", "us", false, 0}, {"conv2d/fwd_bwd", "us", false, 0},
		}},
		{"train", b.here("work", "train", "--runs", b.runs), b.peerTrain("eager"), step(0.8)},
		{"train bf16", b.here("work", "train", "--precision", "bf16", "--runs", b.runs), b.peerTrain(halves...), step(0.85)},
		{"train against compiled", b.here("work", "train", "--runs", b.runs), b.peerTrain("compile"), step(0.85)},
		{"first image", b.firstImage(), b.peerFirstImage(), []figure{{"seconds", "s", false, 0.3}}},
	}
	for _, batch := range []string{"1", "32"} {
		for _, p := range []struct {
			name     string
			variants []string
		}{{"f32", []string{"eager"}}, {"bf16", halves}} {
			jobs = append(jobs, job{"sample batch " + batch + " " + p.name,
				b.here("work", "sample", "--batch", batch, "--precision", p.name, "--runs", b.runs), b.peerSample(batch, p.variants...), []figure{
					{"consistency_1", "images/s", true, 0.75}, {"consistency_4", "images/s", true, 0.75}, {"peak_rss_mib", "MiB", false, 1},
				}})
		}
	}
	for _, name := range []string{"ct", "cd", "ect", "scd"} {
		jobs = append(jobs, job{"step of " + name, b.here("work", name, "--runs", b.runs), b.peerMethod(name, "eager"), step(0.85)})
	}
	for _, name := range []string{"ct", "cd", "ect"} { // PyTorch's forward-mode derivatives do not go through autocast
		jobs = append(jobs, job{"step of " + name + " bf16", b.here("work", name, "--precision", "bf16", "--runs", b.runs), b.peerMethod(name, halves...), step(0.85)})
	}
	jobs = append(jobs, b.lcmLoRAJobs()...)
	jobs = append(jobs, b.serveJobs()...)
	if b.sd != "" {
		jobs = append(jobs, b.sdJobs()...)
	}
	return jobs
}

// quick are the benchmarks of a change: a step in both types, and small operators.
func (b bench) quick() []job {
	return []job{
		{"op", b.here("work", "ops", "--runs", b.runs), b.peerOps(), []figure{
			{"add/no_grad", "us", false, 0}, {"add/fwd_bwd", "us", false, 0}, {"matmul64/no_grad", "us", false, 0}, {"silu64/no_grad", "us", false, 0},
		}},
		{"train", b.here("work", "train", "--runs", b.runs), b.peerTrain("eager"), step(0.8)},
		{"train bf16", b.here("work", "train", "--precision", "bf16", "--runs", b.runs), b.peerTrain("bf16_channels_last"), step(0.85)},
	}
}

// halves are PyTorch's variants in bfloat16, of which the faster one counts.
var halves = []string{"bf16", "bf16_channels_last"}

// step is the figures of a training step.
func step(target float64) []figure {
	return []figure{{"ms_per_step", "ms", false, target}, {"peak_rss_mib", "MiB", false, 1}}
}

// fastest runs each variant and returns the figures of the one for which better holds against all others.
func fastest(variants []string, run func(variant string) (map[string]float64, error), better func(a, b map[string]float64) bool) func() (map[string]float64, error) {
	return func() (best map[string]float64, err error) {
		for _, v := range variants {
			got, err := run(v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v, err)
			}
			if best == nil || better(got, best) {
				best = got
			}
		}
		return best, nil
	}
}

func quicker(a, b map[string]float64) bool { return a["ms_per_step"] < b["ms_per_step"] }

// peerMethod runs train_methods.py from this repository; its network is the peers'.
func (b bench) peerMethod(name string, variants ...string) func() (map[string]float64, error) {
	return fastest(variants, func(variant string) (map[string]float64, error) {
		return b.figures(filepath.Join("scripts", "bench", "train_methods.py"), name, "--peers", b.peers, "--runs", b.runs, "--variant", variant)()
	}, quicker)
}

// figures runs a Python script that prints its figures as JSON.
func (b bench) figures(script string, args ...string) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		text, err := output(b.python, append([]string{script}, args...)...)
		if err != nil {
			return nil, err
		}
		var got map[string]float64
		return got, json.Unmarshal(text, &got)
	}
}

// output runs a program and returns what it printed.
func output(name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lines[len(lines)-1])
	}
	return out, nil
}

func (b bench) here(args ...string) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		text, err := output(b.self, args...)
		if err != nil {
			return nil, err
		}
		var got map[string]float64
		return got, json.Unmarshal(text, &got)
	}
}

// peer runs one of the PyTorch benchmarks and decodes its JSON.
func (b bench) peer(into any, script string, args ...string) error {
	text, err := output(b.python, append([]string{filepath.Join(b.peers, script)}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func (b bench) peerOps() func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		var r struct {
			Threads map[string]struct {
				Python map[string]map[string]struct {
					Us float64 `json:"us"`
				} `json:"python"`
			} `json:"threads"`
		}
		if err := b.peer(&r, "ops_overhead.py", "--threads", "1", "--runs", b.runs, "--patience", "2"); err != nil {
			return nil, err
		}
		got := map[string]float64{}
		for name, kinds := range r.Threads["1"].Python {
			for kind, v := range kinds {
				got[name+"/"+kind] = v.Us
			}
		}
		return got, nil
	}
}

func (b bench) peerTrain(variants ...string) func() (map[string]float64, error) {
	return fastest(variants, func(variant string) (map[string]float64, error) {
		var r map[string]any
		if err := b.peer(&r, "unet_train.py", "--case", "cifar", "--variant", variant, "--runs", b.runs); err != nil {
			return nil, err
		}
		got := map[string]float64{}
		for _, k := range []string{"ms_per_step", "peak_rss_mib"} {
			got[k], _ = r[k].(float64)
		}
		return got, nil
	}, quicker)
}

func (b bench) peerSample(batch string, variants ...string) func() (map[string]float64, error) {
	return fastest(variants, func(variant string) (map[string]float64, error) {
		type timing struct {
			Rate float64 `json:"images_per_s"`
		}
		var r struct {
			One  timing  `json:"consistency_1"`
			Four timing  `json:"consistency_4"`
			Peak float64 `json:"peak_rss_mib"`
		}
		if err := b.peer(&r, "unet_sample.py", "--case", "cifar", "--variant", variant, "--batch", batch, "--runs", b.runs); err != nil {
			return nil, err
		}
		return map[string]float64{"consistency_1": r.One.Rate, "consistency_4": r.Four.Rate, "peak_rss_mib": r.Peak}, nil
	}, func(a, b map[string]float64) bool { return a["consistency_4"] > b["consistency_4"] })
}

// firstImage times a whole process, from its start to the written image.
func (b bench) firstImage() func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		model := filepath.Join(b.tmp, "model.safetensors")
		if _, err := os.Stat(model); err != nil {
			if _, err := output(b.self, "work", "sample", "--save", model); err != nil {
				return nil, err
			}
		}
		return clock(b.onestep, "sample", "--model", model, "--steps", "1", "--n", "1", "--seed", "1", "--threads", "2",
			"--out", filepath.Join(b.tmp, fmt.Sprintf("ours-%d.png", time.Now().UnixNano())))
	}
}

func (b bench) peerFirstImage() func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		script, weights := filepath.Join("scripts", "bench", "first_image.py"), filepath.Join(b.tmp, "peer.pt")
		if _, err := os.Stat(weights); err != nil {
			if _, err := output(b.python, script, b.peers, weights, "--save"); err != nil {
				return nil, err
			}
		}
		return clock(b.python, script, b.peers, weights, filepath.Join(b.tmp, "theirs.png"))
	}
}

func clock(name string, args ...string) (map[string]float64, error) {
	cmd := exec.Command(name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	t0 := time.Now()
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, errs.String())
	}
	got := map[string]float64{"seconds": time.Since(t0).Seconds()}
	if used, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		got["peak_rss_mib"] = float64(used.Maxrss) / 1024
	}
	return got, nil
}
