package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
)

// searchedText is what a search for times found, "" without one: both lists of times with the measure, and what to pass to sample.
func searchedText(e job.Evaluated) string {
	is := e.Search
	if is == nil {
		return ""
	}
	value := func(v float64, within *evaluation.Interval) string {
		if within == nil || is.By != string(evaluation.FD) {
			return number.Short(v)
		}
		return fmt.Sprintf("%s (%s to %s)", number.Short(v), number.Short(within.Low), number.Short(within.High))
	}
	with := fmt.Sprintf("%s-%s", strings.ToUpper(is.By), e.Features)
	var b strings.Builder
	fmt.Fprintf(&b, "searched the times of %s by %s, %s of %s; measured with as many other images, seeds from %d on:\n",
		plural.N(len(is.Times), "step"), with, plural.N(len(is.Trials), "trial"), plural.N(e.Generated.B, "image"), is.Seed)
	fmt.Fprintf(&b, "  default  --times %s: %s\n", numbers(is.Default), value(is.Before, is.Was))
	fmt.Fprintf(&b, "  found    --times %s: %s\n", numbers(is.Times), value(is.Value, is.Interval))
	if is.Value >= is.Before {
		b.WriteString("the times found are no better on these images: keep the default, or search with a larger --n\n")
		return b.String()
	}
	if now, was := is.Interval, is.Was; is.By == string(evaluation.FD) && now != nil && was != nil && now.High >= was.Low && was.High >= now.Low {
		b.WriteString("the intervals overlap, so that the difference may be chance: a larger --n shows whether it is\n")
	}
	sampler := ""
	if is.Sampler != "" {
		sampler = " --sampler " + is.Sampler
	}
	fmt.Fprintf(&b, "onestep sample --model %s%s --times %s --n 16 --out samples.png\n", quote.Path(e.Model), sampler, numbers(is.Times))
	return b.String()
}

// numbers writes numbers with commas between them, as flags take them.
func numbers(list []float64) string {
	var all []string
	for _, v := range list {
		all = append(all, strconv.FormatFloat(v, 'g', -1, 64))
	}
	return strings.Join(all, ",")
}
