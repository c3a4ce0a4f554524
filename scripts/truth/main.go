// Truth trains every method on a distribution whose exact denoiser and consistency function are known, and writes the errors of the trained
// functions to docs/results/truth.md. Each result is saved at once, so the same command continues after an interruption.
//
//	go run ./scripts/truth [-seeds 3] [-only NAME] [-out docs/results/truth]
//	go run ./scripts/truth -study      writes docs/results/meanflow.md: where MeanFlow's error in two dimensions comes from
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/torch"
)

// full is the training budget of the published table.
var full = budget{steps: 4000, batch: 512, lr: 3e-3, ema: 0.995}

// result is a line of the results file.
type result struct {
	Method  string
	Seed    uint64
	Seconds float64
	measured
}

func main() {
	seeds := flag.Int("seeds", 3, "number of seeds, with which each method is trained")
	only := flag.String("only", "", "train only methods whose names contain this")
	out := flag.String("out", filepath.Join("docs", "results", "truth"), "path of the table (.md) and the results (.jsonl), without extension")
	jobs := flag.Int("jobs", 1, "number of seeds to train in parallel")
	study := flag.Bool("study", false, "study where MeanFlow's error comes from instead")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if *study {
		err = studyMeanFlow(ctx, filepath.Join(filepath.Dir(*out), "meanflow.md"))
	} else {
		err = run(ctx, *seeds, *jobs, *only, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "truth:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, seeds, jobs int, only, out string) error {
	if err := torch.SetThreads(1); err != nil {
		return err
	}
	results, err := read(out + ".jsonl")
	if err != nil {
		return err
	}
	file, err := os.OpenFile(out+".jsonl", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	done := map[string]bool{}
	for _, r := range results {
		done[fmt.Sprint(r.Method, r.Seed)] = true
	}
	var mutex sync.Mutex
	var group sync.WaitGroup
	var failed error
	tickets := make(chan struct{}, jobs)
	for seed := range uint64(seeds) {
		group.Go(func() {
			tickets <- struct{}{}
			defer func() { <-tickets }()
			t := newToy(full, seed)
			defer t.close()
			for _, m := range methods() {
				if done[fmt.Sprint(m.name, seed)] || !strings.Contains(m.name, only) {
					continue
				}
				r, err := learn(ctx, t, m)
				mutex.Lock()
				if err == nil {
					err = json.NewEncoder(file).Encode(r)
					results = append(results, r)
					fmt.Printf("%s, seed %d: %.0f s, RMSE %.3f\n", m.name, seed, r.Seconds, r.RMSE)
				}
				if err != nil {
					failed = errors.Join(failed, err)
				}
				mutex.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	if failed != nil {
		return failed
	}
	return os.WriteFile(out+".md", []byte(table(results, seeds)+machine(results)), 0o644)
}

// machine describes the machine and the training time.
func machine(results []result) string {
	cpu := "a " + runtime.GOARCH + " processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				cpu = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
				break
			}
		}
	}
	sum := 0.0
	for _, r := range results {
		sum += r.Seconds
	}
	return fmt.Sprintf("\nSeeds from 0, one thread of %s, on average %.0f s per method and seed (the machine was shared).\n", cpu, sum/float64(max(1, len(results))))
}

// learn trains and measures one method.
func learn(ctx context.Context, t *toy, m method) (result, error) {
	began := time.Now()
	l, err := t.taught(ctx, m.name)
	if err != nil {
		return result{}, err
	}
	seconds := time.Since(began).Seconds()
	got, err := t.measure(ctx, m, l.f, 4000)
	return result{m.name, t.seed, seconds, got}, err
}

// read returns the results of earlier runs.
func read(path string) ([]result, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []result
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: %w; remove the file to train again", path, err)
		}
		out = append(out, r)
	}
	return out, nil
}
