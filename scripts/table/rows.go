package main

import (
	"fmt"
	"slices"
)

// run is one training.
type run struct {
	name string
	args []string // options of onestep train; those that begin with @ are the paths of other runs' last snapshots
	half bool     // of the steps of the others: the first of two stages

	authors bool // trained by the code of ECT's authors, in PyTorch
}

// authors is the name of that run.
const authors = "ect-authors"

// row is a way to generate images.
type row struct {
	name, run   string
	args        []string // options of onestep sample and eval
	step        int      // of the snapshot; 0: the last
	evaluations int      // of the network, per image
	published   string   // FID and its source; empty: there is none for this number of evaluations
}

// part is a data set with its network and its rows.
type part struct {
	name, data, title string

	common []string // options of all runs
	steps  int      // of a run
	runs   []run
	rows   []row

	byLoss bool // the runs are compared by their losses, and have no curves of distances
}

func fashion() part {
	return part{
		name: "fashion-mnist", data: "fashion-mnist", title: "Fashion-MNIST, 28×28",
		common: []string{"--classes", "--channels", "16", "--mult", "1,2,4", "--blocks", "1", "--batch", "64", "--lr", "0.002"},
		steps:  2800,
		runs: []run{
			{name: "edm", args: []string{"--method", "edm"}},
			{name: "ect", args: []string{"--method", "ect", "--init", "@edm"}},
			{name: authors, args: []string{"@edm"}, authors: true},
			{name: "ict", args: []string{"--method", "ict"}},
			{name: "cd", args: []string{"--method", "cd", "--teacher", "@edm"}},
			{name: "pd", args: []string{"--method", "pd", "--teacher", "@edm"}},
			{name: "flow", args: []string{"--method", "flow"}},
			{name: "reflow", args: []string{"--method", "flow", "--teacher", "@flow"}},
			{name: "meanflow", args: []string{"--method", "meanflow"}},
			{name: "soflow", args: []string{"--method", "soflow"}},
			{name: "sct", args: []string{"--method", "sct", "--step", "0.005"}},
			{name: "scd", args: []string{"--method", "scd", "--step", "0.005", "--teacher", "@edm"}},
			{name: "ddpm", args: []string{"--method", "ddpm"}},
			{name: "ct", args: []string{"--method", "ct"}},
			{name: "stablect", args: []string{"--method", "stablect", "--init", "@edm"}},
			{name: "ctm", args: []string{"--method", "ctm", "--teacher", "@edm"}},
			{name: "cmt", args: []string{"--method", "cmt", "--teacher", "@edm"}, half: true},
			{name: "cmt-ect", args: []string{"--method", "ect", "--init", "@cmt", "--stages", "1", "--q", "256"}, half: true},
			{name: "alphaflow", args: []string{"--method", "alphaflow"}},
			{name: "imf", args: []string{"--method", "imf"}},
			{name: "msct", args: []string{"--method", "msct", "--init", "@edm", "--segments", "2"}},
			{name: "mscd", args: []string{"--method", "mscd", "--teacher", "@edm", "--segments", "2"}},
		},
		rows: slices.Concat(
			[]row{
				{"EDM, Heun", "edm", sampler("heun", "18"), 0, 35, "1.97, Karras et al. 2022"},
				{"EDM, DPM-Solver++ (2M)", "edm", sampler("dpmpp_2m", "15"), 0, 15, "2.91 in 10, Lu et al. 2022"},
				{"EDM, Euler", "edm", sampler("euler", "4"), 0, 4, ""},
				{"EDM, Euler", "edm", sampler("euler", "2"), 0, 2, ""},
				{"DDPM, ancestral", "ddpm", sampler("ddpm", "1000"), 0, 1000, "3.17, Ho et al. 2020"},
				{"DDPM, DDIM", "ddpm", sampler("ddim", "50"), 0, 50, "4.67, Song et al. 2021"},
				{"rectified flow, Heun", "flow", sampler("flow_heun", "18"), 0, 35, ""},
				{"rectified flow, Euler", "flow", sampler("flow_euler", "2"), 0, 2, ""},
				{"its reflow, Euler", "reflow", sampler("flow_euler", "2"), 0, 2, ""},
				{"its reflow, Euler", "reflow", sampler("flow_euler", "1"), 0, 1, "4.85 with distillation, Liu et al. 2022"},
				{"progressive distillation", "pd", nil, 1200, 4, "3.00, Salimans & Ho 2022"},
				{"progressive distillation", "pd", nil, 2000, 2, "4.51, Salimans & Ho 2022; 5.58, Song et al. 2023"},
				{"progressive distillation", "pd", nil, 0, 1, "9.12, Salimans & Ho 2022; 8.34, Song et al. 2023"},
			},
			fewStep("CD", "cd", "3.55, Song et al. 2023", "2.93, Song et al. 2023"),
			fewStep("CT", "ct", "8.70, Song et al. 2023", "5.83, Song et al. 2023"),
			fewStep("iCT", "ict", "2.83, Song & Dhariwal 2023", "2.46, Song & Dhariwal 2023"),
			fewStep("ECT", "ect", "3.60, Geng et al. 2024", "2.11, Geng et al. 2024"),
			fewStep("ECT, its authors' loss in PyTorch", authors, "", ""),
			fewStep("stable ECT", "stablect", "", ""),
			fewStep("CMT, then ECT", "cmt-ect", "2.74, Hu et al. 2025", "1.97, Hu et al. 2025"),
			fewStep("sCT, finite differences", "sct", "2.85, Lu & Song 2024", "2.06, Lu & Song 2024"),
			fewStep("sCD, finite differences", "scd", "3.66, Lu & Song 2024", "2.52, Lu & Song 2024"),
			[]row{{"CTM", "ctm", []string{"--steps", "1"}, 0, 1, "1.98 with a GAN, Kim et al. 2024"}},
			fewStep("MeanFlow", "meanflow", "2.92, Geng et al. 2025", ""),
			fewStep("SoFlow", "soflow", "2.86, Luo et al. 2025", "2.28, Luo et al. 2025"),
			fewStep("α-Flow", "alphaflow", "", ""),
			fewStep("iMF", "imf", "", ""),
			[]row{
				{"multistep CT, 2 segments", "msct", []string{"--steps", "2"}, 0, 2, ""},
				{"multistep CD, 2 segments", "mscd", []string{"--steps", "2"}, 0, 2, ""},
			},
		),
	}
}

func cifar() part {
	all := fashion()
	all.name, all.data, all.title = "cifar10", "cifar10", "CIFAR-10, 32×32"
	all.common = []string{"--classes", "--flip", "--channels", "32", "--blocks", "1", "--batch", "64", "--lr", "0.001"}
	// The six are the teacher and the best five of Fashion-MNIST in one step.
	best := []string{"edm", "ect", "stablect", "cd", "scd", "ict"}
	all.runs = slices.DeleteFunc(all.runs, func(r run) bool { return !slices.Contains(best, r.name) })
	all.rows = slices.DeleteFunc(all.rows, func(r row) bool { return !slices.Contains(best, r.run) })
	return all
}

// precision compares training in bfloat16 with float32, two seeds each.
func precision() part {
	p := part{byLoss: true, name: "precision", data: "fashion-mnist", title: "Fashion-MNIST, 28×28", common: fashion().common, steps: 2100}
	for _, method := range []string{"edm", "ict"} {
		args := sampler("heun", "18")
		evaluations := 35
		if method != "edm" {
			args, evaluations = []string{"--steps", "1"}, 1
		}
		for _, dtype := range []string{"f32", "bf16"} {
			for _, seed := range []string{"1", "2"} {
				name := fmt.Sprintf("%s-%s-%s", method, dtype, seed)
				p.runs = append(p.runs, run{name: name, args: []string{"--method", method, "--precision", dtype, "--seed", seed}})
				p.rows = append(p.rows, row{fmt.Sprintf("%s, %s, seed %s", method, dtype, seed), name, args, 0, evaluations, ""})
			}
		}
	}
	return p
}

func sampler(name, steps string) []string { return []string{"--sampler", name, "--steps", steps} }

// fewStep are the rows of a consistency model in one and in two steps.
func fewStep(name, run, one, two string) []row {
	return []row{
		{name, run, []string{"--steps", "1"}, 0, 1, one},
		{name, run, []string{"--steps", "2"}, 0, 2, two},
	}
}
