package tests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
)

// serving is a server in a process of its own.
type serving struct {
	cmd  *exec.Cmd
	url  string
	errs *bytes.Buffer // complete once the process has ended
}

// startServe runs onestep serve and waits until it listens.
func startServe(t *testing.T, dir string, args ...string) *serving {
	t.Helper()
	cmd, _, errs := command(tool(t), append([]string{"serve"}, args...)...)
	cmd.Dir, cmd.Stdout = dir, nil
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("it does not listen: %s", errs)
	}
	url := strings.Fields(line[strings.Index(line, "http://"):])[0]
	return &serving{cmd, url, errs}
}

// end sends a signal and returns the exit code; -1: killed.
func (s *serving) end(sig os.Signal) int {
	http.DefaultClient.CloseIdleConnections()
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}

func (s *serving) get(t *testing.T, path string, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest("GET", s.url+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

// A signal while images are made: the request has its answer. A kill leaves nothing behind, and the next server has the same address.
func TestServeEnds(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, tinysd.Write(filepath.Join(dir, "tiny"), "sd15"))
	s := startServe(t, dir, "--model", "tiny", "--addr", "127.0.0.1:0")
	address := strings.TrimPrefix(s.url, "http://")
	answer := make(chan string, 1)
	generate := func(n int) {
		res, err := http.Post(s.url+"/v1/images/generations", "application/json",
			strings.NewReader(fmt.Sprintf(`{"prompt": "cat", "n": %d, "steps": 10, "seed": 1, "response_format": "b64_json"}`, n)))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		answer <- fmt.Sprintf("%d %d %v", res.StatusCode, strings.Count(string(text), `"b64_json"`), err)
	}
	running := func() {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			_, text := s.get(t, "/metrics")
			if strings.Contains(text, "\nonestep_running 1\n") {
				return
			}
			if len(answer) > 0 || time.Now().After(end) {
				t.Fatalf("it is not served: %s", <-answer)
			}
		}
	}
	go generate(4)
	running()
	assert.Zero(t, s.end(syscall.SIGTERM), s.errs)
	assert.Equal(t, "200 4 <nil>", <-answer)
	assert.Contains(t, s.errs.String(), "status=200")

	before, err := os.ReadDir(dir)
	require.NoError(t, err)
	s = startServe(t, dir, "--model", "tiny", "--addr", address)
	go generate(4)
	running()
	assert.Equal(t, -1, s.end(os.Kill))
	assert.NotContains(t, <-answer, "200")
	s = startServe(t, dir, "--model", "tiny", "--addr", address)
	generate(1)
	assert.Equal(t, "200 1 <nil>", <-answer)
	after, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, after, len(before))
	go generate(4)
	running()
	_ = s.cmd.Process.Signal(os.Interrupt)
	for ready := 200; ready != 503; ready, _ = s.get(t, "/readyz") {
		time.Sleep(time.Millisecond)
	}
	assert.NotZero(t, s.end(os.Interrupt)) // a second signal does not wait
	assert.NotContains(t, <-answer, "200")
}

// The example for Kubernetes starts a server, with probes and a metric that exist, and is valid by the schemas of Kubernetes (in Python).
func TestKubernetes(t *testing.T) {
	dir := t.TempDir()
	texts, err := filepath.Glob("../deploy/kubernetes/*.yaml")
	require.NoError(t, err)
	require.Len(t, texts, 2)
	kinds := map[string]map[string]any{}
	for _, path := range texts {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var doc map[string]any
			if err := d.Decode(&doc); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			kinds[doc["kind"].(string)] = doc
		}
	}
	require.Len(t, kinds, 4)
	at := func(v any, path ...any) any {
		for _, key := range path {
			switch key := key.(type) {
			case string:
				v = v.(map[string]any)[key]
			case int:
				v = v.([]any)[key]
			}
		}
		return v
	}
	pod := at(kinds["Deployment"], "spec", "template", "spec")
	container := at(pod, "containers", 0)
	var args []string
	for _, a := range at(container, "args").([]any) {
		args = append(args, a.(string))
	}
	require.Equal(t, "serve", args[0])
	require.NoError(t, os.WriteFile(filepath.Join(dir, "keys.txt"), []byte("0123456789abcdef\n"), 0o600))
	port := at(container, "ports", 0, "containerPort")
	for i, a := range args {
		args[i] = strings.NewReplacer("/models/sd15", "builtin", "/keys/", "", fmt.Sprintf(":%d", port), "127.0.0.1:0").Replace(a)
	}
	require.Contains(t, args, "--addr=127.0.0.1:0")
	s := startServe(t, dir, args[1:]...)
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		code, _ := s.get(t, at(container, probe, "httpGet", "path").(string), "Host", "10.0.0.1")
		assert.Equal(t, 200, code, probe)
		assert.Equal(t, at(container, "ports", 0, "name"), at(container, probe, "httpGet", "port"))
	}
	metric := at(kinds["HorizontalPodAutoscaler"], "spec", "metrics", 0, "pods", "metric", "name").(string)
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) { // the opening of the first model waits, too
		_, text := s.get(t, "/metrics", "Authorization", "Bearer 0123456789abcdef")
		if strings.Contains(text, "\n"+metric+" 0\n") {
			break
		}
		require.Contains(t, text, "\n"+metric+" ")
		require.False(t, time.Now().After(end))
	}
	assert.Zero(t, s.end(syscall.SIGTERM), s.errs)
	for line := range strings.Lines(s.errs.String()) {
		assert.True(t, json.Valid([]byte(line)) || !strings.Contains(line, "msg=request"), line)
	}
	labels := at(kinds["Deployment"], "spec", "template", "metadata", "labels")
	assert.Equal(t, labels, at(kinds["Service"], "spec", "selector"))
	assert.Equal(t, labels, at(kinds["PodDisruptionBudget"], "spec", "selector", "matchLabels"))
	assert.Equal(t, at(kinds["Deployment"], "metadata", "name"), at(kinds["HorizontalPodAutoscaler"], "spec", "scaleTargetRef", "name"))
}
