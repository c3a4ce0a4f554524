package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// point is the cost of some work at one size of the network and of the images.
type point struct {
	Work string `json:"work"` // train: a step of improved consistency training; sample

	Batch      int `json:"batch"`
	Resolution int `json:"resolution"`
	Channels   int `json:"channels"` // of the network's first level
	Steps      int `json:"steps"`    // of sampling; 0 for training

	Parameters float64 `json:"parameters"`
	GFLOP      float64 `json:"gflop"` // of matrix products, convolutions and attention as their definitions count them
	Ours       cost    `json:"onestep"`
	Theirs     cost    `json:"pytorch"`
}

type cost struct {
	MS  float64 `json:"ms"`
	MiB float64 `json:"peak_mib"`
}

// growth is what grow writes.
type growth struct {
	Machine string  `json:"machine"`
	Roof    float64 `json:"roof_gflops"` // the fastest matrix product of PyTorch
	Points  []point `json:"points"`
}

// points are the sizes that grow measures: each axis on its own, from a base that all share.
func points() (all []point) {
	train := point{Work: "train", Batch: 8, Resolution: 32, Channels: 64}
	sample := train
	sample.Work, sample.Steps = "sample", 1
	add := func(values []int, set func(p *point, v int), bases ...point) {
		for _, p := range bases {
			for _, v := range values {
				set(&p, v)
				if !slices.Contains(all, p) {
					all = append(all, p)
				}
			}
		}
	}
	add([]int{1, 2, 4, 8, 16, 32, 64}, func(p *point, v int) { p.Batch = v }, train, sample)
	add([]int{16, 32, 64, 128}, func(p *point, v int) { p.Resolution = v }, train, sample)
	add([]int{32, 64, 96, 128, 192}, func(p *point, v int) { p.Channels = v }, train, sample)
	add([]int{1, 2, 4, 8, 16}, func(p *point, v int) { p.Steps = v }, sample)
	return all
}

// grow measures how time and memory grow with the work, on both sides in turn, and writes the points to a JSON file, from which
// scripts/plot_growth.py draws charts. Points that the file has are not measured again.
func grow(args []string, stderr io.Writer) error {
	f := flag.NewFlagSet("grow", flag.ContinueOnError)
	peers := f.String("peers", "../shared/bench/peers", "directory of the PyTorch benchmarks")
	python := f.String("python", "python3", "Python with torch 2.11.0")
	runs := f.Int("runs", 3, "timed runs in one process")
	out := f.String("json", filepath.Join("docs", "results", "growth.json"), "file of the points")
	if err := f.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	got := growth{Machine: cpu()}
	text, err := os.ReadFile(*out)
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", *out, err)
	}
	script := filepath.Join("scripts", "bench", "grow_peer.py")
	b := bench{self: self, python: *python, peers: *peers}
	if got.Roof == 0 {
		roof, err := b.figures(script, "roof", "--peers", *peers)()
		if err != nil {
			return err
		}
		got.Roof = roof["gflops"]
	}
	for _, p := range points() {
		if slices.ContainsFunc(got.Points, p.same) {
			continue
		}
		fmt.Fprintf(stderr, "%s, batch %d, %d pixels, %d channels, %d steps\n", p.Work, p.Batch, p.Resolution, p.Channels, p.Steps)
		size := []string{p.Work, "--batch", strconv.Itoa(p.Batch), "--resolution", strconv.Itoa(p.Resolution), "--channels", strconv.Itoa(p.Channels), "--runs", strconv.Itoa(*runs)}
		if p.Steps > 0 {
			size = append(size, "--steps", strconv.Itoa(p.Steps))
		}
		ours, err := b.here(append([]string{"work"}, size...)...)()
		if err != nil {
			return err
		}
		theirs, err := b.figures(script, append(size, "--peers", *peers)...)()
		if err != nil {
			return err
		}
		p.Ours, p.Theirs = cost{ours["ms_per_step"], ours["peak_rss_mib"]}, cost{theirs["ms"], theirs["peak_rss_mib"]}
		if p.Steps > 0 {
			p.Ours.MS = 1e3 * float64(p.Batch) / ours[fmt.Sprintf("consistency_%d", p.Steps)]
		}
		p.GFLOP, p.Parameters = theirs["gflop"], theirs["parameters"]
		got.Points = append(got.Points, p)
		text, err := json.MarshalIndent(got, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(*out, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// same reports whether a measured point is of p's sizes.
func (p point) same(m point) bool {
	m.Parameters, m.GFLOP, m.Ours, m.Theirs = 0, 0, cost{}, cost{}
	return m == p
}
