package tests

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// forks is a Python program that imports what the tests' scripts do, which takes seconds of the processor, and then runs each script in a fork
// of itself.
const forks = `
import json, os, runpy, sys, traceback
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
try:
    import peft
except ImportError:
    pass

def run(args):
    try:
        if args[0] == "-c":
            sys.argv = ["-c"] + args[2:]
            exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0] = args, os.path.dirname(os.path.abspath(args[0]))
            runpy.run_path(args[0], run_name="__main__")
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        for name, fd in (("out", 1), ("err", 2)):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT), fd)
        os.chdir(job["dir"])
        status = run(job["args"])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    print(json.dumps(status), flush=True)
`

// interpreter is a running Python of that program.
type interpreter struct {
	sync.Mutex
	path string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

var python3 interpreter

// start starts the program, unless it runs.
func (p *interpreter) start(t *testing.T, path string) {
	t.Helper()
	if p.cmd != nil {
		require.Equal(t, p.path, path)
		return
	}
	cmd := exec.Command(path, "-c", forks)
	cmd.Env, cmd.Stderr = append(os.Environ(), "HF_HUB_OFFLINE=1"), os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p.path, p.cmd, p.in, p.out = path, cmd, in, bufio.NewReader(out)
}

// close ends the program.
func (p *interpreter) close() {
	if p.cmd != nil {
		_ = p.in.Close()
		_ = p.cmd.Wait()
	}
}

// runScript runs a script of Python in a directory, a file or with -c a text, with arguments. It must end well. The script's standard output is
// returned.
func runScript(t *testing.T, python, dir string, args ...string) []byte {
	t.Helper()
	python3.Lock()
	defer python3.Unlock()
	python3.start(t, python)
	if args[0] != "-c" {
		path, err := filepath.Abs(args[0])
		require.NoError(t, err)
		args = append([]string{path}, args[1:]...)
	}
	dir, err := filepath.Abs(dir)
	require.NoError(t, err)
	to := t.TempDir()
	job := map[string]any{"args": args, "dir": dir, "out": filepath.Join(to, "out"), "err": filepath.Join(to, "err")}
	text, err := json.Marshal(job)
	require.NoError(t, err)
	_, err = python3.in.Write(append(text, '\n'))
	require.NoError(t, err)
	answer, err := python3.out.ReadString('\n')
	require.NoError(t, err, "the Python that runs scripts has ended")
	out, err := os.ReadFile(filepath.Join(to, "out"))
	require.NoError(t, err)
	errs, err := os.ReadFile(filepath.Join(to, "err"))
	require.NoError(t, err)
	require.Equal(t, "0\n", answer, "%s%s", out, errs)
	return out
}
