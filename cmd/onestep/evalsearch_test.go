package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/evaluation"
)

// A search measures the default times and those that it found with other images than its own, and eval with these times and seeds prints the
// same.
func TestEvalSearch(t *testing.T) {
	extractor(t)
	dir := t.TempDir()
	data := colours(t, filepath.Join(dir, "data"), 12, 32)
	base := []string{"--model", "builtin", "--data", data, "--cache", filepath.Join(dir, "cache"), "--n", "6", "--threads", "1"}
	got, _ := evaluated(t, append(base, "--search-times", "2", "--search-by", "swd", "--seed", "3")...)
	is := got.Search
	require.NotNil(t, is)
	require.Equal(t, []float64{80, 0.8}, is.Default)
	require.Equal(t, 80.0, is.Times[0])
	require.Len(t, is.Times, 2)
	require.Equal(t, uint64(9), is.Seed)
	require.Equal(t, "swd", is.By)
	require.Equal(t, is.Default, is.Trials[0].Times)
	require.Greater(t, len(is.Trials), 8)
	least := is.Trials[0].Value
	for _, trial := range is.Trials {
		least = min(least, trial.Value)
	}
	require.Less(t, least, is.Trials[0].Value)
	require.Equal(t, got.Generated.Sliced, is.Value)

	for _, c := range []struct {
		times []float64
		want  float64
	}{{is.Default, is.Before}, {is.Times, is.Value}} {
		again, _ := evaluated(t, append(base, "--times", numbers(c.times), "--seed", "9")...)
		require.Equal(t, c.want, again.Generated.Sliced)
		require.Nil(t, again.Search)
	}
	text := searchedText(got)
	require.Contains(t, text, "--times "+numbers(is.Times))
	require.NotContains(t, text, "--sampler")
	better := job.Evaluated{Search: &job.Searched{Times: []float64{80, 2}, By: "swd", Value: 1, Before: 2, Sampler: "multistep"}}
	require.Contains(t, searchedText(better), "--sampler multistep --times 80,2 ") // of a model of jumps
	require.Empty(t, searchedText(job.Evaluated{}))

	// The numbers of two lists of times differ by chance, too: overlapping intervals are pointed out, before the command.
	near, far := &evaluation.Interval{Low: 1, High: 3}, &evaluation.Interval{Low: 4, High: 6}
	fd := job.Evaluated{Search: &job.Searched{Times: []float64{80, 2}, By: "fd", Value: 2, Before: 3, Interval: near, Was: &evaluation.Interval{Low: 2, High: 4}}}
	require.Regexp(t, `the intervals overlap.*--n.*\nonestep sample .*\n$`, searchedText(fd))
	fd.Search.Was, fd.Search.Before = far, 5
	require.NotContains(t, searchedText(fd), "overlap")
	fd.Search.By, fd.Search.Was = "swd", near // the intervals are those of FD
	require.NotContains(t, searchedText(fd), "overlap")
}

// A search that cannot be is refused, with the flag.
func TestEvalSearchRefuses(t *testing.T) {
	extractor(t)
	dir := t.TempDir()
	data := colours(t, filepath.Join(dir, "data"), 12, 8)
	for _, c := range []struct {
		want []string
		args []string
	}{
		{[]string{"--search-times", "1"}, []string{"--model", "builtin", "--search-times", "1"}},
		{[]string{"--search-times", "17"}, []string{"--model", "builtin", "--search-times", "17"}},
		{[]string{"--search-by", "--search-times"}, []string{"--model", "builtin", "--search-by", "kid"}},
		{[]string{"--search-by", "swd"}, []string{"--model", "builtin", "--search-times", "2", "--search-by", "sdw"}},
		{[]string{"--steps"}, []string{"--model", "builtin", "--search-times", "2", "--steps", "2"}},
		{[]string{"multistep"}, []string{"--model", "builtin", "--search-times", "2", "--sampler", "heun"}},
		{[]string{"--images"}, []string{"--images", data, "--search-times", "2"}},
		{[]string{"--nearest"}, []string{"--model", "builtin", "--search-times", "2", "--nearest", filepath.Join(dir, "a.png")}},
		{[]string{"--times"}, []string{"--images", data, "--times", "80,1"}},
		{[]string{"--times", "82"}, []string{"--model", "builtin", "--times", "82,1"}},
		{[]string{"pixel-space"}, []string{"--model", "../../tests/testdata/sd/sd15", "--search-times", "2"}},
	} {
		code, _, errs := try(append(append([]string{"eval", "--data", data, "--no-cache"}, c.args...), "--n", "6")...)
		require.Equal(t, exitUsage, code, errs)
		for _, want := range c.want {
			require.Contains(t, errs, want)
		}
	}
}
