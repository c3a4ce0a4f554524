package main

import (
	"fmt"
	"strings"
)

// text is the table in Markdown.
func (t *table) text(lines []*line) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | evaluations | FD | 95 %% | KID·10³ | precision | recall | CPU ms per image | images seen | CPU minutes | published FID, CIFAR-10 |\n", t.title)
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, l := range lines {
		each := "" // not measured of images that another program generated
		if l.Seconds > 0 {
			each = fmt.Sprintf("%.3g", 1000*l.Seconds)
		}
		fmt.Fprintf(&b, "| %s | %d | %.1f | %.1f to %.1f | %.2f | %.2f | %.2f | %s | %d,000 | %.0f | %s |\n", l.Name, l.Evaluations, l.FD, l.Low, l.High,
			1000*l.KID, l.Precision, l.Recall, each, l.Images/1000, l.Minutes, l.Published)
	}
	fmt.Fprintf(&b, "| real images | | %.1f | | | | | | | | |\n", lines[0].Floor)
	b.WriteString("\n")
	for _, o := range orderings {
		b.WriteString(o.text(lines))
	}
	return b.String()
}

// ordering is an expectation that one row is better than another.
type ordering struct {
	better, worse   string // runs
	betterN, worseN int    // evaluations
	statement       string
}

var orderings = []ordering{
	{"edm", "ect", 35, 2, "the denoiser in 35 evaluations is better than ECT in two"},
	{"edm", "cd", 35, 2, "the denoiser in 35 evaluations is better than CD in two"},
	{"ect", "ect", 2, 1, "ECT in two evaluations is better than in one"},
	{"cd", "cd", 2, 1, "CD in two evaluations is better than in one"},
	{"ict", "ict", 2, 1, "iCT in two evaluations is better than in one"},
	{"ect", "edm", 1, 4, "ECT in one evaluation is better than the denoiser in four of Euler's steps"},
	{"cd", "edm", 1, 2, "CD in one evaluation is better than the denoiser in two of Euler's steps"},
	{"cd", "pd", 1, 1, "CD in one evaluation is better than progressive distillation in one"},
	{"ict", "ct", 1, 1, "iCT is better than CT"},
	{"reflow", "flow", 2, 2, "reflow in two steps is better than the flow in two"},
	{"sct", "ict", 1, 1, "sCT is better than iCT"},
	{"stablect", "ect", 1, 1, "stable ECT is better than ECT"},
	{"cmt-ect", "ect", 1, 1, "ECT after CMT is better than ECT with the same budget"},
	{"ect", authors, 1, 1, "ECT here is better than by its authors' loss in PyTorch"},
	{"soflow", "meanflow", 1, 1, "SoFlow is better than MeanFlow"},
	{"alphaflow", "meanflow", 1, 1, "α-Flow is better than MeanFlow"},
	{"imf", "meanflow", 1, 1, "iMF is better than MeanFlow"},
}

// text is a line of a list that says whether an ordering holds; empty where a row is missing. Distances whose intervals overlap do not decide.
func (o ordering) text(lines []*line) string {
	find := func(run string, n int) *line {
		for _, l := range lines {
			if l.Run == run && l.Evaluations == n {
				return l
			}
		}
		return nil
	}
	a, b := find(o.better, o.betterN), find(o.worse, o.worseN)
	if a == nil || b == nil {
		return ""
	}
	verdict := "does not hold"
	switch {
	case a.High < b.Low:
		verdict = "holds"
	case a.Low <= b.High:
		verdict = "is not decided"
	}
	return fmt.Sprintf("- %s: **%s**, %.1f and %.1f.\n", o.statement, verdict, a.FD, b.FD)
}
