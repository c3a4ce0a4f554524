package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each row is of a run, each run's needs are trained, stages of progressive distillation end at snapshots, and orderings name rows.
func TestParts(t *testing.T) {
	for _, p := range []part{fashion(), cifar(), precision()} {
		tab := table{part: p}
		runs := map[string]bool{}
		for _, r := range p.runs {
			require.False(t, runs[r.name])
			runs[r.name] = true
		}
		for _, r := range p.runs {
			for _, a := range r.args {
				from, needs := strings.CutPrefix(a, "@")
				require.True(t, !needs || runs[from], "%s needs %s", r.name, from)
			}
		}
		seen := map[string]bool{}
		for _, r := range p.rows {
			require.True(t, runs[r.run], r.run)
			key := r.run + string(rune(r.evaluations))
			require.False(t, seen[key], "%s in %d evaluations", r.run, r.evaluations)
			seen[key] = true
			require.Zero(t, r.step%tab.every())
		}
	}
	for _, steps := range []int{-1, 1, 6} {
		p := fashion()
		require.ErrorContains(t, p.train(steps), "want -steps 7 or more")
	}
	short := fashion()
	require.NoError(t, short.train(70))
	for i, r := range fashion().rows {
		require.Equal(t, r.step/40, short.rows[i].step)
	}
	rows := fashion().rows
	for _, o := range orderings {
		for _, side := range []struct {
			run string
			n   int
		}{{o.better, o.betterN}, {o.worse, o.worseN}} {
			require.True(t, slices.ContainsFunc(rows, func(r row) bool { return r.run == side.run && r.evaluations == side.n }), "%s in %d", side.run, side.n)
		}
	}
}

// An ordering is decided only where the intervals are apart.
func TestOrdering(t *testing.T) {
	o := ordering{"a", "b", 1, 2, "a is better"}
	a, b := &line{Run: "a", Evaluations: 1, FD: 5, Low: 4, High: 6}, &line{Run: "b", Evaluations: 2, FD: 8, Low: 7, High: 9}
	require.Empty(t, o.text([]*line{a}))
	require.Contains(t, o.text([]*line{a, b}), "**holds**")
	b.Low = 5
	require.Contains(t, o.text([]*line{a, b}), "is not decided")
	b.Low, b.High = 1, 2
	require.Contains(t, o.text([]*line{a, b}), "does not hold")
}
