package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/rundir"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var d time.Duration
	var o job.Train
	var out string
	for _, a := range os.Args[1:] {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "out":
			out = v
		case "duration":
			d, _ = time.ParseDuration(v)
		case "resume":
			o.Resume = true
		case "json":
			if err := json.Unmarshal([]byte(v), &o); err != nil {
				panic(err)
			}
		}
	}
	o.Out, o.Duration = out, d
	last := time.Now()
	r, err := o.Run(ctx, job.Hooks{Log: slog.Default(), Version: "dev",
		Started: func(o job.Train, _ *rundir.Dir, c unet.Config, n int) { fmt.Printf("%+v\n%+v\n%d parameters\n", o, c, n) },
		Progress: func(p training.Progress) {
			if time.Since(last) > 5*time.Second {
				last = time.Now()
				fmt.Printf("%d/%d loss %.5f %.1f img/s left %v\n", p.Step, p.Steps, p.Loss, p.ImagesPerSecond, p.Left.Round(time.Second))
			}
		}})
	fmt.Printf("%+v %v\n", r, err)
}
