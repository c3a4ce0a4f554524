package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
)

// The phases of two batches of images, with the time of a step and the time left by a clock of the test's.
func TestPhases(t *testing.T) {
	now := time.Unix(0, 0)
	var lines []string
	p := phases{now: func() time.Time { return now }, show: func(part float64, left, right string) {
		lines = append(lines, fmt.Sprintf("%.3f %s|%s", part, left, right))
	}}
	p.progress(job.GenerateProgress{Phase: job.PhaseLoading, What: "models/sd15.safetensors", Images: 3})
	batch := func(first, together int, step, decode time.Duration) {
		g := job.GenerateProgress{Image: first, Images: 3, Together: together, Steps: 2}
		for _, g.Phase = range []job.Phase{job.PhaseText, job.PhaseImage, job.PhaseSampling} {
			p.progress(g)
		}
		now = now.Add(step)
		g.Step = 1
		p.progress(g)
		now = now.Add(2 * time.Second)
		g.Step, g.Phase = 2, job.PhaseDecoding
		p.progress(g)
		now = now.Add(decode)
		for i := range together {
			g.Phase, g.Image, g.What = job.PhaseSaving, first+i, fmt.Sprintf("out/%d.png", first+i)
			p.progress(g)
		}
	}
	batch(0, 2, 10*time.Second, 5*time.Second)
	batch(2, 1, 4*time.Second, 3*time.Second)
	require.Equal(t, []string{
		"0.000 loading sd15.safetensors|",
		"0.000 images 1-2/3|encoding the prompt",
		"0.000 images 1-2/3|encoding the input image",
		"0.000 images 1-2/3|step 1/2",
		"0.333 images 1-2/3|step 2/2, 10 s/step, 30s left", // this batch's other step, and two of the next one
		"0.667 images 1-2/3|decoding, 2 s/step, 4s left",   // the first step is left out: in it memory is taken
		"0.333 image 1/3|saving 0.png",
		"0.667 image 2/3|saving 1.png",
		"0.667 image 3/3|encoding the prompt",
		"0.667 image 3/3|encoding the input image",
		"0.667 image 3/3|step 1/2, 2 s/step, 9s left",
		"0.833 image 3/3|step 2/2, 3 s/step, 8s left",
		"1.000 image 3/3|decoding, 2.67 s/step, 5s left",
		"1.000 image 3/3|saving 2.png",
	}, lines)
}

// generate tells its phases in order, and writes nothing of them where there is no terminal.
func TestGeneratePhases(t *testing.T) {
	dir := t.TempDir()
	o := job.DefaultGenerate()
	o.Model, o.Prompts, o.N, o.Steps, o.Batch, o.Threads, o.Sampler = "../../tests/testdata/sd/sd15", []string{"a cat", "a dog"}, 3, 2, 2, 1, "euler"
	o.Out = dir + "/"
	var got []string
	_, err := o.Run(t.Context(), func(g job.GenerateProgress) {
		line := fmt.Sprintf("%s %d+%d/%d", g.Phase, g.Image, g.Together, g.Images)
		if g.Phase == job.PhaseSampling {
			line = fmt.Sprintf("%s step %d/%d", line, g.Step, g.Steps)
		}
		if g.What != "" {
			line += " " + filepath.Base(g.What)
		}
		got = append(got, line)
	}, func(string) {})
	require.NoError(t, err)
	var want []string
	want = append(want, "loading 0+0/6 sd15")
	for first := 0; first < 6; first += 2 { // the second batch has the last image of one prompt and the first one of the other
		at := fmt.Sprintf("%d+2/6", first)
		if first < 4 {
			want = append(want, "text "+at)
		}
		want = append(want, "sampling "+at+" step 0/2", "sampling "+at+" step 1/2", "decoding "+at)
		for i := range 2 {
			want = append(want, fmt.Sprintf("saving %d+2/6 %05d.png", first+i, first+i))
		}
	}
	require.Equal(t, want, got)

	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"generate", "--model", o.Model, "--prompt", "a cat", "--steps", "2", "--seed", "1", "--out", filepath.Join(dir, "x.png"), "--init-image",
		filepath.Join(dir, "00000.png"), "--width", "64", "--height", "64"}, &stdout, &stderr)
	require.Zero(t, code, stderr.String())
	require.Empty(t, stderr.String())
}

// --quiet leaves out progress, also the line a minute that stands for a bar; warnings stay.
func TestQuiet(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		var stderr bytes.Buffer
		sc := (&app{stderr: &stderr, quiet: quiet}).screen()
		sc.next = time.Now()
		sc.start()
		sc.show(0.5, "step 1/2", "")
		sc.log.Warn("something")
		sc.stop()
		require.Equal(t, !quiet, strings.Contains(stderr.String(), "step 1/2"))
		require.Contains(t, stderr.String(), "something")
	}
}

// Without a bar the last step of a run is logged however short the run is, and to the run's log.
func TestTrainLogsTheLastStep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"train", "--method", "ict", "--data", "emoji", "--resolution", "8", "--network", "mlp", "--channels", "8", "--blocks", "1",
		"--batch", "2", "--steps", "3", "--sample-every", "0", "--threads", "1", "--out", dir}, &stdout, &stderr)
	require.Zero(t, code, stderr.String())
	log, err := os.ReadFile(filepath.Join(dir, "log.txt"))
	require.NoError(t, err)
	for _, text := range []string{stderr.String(), string(log)} {
		require.Contains(t, text, "step 3/3")
		require.NotContains(t, text, "step 2/3")
	}
}
