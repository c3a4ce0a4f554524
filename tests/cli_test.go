package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestTool runs the tool as a program.
func TestTool(t *testing.T) {
	onestep := tool(t)
	t.Run("output", func(t *testing.T) { testOutput(t, onestep) })
	t.Run("interrupt", func(t *testing.T) { testSignal(t, onestep, syscall.SIGINT) })
	t.Run("terminate", func(t *testing.T) { testSignal(t, onestep, syscall.SIGTERM) })
	t.Run("second interrupt", func(t *testing.T) { testSecondSignal(t, onestep) })
	t.Run("progress bar", func(t *testing.T) { testProgressBar(t, onestep) })
}

// program is a program of this tree, which is built once for all tests.
type program struct {
	once sync.Once
	dir  string // removed at the end
	out  []byte
	err  error
}

var theTool, theSetup program

// build builds the package once and returns the program's path.
func (p *program) build(t *testing.T, root, pkg string, env ...string) string {
	t.Helper()
	p.once.Do(func() {
		if p.dir, p.err = os.MkdirTemp("", "onestep-test-"); p.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(p.dir, filepath.Base(pkg)), pkg)
		cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
		p.out, p.err = cmd.CombinedOutput()
	})
	require.NoError(t, p.err, string(p.out))
	return filepath.Join(p.dir, filepath.Base(pkg))
}

// tool builds the tool, or takes the one that $ONESTEP_TOOL names where there is no Go, and returns its path.
func tool(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("ONESTEP_TOOL"); path != "" {
		return path
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is neither Go to build the tool with nor $ONESTEP_TOOL")
	}
	return theTool.build(t, "..", "./cmd/onestep")
}

// command is one of the tool with its output and messages.
func command(tool string, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	cmd = exec.Command(tool, args...)
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

// tiny is a run that takes a few milliseconds a step.
func tiny(out string, steps int) []string {
	return []string{"train", "--data", "emoji", "--resolution", "8", "--channels", "8", "--mult", "1,2", "--batch", "4", "--threads", "1",
		"--log-every", "1", "--seed", "5", "--steps", strconv.Itoa(steps), "--out", out, "--resume", "--json"}
}

// linesOf waits until a file has that many lines.
func linesOf(t *testing.T, path string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(path)
		return err == nil && bytes.Count(b, []byte("\n")) >= n
	}, time.Minute, time.Millisecond, "%s never had %d lines", path, n)
}

// A signal ends the tool with 130 after it has saved, and the same command goes on to the bytes of a run that was left
// alone.
func testSignal(t *testing.T, onestep string, signal syscall.Signal) {
	const steps = 80
	dir := t.TempDir()
	whole, broken := filepath.Join(dir, "whole"), filepath.Join(dir, "broken")
	cmd, _, stderr := command(onestep, tiny(whole, steps)...)
	require.NoError(t, cmd.Run(), stderr.String())

	cmd, stdout, stderr := command(onestep, tiny(broken, steps)...)
	require.NoError(t, cmd.Start())
	linesOf(t, filepath.Join(broken, "stats.jsonl"), 10)
	require.NoError(t, cmd.Process.Signal(signal))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit, "it was interrupted: %s", stderr)
	require.Equal(t, 130, exit.ExitCode(), stderr.String())
	require.Empty(t, stdout.String())
	said := stderr.String()
	at := strings.Index(said, "onestep: saved after step ")
	require.GreaterOrEqual(t, at, 0, said)
	var step int
	_, err := fmt.Sscanf(said[at:], "onestep: saved after step %d; the same command with --resume continues\nonestep: interrupted\n", &step)
	require.NoError(t, err, said)
	t.Logf("interrupted after step %d of %d", step, steps)
	require.GreaterOrEqual(t, step, 10)
	require.Less(t, step, steps)
	for _, kind := range []string{"model", "state"} {
		require.FileExists(t, filepath.Join(broken, fmt.Sprintf("%s-%07d.safetensors", kind, step)))
	}
	log, err := os.ReadFile(filepath.Join(broken, "log.txt"))
	require.NoError(t, err)
	require.Contains(t, string(log), "interrupted=true")

	cmd, stdout, stderr = command(onestep, tiny(broken, steps)...)
	require.NoError(t, cmd.Run(), stderr.String())
	require.NotContains(t, stderr.String(), "\r", "no bar without a terminal")
	var got struct {
		Step     int
		Finished bool
	}
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &got), "one JSON object: %s", stdout)
	require.Equal(t, steps, got.Step)
	require.True(t, got.Finished)
	for _, kind := range []string{"model", "state"} {
		name := fmt.Sprintf("%s-%07d.safetensors", kind, steps)
		a, err := os.ReadFile(filepath.Join(whole, name))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(broken, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(a, b), "%s differs", name)
	}
}

// The second Ctrl-C ends the tool at once, in the middle of a step.
func testSecondSignal(t *testing.T, onestep string) {
	out := filepath.Join(t.TempDir(), "run")
	cmd, _, stderr := command(onestep, "train", "--data", "emoji", "--channels", "64", "--batch", "256", "--threads", "1", "--out", out)
	require.NoError(t, cmd.Start())
	log := filepath.Join(out, "log.txt")
	linesOf(t, log, 1) // the first step begins, of many seconds
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	var err error
	for err == nil { // two that come at once are one
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		select {
		case err = <-ended:
		case <-time.After(300 * time.Millisecond):
		}
	}
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	status, ok := exit.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.True(t, status.Signaled(), stderr.String())
	require.Equal(t, syscall.SIGINT, status.Signal(), "the shell makes 130 of it")
	require.Contains(t, stderr.String(), "without saving")
	require.NotContains(t, stderr.String(), "saved after step")
}

// What the tool says and writes is what scripts rely on: results on standard output, the rest on standard error.
func testOutput(t *testing.T, onestep string) {
	dir := t.TempDir()
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string // patterns
	}{
		{[]string{"version"}, 0, `^onestep \S+, go1\.\S+, libtorch 2\.\d+\.\d+\n$`, `^$`},
		{[]string{"doctor"}, 0, `(?s)^onestep .*libtorch .*from +/\S+/libtorch_cpu\.so\n.*tensors +work on cpu`, `^$`},
		{[]string{"sample", "--model", "builtin", "--n", "4", "--out", dir + "/x.png"}, 0, `^\S+/x\.png\n$`, `^$`},
		{[]string{"sample", "--model", "builtin", "--n", "4", "--out", dir + "/x.png"}, 1, `^$`, `^onestep: \S+/x\.png exists: .* --overwrite\n$`},
		{[]string{"sample", "--model", "builtin", "--n", "2", "--out", dir + "/x/", "--json"}, 0, `^\{"files":\["\S+/x/000000\.png","\S+/x/000001\.png"\].*\}\n$`, `^$`},
		{[]string{"info", dir + "/x.png"}, 0, `model +"builtin"`, `^$`},
		{[]string{"train", "--data", "emoji"}, 2, `^$`, `^onestep: --out is missing: .*\n$`},
		{[]string{"trian"}, 2, `^$`, `^onestep: unknown command "trian": did you mean train\?.*\n$`},
	} {
		cmd, stdout, stderr := command(onestep, c.args...)
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil {
			require.ErrorAs(t, err, &exit)
		}
		require.Equal(t, c.code, cmd.ProcessState.ExitCode(), "%v: %s", c.args, stderr)
		require.Regexp(t, c.stdout, stdout.String(), "%v", c.args)
		require.Regexp(t, c.stderr, stderr.String(), "%v", c.args)
	}
}

// On a terminal there is a bar with step, loss, images a second and time left, log lines stay whole above it, and standard
// output is still only the result.
func testProgressBar(t *testing.T, onestep string) {
	master, slave, err := terminal()
	if err != nil {
		t.Skipf("no pseudo-terminal here: %v", err)
	}
	defer master.Close()
	cmd, stdout, _ := command(onestep, append(tiny(filepath.Join(t.TempDir(), "run"), 100_000), "--duration", "1500ms")...)
	cmd.Stderr = slave
	cmd.Env = append(os.Environ(), "TERM=xterm")
	require.NoError(t, cmd.Start())
	require.NoError(t, slave.Close())
	screen, err := io.ReadAll(master)
	if !errors.Is(err, syscall.EIO) { // how a terminal ends when its last user is gone
		require.NoError(t, err)
	}
	require.NoError(t, cmd.Wait(), string(screen))
	require.True(t, json.Valid(stdout.Bytes()), stdout.String())
	require.Regexp(t, `step \d+/100000 \[.*\] loss [\d.e+-]+, [\d.]+ images/s, \d+s left`, string(screen))
	escapes := regexp.MustCompile(`\x1b\[\d*[A-Za-z]`)
	plain := escapes.ReplaceAllString(string(screen), "")
	require.Regexp(t, `(?m)^time=\S+ level=INFO msg=training .* out=\S+\s*$`, plain)
	require.Contains(t, string(screen), "\x1b[", "the bar is drawn in place")
}

// terminal opens a pseudo-terminal of 120 columns.
func terminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 120})
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	return master, slave, nil
}
