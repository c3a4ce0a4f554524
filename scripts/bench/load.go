package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// load sends requests to a server and prints its memory ten times meanwhile: what is resident, how much of that is no file, the heap of Go,
// the number of threads and goroutines, and the processor time and the time of a request.
func load(args []string, stdout io.Writer) (err error) {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	onestep := f.String("onestep", "bin/onestep", "path of the onestep binary")
	model := f.String("model", "sd", "pixels, sd (a tiny Stable Diffusion), or a model for onestep serve")
	requests := f.Int("requests", 10_000, "requests in all")
	clients := f.Int("clients", 8, "clients at once")
	steps := f.Int("steps", 1, "sampling steps")
	sizes := f.String("sizes", "", "sizes of images, in turn (default: that of the model)")
	threads := f.Int("threads", 2, "threads of the server per operator")
	if err := f.Parse(args); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "onestep-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b := bench{self: self, tmp: tmp}
	path := *model
	switch path {
	case "pixels":
		path, err = b.pixelModel()
	case "sd":
		path, err = b.tinySD()
	}
	if err != nil {
		return err
	}
	s, err := launch(*onestep, "serve", "--model", path, "--addr", "127.0.0.1:0", "--threads", fmt.Sprint(*threads), "--queue", fmt.Sprint(*clients), "--quiet")
	if err != nil {
		return err
	}
	defer s.end()
	client := clientOf(*clients)
	defer client.CloseIdleConnections()
	turn := strings.Split(*sizes, ",")
	fmt.Fprintln(stdout, "requests\tresident MiB\tanonymous MiB\tGo heap MiB\tthreads\tgoroutines\tCPU ms\tp50 ms\tp99 ms")
	spent := 0.0
	for part := range 10 {
		first, last := *requests*part/10, *requests*(part+1)/10
		took, err := crowd(context.Background(), *clients, last-first, func(n int) (float64, error) {
			return ask(client, s.url, first+n, *steps, turn[(first+n)%len(turn)])
		})
		if err != nil {
			return err
		}
		is, err := s.memory(client)
		if err != nil {
			return err
		}
		cpu := is["process_cpu_seconds_total"] - spent
		spent += cpu
		slices.Sort(took)
		fmt.Fprintf(stdout, "%d\t%.1f\t%.1f\t%.1f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\n", last, is["VmRSS"]/1024, is["RssAnon"]/1024, is["go_memstats_heap_inuse_bytes"]/(1<<20),
			is["Threads"], is["go_goroutines"], 1000*cpu/float64(len(took)), median(took), took[len(took)*99/100])
	}
	return nil
}

// memory returns the figures of the process, in KiB, and of its metrics.
func (s *server) memory(client *http.Client) (map[string]float64, error) {
	time.Sleep(100 * time.Millisecond) // for requests that were answered to end
	got := map[string]float64{}
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	defer status.Close()
	res, err := client.Get(s.url + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(io.MultiReader(status, res.Body)); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 {
			if v, err := strconv.ParseFloat(fields[1], 64); err == nil {
				got[strings.TrimSuffix(fields[0], ":")] = v
			}
		}
	}
	return got, nil
}
