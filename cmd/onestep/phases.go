package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/quote"
)

// phases shows the progress of generate as a bar with the image, the phase, the step with its time, and the time left.
type phases struct {
	now  func() time.Time
	show func(part float64, left, right string)

	mark     time.Time     // start of the current step or decoding
	steps    int           // number timed
	first    time.Duration // of the first step, which allocates memory and reorders weights
	others   time.Duration // of the other steps together
	decoding time.Duration // of the last batch
}

// progress updates the bar.
func (p *phases) progress(g job.GenerateProgress) {
	left := fmt.Sprintf("image %d/%d", g.Image+1, g.Images)
	if g.Together > 1 {
		left = fmt.Sprintf("images %d-%d/%d", g.Image+1, g.Image+g.Together, g.Images)
	}
	at := float64(g.Image)
	if g.Steps > 0 {
		at += float64(max(g.Together, 1)*g.Step) / float64(g.Steps)
	}
	part := at / float64(g.Images)
	switch g.Phase {
	case job.PhaseLoading:
		p.show(0, "loading "+quote.Text(filepath.Base(g.What)), "")
	case job.PhaseText:
		p.show(part, left, "encoding the prompt")
	case job.PhaseImage:
		p.show(part, left, "encoding the input image")
	case job.PhaseSampling:
		if g.Step == 0 {
			p.mark = p.now()
			p.show(part, left, fmt.Sprintf("step 1/%d%s", g.Steps, p.times(g)))
			return
		}
		p.stepped()
		p.show(part, left, fmt.Sprintf("step %d/%d%s", min(g.Step+1, g.Steps), g.Steps, p.times(g)))
	case job.PhaseDecoding:
		p.stepped()
		p.show(part, left, "decoding"+p.times(g))
	case job.PhaseSaving:
		if !p.mark.IsZero() {
			p.decoding, p.mark = p.now().Sub(p.mark), time.Time{}
		}
		p.show(float64(g.Image+1)/float64(g.Images), fmt.Sprintf("image %d/%d", g.Image+1, g.Images), "saving "+quote.Text(filepath.Base(g.What)))
	}
}

// stepped records the end of a step.
func (p *phases) stepped() {
	now := p.now()
	if p.steps == 0 {
		p.first = now.Sub(p.mark)
	} else {
		p.others += now.Sub(p.mark)
	}
	p.steps++
	p.mark = now
}

// times writes the time per step, once one was timed, and the time left.
func (p *phases) times(g job.GenerateProgress) string {
	if p.steps == 0 {
		return ""
	}
	step := p.first
	if p.steps > 1 {
		step = p.others / time.Duration(p.steps-1)
	}
	together := max(g.Together, 1)
	batches := max(0, g.Images-g.Image-1) / together // batches after this one
	left := step*time.Duration(g.Steps-g.Step+batches*g.Steps) + p.decoding*time.Duration(batches+1)
	return fmt.Sprintf(", %.3g s/step, %s left", step.Seconds(), duration(left))
}
