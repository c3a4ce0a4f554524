package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/cwriter"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training"
)

// terminal reports whether w is a terminal that can show a bar: some have no width, or no movable cursor.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || !cwriter.IsTerminal(int(f.Fd())) {
		return false
	}
	width, _, err := cwriter.GetSize(int(f.Fd()))
	return err == nil && width > 0
}

// eachLine is the time between progress lines in the log, without a bar.
const eachLine = time.Minute

// screen is standard error: log lines and, on a terminal, a bar beneath them. Without a terminal the progress is logged instead.
type screen struct {
	stderr io.Writer
	log    *slog.Logger // writes to stderr and file
	quiet  bool         // no bar, and no lines in its place

	mu       sync.Mutex
	file     io.Writer // a run's log; nil: none
	progress *mpb.Progress
	bar      *mpb.Bar
	next     time.Time // when progress is logged next

	left, right atomic.Value // strings left and right of the bar; not guarded by mu, which Write may hold while the bar is rendered
}

func newScreen(stderr io.Writer) *screen {
	sc := &screen{stderr: stderr, next: time.Now().Add(eachLine)}
	sc.left.Store("")
	sc.right.Store("")
	sc.log = slog.New(slog.NewTextHandler(sc, nil))
	return sc
}

// screen returns standard error, without progress if --quiet is set.
func (a *app) screen() *screen {
	sc := newScreen(a.stderr)
	sc.quiet = a.quiet
	return sc
}

// Write writes log lines above the bar, with control characters escaped.
func (sc *screen) Write(p []byte) (int, error) {
	n := len(p)
	p = []byte(quote.Lines(string(p)))
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.file != nil {
		if _, err := sc.file.Write(p); err != nil {
			return 0, err
		}
	}
	to := sc.stderr
	if sc.progress != nil {
		to = sc.progress
	}
	if _, err := to.Write(p); err != nil {
		return 0, err
	}
	return n, nil
}

// tee also writes log lines to w.
func (sc *screen) tee(w io.Writer) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.file = w
}

// barLength is the number of units of the bar.
const barLength = 10_000

// start shows an empty bar, on a terminal.
func (sc *screen) start() {
	if sc.quiet || !terminal(sc.stderr) {
		return
	}
	text := func(v *atomic.Value) decor.Decorator {
		return decor.Any(func(decor.Statistics) string { return v.Load().(string) })
	}
	p := mpb.New(mpb.WithOutput(sc.stderr), mpb.WithWidth(40), mpb.WithRefreshRate(200*time.Millisecond))
	b := p.New(barLength, mpb.BarStyle(), mpb.PrependDecorators(text(&sc.left)), mpb.AppendDecorators(text(&sc.right)))
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.progress, sc.bar = p, b
}

// show sets the bar to a fraction of its length, with texts left and right of it.
func (sc *screen) show(part float64, left, right string) { sc.progressed(part, left, right, false) }

// progressed is show; last forces a log line without a bar.
func (sc *screen) progressed(part float64, left, right string, last bool) {
	sc.left.Store(left)
	sc.right.Store(right)
	sc.mu.Lock()
	bar := sc.bar
	tell := !sc.quiet && (last || !time.Now().Before(sc.next))
	if tell {
		sc.next = time.Now().Add(eachLine)
	}
	sc.mu.Unlock()
	if bar != nil {
		bar.SetCurrent(int64(part * (barLength - 1))) // never complete, so that it stays until stop
	} else if tell {
		if right == "" {
			sc.log.Info(left)
		} else {
			sc.log.Info(left, "progress", right)
		}
	}
}

// images returns a function that shows how many images are done, with a bar if they are more than a batch.
func (sc *screen) images(batch int) func(done, all int) {
	return func(done, all int) {
		if done <= batch && done < all {
			sc.start()
		}
		sc.show(float64(done)/float64(all), fmt.Sprintf("image %d/%d", done, all), "")
	}
}

// stop ends the bar and leaves it on the screen.
func (sc *screen) stop() {
	sc.mu.Lock()
	p, b := sc.progress, sc.bar
	sc.bar = nil
	sc.mu.Unlock()
	if b == nil {
		return
	}
	b.Abort(false)
	p.Wait()
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.progress = nil
}

// duration writes a remaining time as "2h05m" or "1m20s".
func duration(d time.Duration) string {
	d = d.Round(time.Second)
	h, m, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case d > 1000*time.Hour:
		return "?"
	case h > 0:
		return fmt.Sprintf("%dh%02dm", h, m)
	case m > 0:
		return fmt.Sprintf("%dm%02ds", m, s)
	}
	return fmt.Sprintf("%ds", s)
}

// trained shows a step of a training run, which may end after a time; 0: it does not. right is the text right of the bar.
func (sc *screen) trained(p training.Progress, speed *pace, limit time.Duration, right string) {
	if note := speed.note(p); note != nil {
		sc.log.Info("speed", note...)
	}
	part := float64(p.Step) / float64(p.Steps)
	if limit > 0 {
		part = max(part, p.Elapsed.Seconds()/limit.Seconds())
	}
	sc.progressed(min(part, 1), fmt.Sprintf("step %d/%d", p.Step, p.Steps), right, part >= 1)
}

// continues says how a training run that ended with an error continues.
func (a *app) continues(r training.Result, err error) {
	switch {
	case r.State == "":
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(a.stderr, "onestep: saved after step %d; the same command with --resume continues\n", r.Step)
	default:
		fmt.Fprintf(a.stderr, "onestep: the last checkpoint is %s: the same command with --resume continues from it\n", r.State)
	}
}

// stopped says how a training run continues whose time is over before all of its steps were done.
func (a *app) stopped(r training.Result, steps int) {
	if !r.Finished {
		fmt.Fprintf(a.stderr, "onestep: --duration is over: saved after step %d of %d; the same command with --resume continues\n", r.Step, steps)
	}
}
