package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
)

// Limits of one measurement of a server.
const (
	mostRequests = 400
	mostSeconds  = 8
)

// serveJobs load onestep serve and the same model behind FastAPI (serve_peer.py) with 1, 8 and 64 clients: a pixel-space model of one step, of the size of
// the built-in one, and a tiny Stable Diffusion in 4 steps. Each request is one image in base64.
func (b bench) serveJobs() (jobs []job) {
	peer := filepath.Join("scripts", "bench", "serve_peer.py")
	for _, w := range []struct {
		name   string
		steps  int
		model  func() (string, error)
		theirs func(model string) []string
	}{
		{"pixels", 1, b.pixelModel, func(string) []string { return []string{peer, "pixels", "--peers", b.peers} }},
		{"tiny SD", 4, b.tinySD, func(model string) []string { return []string{peer, "sd", "--model", model} }},
	} {
		for _, clients := range []int{1, 8, 64} {
			side := func(name string, args func(model string) []string) func() (map[string]float64, error) {
				return func() (map[string]float64, error) {
					model, err := w.model()
					if err != nil {
						return nil, err
					}
					return loaded(clients, w.steps, name, args(model)...)
				}
			}
			jobs = append(jobs, job{fmt.Sprintf("serve %s, %s", w.name, plural.N(clients, "client")),
				side(b.onestep, func(model string) []string {
					return []string{"serve", "--model", model, "--addr", "127.0.0.1:0", "--threads", "2", "--quiet"}
				}),
				side(b.python, w.theirs),
				[]figure{{"requests_per_s", "1/s", true, 0}, {"p50_ms", "ms", false, 0}, {"p99_ms", "ms", false, 0}, {"peak_rss_mib", "MiB", false, 0}}})
		}
	}
	return jobs
}

// pixelModel writes the network of the benchmark of sampling.
func (b bench) pixelModel() (string, error) {
	path := filepath.Join(b.tmp, "pixels.safetensors")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	_, err := output(b.self, "work", "sample", "--save", path)
	return path, err
}

// tinySD writes the tiny Stable Diffusion of the tests.
func (b bench) tinySD() (string, error) {
	path := filepath.Join(b.tmp, "tiny-sd")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, tiny.Write(path, "sd15")
}

// server is a server of images in a process of its own.
type server struct {
	cmd  *exec.Cmd
	url  string
	errs *bytes.Buffer // complete once it has ended
}

// launch starts a server and waits for the address that it prints.
func launch(name string, args ...string) (*server, error) {
	s := &server{cmd: exec.Command(name, args...), errs: &bytes.Buffer{}}
	s.cmd.Stderr = s.errs
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	at := strings.Index(line, "http://")
	if err != nil || at < 0 {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		return nil, fmt.Errorf("%s does not listen: %s", name, s.errs)
	}
	s.url = strings.Fields(line[at:])[0]
	return s, nil
}

// end ends the server and returns the most memory that it had, in MiB.
func (s *server) end() float64 {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
	used, ok := s.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return float64(used.Maxrss) / 1024
}

// loaded starts a server and returns what clients that ask for one image after the other see of it.
func loaded(clients, steps int, name string, args ...string) (_ map[string]float64, err error) {
	s, err := launch(name, args...)
	if err != nil {
		return nil, err
	}
	var got map[string]float64
	defer func() {
		if peak := s.end(); got != nil {
			got["peak_rss_mib"] = peak
		}
	}()
	client := clientOf(clients)
	defer client.CloseIdleConnections()
	for seed := range 2 { // the model is opened, and what is computed once
		if _, err := ask(client, s.url, seed, steps, ""); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), mostSeconds*time.Second)
	defer cancel()
	began := time.Now()
	took, err := crowd(ctx, clients, mostRequests, func(n int) (float64, error) { return ask(client, s.url, n, steps, "") })
	if err != nil {
		return nil, err
	}
	all := time.Since(began).Seconds()
	slices.Sort(took)
	got = map[string]float64{"requests_per_s": float64(len(took)) / all, "p50_ms": took[len(took)/2], "p99_ms": took[(len(took)*99)/100]}
	return got, nil
}

func clientOf(clients int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: time.Minute}
}

// crowd lets clients send requests 1 to most, each client one after the other, until ctx is done, and returns how long each took.
func crowd(ctx context.Context, clients, most int, send func(n int) (ms float64, err error)) (took []float64, err error) {
	var (
		wg    sync.WaitGroup
		asked atomic.Int64
		mu    sync.Mutex
	)
	for range clients {
		wg.Go(func() {
			for n := asked.Add(1); n <= int64(most) && ctx.Err() == nil; n = asked.Add(1) {
				ms, oops := send(int(n))
				mu.Lock()
				took, err = append(took, ms), errors.Join(err, oops)
				mu.Unlock()
				if oops != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return took, err
}

// ask sends a request and returns how many milliseconds its answer took. The size "" is the model's.
func ask(client *http.Client, url string, seed, steps int, size string) (ms float64, err error) {
	if size != "" {
		size = fmt.Sprintf(`, "size": %q`, size)
	}
	body := fmt.Sprintf(`{"prompt": "a cat", "seed": %d, "steps": %d, "n": 1, "guidance": 1, "response_format": "b64_json"%s}`, seed, steps, size)
	began := time.Now()
	res, err := client.Post(url+"/v1/images/generations", "application/json", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || !bytes.Contains(text, []byte(`"b64_json"`))) {
		err = fmt.Errorf("%s: %.300s", res.Status, text)
	}
	return float64(time.Since(began).Microseconds()) / 1000, err
}
