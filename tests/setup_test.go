package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/libtorch"
)

func TestSetupRefuses(t *testing.T) {
	source(t)
	set := func(env ...string) func(*machine) {
		return func(m *machine) { m.env = append(m.env, env...) }
	}
	without := func(tool string) func(*machine) {
		return func(m *machine) { require.NoError(t, os.Remove(m.path("bin/"+tool))) }
	}
	for _, c := range []struct {
		name string
		with func(*machine)
		args []string
		want string // the one line
	}{
		{"LIBTORCH is nothing", set("LIBTORCH=/nonexistent"), nil, `LIBTORCH=/nonexistent is not a libtorch: want a directory with lib/libtorch_cpu\.so`},
		{"LIBTORCH is too old", func(m *machine) { set("LIBTORCH=" + m.libtorch("old", "2.9.1"))(m) }, nil, `is libtorch 2\.9\.1: use 2\.11\.0 or 2\.15\.0`},
		{"LIBTORCH is another than asked for", func(m *machine) { set("LIBTORCH=" + m.libtorch("l", "2.11.0"))(m) }, []string{"2.15.0"}, `is libtorch 2\.11\.0: use 2\.15\.0`},
		{"LIBTORCH lacks a library", func(m *machine) { set("LIBTORCH=" + m.libtorch("l", "2.11.0"))(m) }, nil, `libcudart\.so\.13 is missing.*nvidia-cuda-runtime==13\.0\.96`},
		{"LIBTORCH in an odd folder", func(m *machine) {
			m.write("odd,one/nvidia/cu13/lib/libcudart.so.13", "")
			m.compile(m.path("odd,one/nvidia/cu13/lib/libcudart.so.13"))
			set("LIBTORCH=" + m.libtorch("odd,one/torch", "2.11.0"))(m)
		}, nil, `odd,one/torch" holds a character`},
		{"a version that is not supported", set(), []string{"2.12.0"}, `libtorch 2\.12\.0 is not supported: use 2\.11\.0 or 2\.15\.0`},
		{"what is no version", set(), []string{"--help"}, `usage: go run github\.com/onestep-go/onestep/scripts/setup \[VERSION\], where VERSION is 2\.11\.0 or 2\.15\.0`},
		{"no Go", without("go"), nil, `the go command is missing.*go\.dev/doc/install`},
		{"Go that may not fetch a newer one", func(m *machine) {
			m.tool("go", "echo 'go: go.mod requires go >= 1.26.0 (running go 1.24.4; GOTOOLCHAIN=local)' >&2; exit 1")
		}, nil, `go env: go: go\.mod requires go >= 1\.26\.0`},
		{"no g++", without("g++"), nil, `a C\+\+ compiler \(g\+\+\) is missing: apt-get install g\+\+`},
		{"another compiler that is missing", set("CXX=clang++-99 -v"), nil, `a C\+\+ compiler \(clang\+\+-99\) is missing`},
		{"no C compiler", without("gcc"), nil, `a C compiler \(gcc\) is missing: apt-get install gcc`},
		{"cgo off", set("CGO_ENABLED=0"), nil, `cgo is switched off`},
		{"no Python", without("python3"), nil, `Python 3 is missing.*apt-get install python3 python3-pip.*LIBTORCH.*pip install --target libtorch-2\.11\.0 --no-deps torch==2\.11\.0 nvidia-cuda-runtime==13\.0\.96`},
		{"no pip", func(m *machine) { m.python(`case "$2" in pip | venv) exit 1 ;; esac`) }, nil, `pip is missing: apt-get install python3-pip`},
		{"a cache that cannot be written", set("XDG_CACHE_HOME=/proc/nothing"), nil, `cannot write to /proc/nothing/onestep: set XDG_CACHE_HOME`},
		{"no home", set("XDG_CACHE_HOME=", "HOME="), nil, `neither \$XDG_CACHE_HOME nor \$HOME are defined`},
		{"an odd ONESTEP_CUDA", set("ONESTEP_CUDA=yes"), nil, `ONESTEP_CUDA=yes: want 1 or 0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.with(m)
			stdout, stderr, err := m.run(c.args...)
			require.Error(t, err)
			require.Empty(t, stdout)
			require.Regexp(t, `^onestep: [^\n]*`+c.want+`[^\n]*\n$`, stderr)
			require.NoDirExists(t, m.path("build"))
		})
	}
}

// What fails while pip runs comes after its progress; the last line says what.
func TestSetupPipFails(t *testing.T) {
	source(t)
	for _, c := range []struct {
		name string
		with func(*machine)
		want string
	}{
		{"no network", func(m *machine) {
			m.env = append(m.env, "PIP_NO_INDEX=0", "PIP_FIND_LINKS=", "PIP_INDEX_URL=http://127.0.0.1:9/simple", "PIP_RETRIES=1")
		}, `could not reach PyPI: .*LIBTORCH.*pip install --target libtorch-2\.11\.0 --no-deps torch==2\.11\.0 nvidia-cuda-runtime==13\.0\.96 nvidia-cuda-cupti==13\.0\.85.* to \S+/onestep/libtorch-2\.11\.0$`},
		{"no such wheel", func(*machine) {}, `pip could not install .*ERROR: .*torch==2\.11\.0`},
		{"disk filled meanwhile", func(m *machine) {
			m.python(`case "$*" in *install*) echo "OSError: [Errno 28] No space left on device" >&2; exit 1 ;; esac`)
		}, `the disk is full`},
		{"a torch without its library", func(m *machine) {
			m.index()
			m.wheel("torch", "2.11.0", "py3-none-any", nil, map[string]string{"torch/__init__.py": ""})
			old, err := filepath.Glob(m.path("wheels/torch-*manylinux*"))
			require.NoError(t, err)
			require.NoError(t, os.Remove(old[0]))
		}, `has no libtorch_cpu for this machine`},
		{"a torch that does not load", func(m *machine) {
			m.index()
			m.wheel("nvidia-cuda-runtime", "13.0.96", "py3-none-any", nil, map[string]string{"nothing": ""})
		}, `does not load here: libcudart\.so\.13 is missing`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.needPip()
			c.with(m)
			_, stderr, err := m.run()
			require.Error(t, err)
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			require.Regexp(t, `^onestep: .*`+c.want, lines[len(lines)-1])
			left, err := os.ReadDir(m.path("cache/onestep"))
			require.NoError(t, err)
			require.Len(t, left, 1, "only the lock stays: %v", left)
		})
	}
}

// pep668 makes the machine's Python one that belongs to its system.
func (m *machine) pep668() {
	m.t.Helper()
	m.write("stdlib/EXTERNALLY-MANAGED", "[externally-managed]\nError=belongs to the system\n")
	m.write("hide/sitecustomize.py", hideTorch+`
import sysconfig
real = sysconfig.get_path
sysconfig.get_path = lambda name, *a, **k: os.environ["STDLIB"] if name == "stdlib" else real(name, *a, **k)
sys.base_prefix = sys.prefix  # pip does not ask in a virtual environment
`)
	m.env = append(m.env, "STDLIB="+m.path("stdlib"))
}

func TestSetupInstalls(t *testing.T) {
	m := newMachine(t)
	m.needPip()
	m.index()
	m.pep668()
	plain := exec.Command(m.path("bin/python3"), "-m", "pip", "install", "cuda-toolkit")
	plain.Env = m.env
	if out, err := plain.CombinedOutput(); err == nil || !strings.Contains(string(out), "externally-managed-environment") {
		t.Logf("pip of this Python does not know PEP 668: %s", out)
	}
	m.env = append(m.env, "PIP_USER=1", "PIP_REQUIRE_VIRTUALENV=1") // a user's settings must not matter

	dir := m.ready(m.run())
	require.Equal(t, m.path("cache/onestep/libtorch-2.11.0/torch"), dir)

	// Once installed, it needs neither pip nor network nor room.
	m.python(`case "$2" in pip | venv) exit 1 ;; esac`)
	require.Equal(t, dir, m.ready(m.run()))

	// With ONESTEP_BUILD unset the same is kept for programs elsewhere; that run would write into this tree, so it is one of a copy.
	tree := m.path("tree")
	var files []string
	for _, pattern := range []string{"go.mod", "scripts/setup/*.go", "internal/libtorch/*", "csrc/*.h", "csrc/layer/*.cpp", "csrc/layer/*.h"} {
		list, err := filepath.Glob(filepath.Join(m.root, pattern))
		require.NoError(t, err)
		for _, f := range list {
			rel, err := filepath.Rel(m.root, f)
			require.NoError(t, err)
			files = append(files, rel)
		}
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(m.root, f))
		require.NoError(t, err)
		m.write("tree/"+f, string(text))
	}
	elsewhere := func() string {
		cmd := m.command(tree)
		cmd.Env = append(m.env, "ONESTEP_BUILD=")
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, m.path("cache/onestep/layers"), filepath.Dir(string(out)))
		require.FileExists(t, m.path("tree/build/libtorch/libtorch.json"))
		require.FileExists(t, m.path("cache/onestep/libtorch.json"))
		var found struct{ Layer string }
		text, err := os.ReadFile(filepath.Join(tree, "csrc/layer/found.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &found))
		require.Equal(t, string(out), found.Layer+"\n")
		return found.Layer
	}
	layer := elsewhere()
	require.NoError(t, os.Truncate(m.path("compiled"), 0))
	require.Equal(t, layer, elsewhere())
	text, err := os.ReadFile(m.path("compiled"))
	require.NoError(t, err)
	require.Empty(t, text, "it is compiled once")
	m.write("tree/csrc/layer/device.cpp", "// changed")
	layer2 := elsewhere()
	require.NotEqual(t, layer, layer2)

	// In Go's module cache nothing is written, although root could.
	require.NoError(t, os.Remove(filepath.Join(tree, "csrc/layer/found.json")))
	require.NoError(t, os.RemoveAll(filepath.Join(tree, "build")))
	require.NoError(t, os.Chmod(filepath.Join(tree, "csrc/layer"), 0o555))
	cmd := m.command(tree)
	cmd.Env = append(m.env, "ONESTEP_BUILD=")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, layer2+"\n", string(out))
	require.NoFileExists(t, filepath.Join(tree, "csrc/layer/found.json"))
	require.NoDirExists(t, filepath.Join(tree, "build"))
	require.NoError(t, os.Chmod(filepath.Join(tree, "csrc/layer"), 0o755))
}

func TestSetupFetchesCUDA(t *testing.T) {
	m := newMachine(t)
	m.needPip()
	m.index()
	m.ready(m.run()) // without, first
	m.env = append(m.env, "ONESTEP_CUDA=1")
	dir := m.ready(m.run())
	require.Equal(t, m.path("cache/onestep/libtorch-2.11.0-cuda/torch"), dir)
	require.FileExists(t, filepath.Join(dir, "../nvidia/cudnn/lib/libcudnn.so.9"))
	require.FileExists(t, filepath.Join(dir, "../nvidia/cu13/lib/libcudart.so.13"))
	require.NoFileExists(t, m.path("cache/onestep/libtorch-2.11.0/nvidia/cudnn/lib/libcudnn.so.9"))
	m.env = append(m.env, "ONESTEP_CUDA=")
	require.Equal(t, dir, m.ready(m.run()), "what has more is preferred")
}

// A Python without pip may carry one for its virtual environments.
func TestSetupPipOfVenv(t *testing.T) {
	m := newMachine(t)
	m.needPip()
	if out, err := exec.Command(m.path("bin/python3"), "-c", "import ensurepip, venv").CombinedOutput(); err != nil {
		t.Skipf("this Python has no ensurepip: %s", out)
	}
	m.index()
	m.python(`case "$2" in pip) exit 1 ;; esac`)
	m.ready(m.run())
}

func TestSetupTwoAtOnce(t *testing.T) {
	m := newMachine(t)
	m.needPip()
	m.index()
	m.python(`case "$*" in *install*) echo run >>` + m.path("installs") + ` ;; esac`)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() {
			out, err := m.command(m.root).CombinedOutput()
			if err != nil {
				errs[i] = fmt.Errorf("%w: %s", err, out)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	m.ready(m.run())
	runs, err := os.ReadFile(m.path("installs"))
	require.NoError(t, err)
	require.Equal(t, "run\n", string(runs))
}

func TestSetupKilled(t *testing.T) {
	m := newMachine(t)
	m.needPip()
	m.index()
	working, err := os.ReadFile(m.path("bin/python3"))
	require.NoError(t, err)
	// pip installs, and then takes its time.
	m.tool("python3", strings.Replace(strings.TrimPrefix(string(working), "#!/bin/sh\n"), "exec ", `case "$*" in *install*) slow=1 ;; esac
`, 1)+`[ -z "$slow" ] || { : >`+m.path("installed")+`; sleep 60; }`)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		cmd := m.command(m.root)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { _, err := os.Stat(m.path("installed")); return err == nil }, time.Minute, 20*time.Millisecond)
		require.NoError(t, syscall.Kill(-cmd.Process.Pid, signal))
		require.Error(t, cmd.Wait())
		require.NoDirExists(t, m.path("cache/onestep/libtorch-2.11.0"))
		require.NoError(t, os.Remove(m.path("installed")))
	}
	left, err := filepath.Glob(m.path("cache/onestep/*.part.*"))
	require.NoError(t, err)
	require.Empty(t, left, "an interrupt cleans up, and what a kill left before it too")
	require.NoError(t, os.WriteFile(m.path("bin/python3"), working, 0o755))
	m.ready(m.run())
}

func TestSetupFindsPython(t *testing.T) {
	m := newMachine(t)
	m.needPip()
	m.index()
	dir := m.libtorch("site/torch", "2.11.0")
	m.env = append(m.env, "PYTHONPATH="+m.path("hide")+":"+m.path("site"))

	_, stderr, err := m.run()
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "the torch of python3 does not load (libcudart.so.13 is missing): not using it")

	cudart, err := os.ReadFile(m.cudart())
	require.NoError(t, err)
	m.write("site/nvidia/cu13/lib/libcudart.so.13", string(cudart))
	require.Equal(t, dir, m.ready(m.run()))

	m.env = append(m.env, "ONESTEP_CUDA=1")
	_, stderr, err = m.run()
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "the torch of python3 has no CUDA: not using it")

	m.env = append(m.env, "ONESTEP_CUDA=0")
	m.libtorch("site/torch", "2.12.1")
	_, stderr, err = m.run()
	require.NoError(t, err, stderr)
	require.Contains(t, stderr, "the torch of python3 is 2.12.1: looking for 2.11.0 or 2.15.0")
}

// How the layer is compiled and linked, and what is said when that fails.
func TestSetupCompiles(t *testing.T) {
	m := newMachine(t)
	m.write("nvidia/cu13/lib/libcudart.so.13", "")
	m.compile(m.path("nvidia/cu13/lib/libcudart.so.13"), "-Wl,-soname,libcudart.so.13")
	dir := m.libtorch("torch", "2.11.0")
	m.env = append(m.env, "LIBTORCH="+dir)
	m.ready(m.run())
	compiled, err := os.ReadFile(m.path("compiled"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(compiled)), "\n")
	sources, err := filepath.Glob(filepath.Join(m.root, "csrc/layer/*.cpp"))
	require.NoError(t, err)
	require.Len(t, lines, len(sources)+1)
	require.Contains(t, lines[0], "-I"+dir+"/include -I"+dir+"/include/torch/csrc/api/include")
	// RUNPATH, not RPATH, which would win over LD_LIBRARY_PATH.
	require.Contains(t, lines[len(sources)], "-L"+dir+"/lib -Wl,-rpath,"+dir+"/lib -Wl,--enable-new-dtags ")

	require.NoError(t, os.RemoveAll(m.path("build")))
	m.tool("g++", `case "$*" in *call.cpp*) echo "call.cpp:1: error: no such thing" >&2; exit 1 ;; *-c*) exit ;; esac; echo g++`)
	_, stderr, err := m.run()
	require.Error(t, err)
	require.Regexp(t, `\nonestep: the layer over libtorch 2\.11\.0 does not compile with g\+\+: call\.cpp:1: error: no such thing\n$`, stderr)
	left, err := os.ReadDir(m.path("build"))
	require.NoError(t, err)
	require.Len(t, left, 1, "only the lock stays: %v", left)
}

// A libtorch in the cache folder that has lost a part is installed again.
func TestSetupRepairs(t *testing.T) {
	m := newMachine(t)
	m.needPip()
	m.index()
	dir := m.ready(m.run())
	part := filepath.Join(dir, "../nvidia/cu13/lib/libcudart.so.13")
	require.NoError(t, os.Remove(part))
	require.Equal(t, dir, m.ready(m.run()))
	require.FileExists(t, part)
}

// What is cut off in the cache folder is made anew: the loader would map it, and the program die of it.
func TestSetupRepairsCutFiles(t *testing.T) {
	m := newMachine(t)
	m.needPip()
	m.index()
	stdout, stderr, err := m.run()
	dir := m.ready(stdout, stderr, err)
	layer, lib := strings.TrimSpace(stdout), filepath.Join(dir, "lib", "libtorch_cpu.so")
	cut := func(path string) []byte {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(path, int64(len(text)/2)))
		return text
	}
	want := cut(layer)
	stdout, stderr, err = m.run()
	m.ready(stdout, stderr, err)
	require.Contains(t, stderr, layer+" is damaged")
	got, err := os.ReadFile(layer)
	require.NoError(t, err)
	require.Equal(t, len(want), len(got))

	want = cut(lib)
	m.ready(m.run())
	got, err = os.ReadFile(lib)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// The compiler refuses what the set-up refuses: the list in csrc/layer/torch_version.h is the one in internal/libtorch/versions.
func TestVersionsInHeader(t *testing.T) {
	root := source(t)
	var supported []string
	for _, r := range libtorch.Supported() {
		supported = append(supported, r.Version)
	}
	require.NotEmpty(t, supported)
	m := newMachine(t)
	compile := func(version string) (string, error) {
		dir := m.libtorch("v"+version, version)
		out, err := exec.Command("g++", "-std=c++20", "-fsyntax-only", "-I"+dir+"/include", "-I"+dir+"/include/torch/csrc/api/include",
			"-x", "c++", filepath.Join(root, "csrc", "layer", "torch_version.h")).CombinedOutput()
		return string(out), err
	}
	for _, v := range supported {
		out, err := compile(v)
		require.NoError(t, err, "%s: %s", v, out)
	}
	for _, v := range []string{"1.13.1", "2.10.0", "2.11.1", "2.12.0", "2.16.0", "3.11.0"} {
		out, err := compile(v)
		require.Error(t, err, v)
		require.Regexp(t, `#error onestep supports libtorch `+regexp.QuoteMeta(strings.Join(supported, " and "))+`,`, out)
	}
}

// The set-up runs in a module that requires onestep, with the sources wherever Go has them.
func TestSetupFromAnotherModule(t *testing.T) {
	m := newMachine(t)
	m.write("nvidia/cu13/lib/libcudart.so.13", "")
	m.compile(m.path("nvidia/cu13/lib/libcudart.so.13"), "-Wl,-soname,libcudart.so.13")
	m.env = append(m.env, "LIBTORCH="+m.libtorch("torch", "2.11.0"), "GOPROXY=off", "GOSUMDB=off", "GOWORK=off")
	m.write("user/main.go", "package main\n\nimport \"github.com/onestep-go/onestep/csrc\"\n\nfunc main() { _ = csrc.Open }\n")
	const setup = "github.com/onestep-go/onestep/scripts/setup"
	m.write("user/go.mod", fmt.Sprintf("module example.com/user\n\ngo %s\n\nrequire github.com/onestep-go/onestep v0.0.0\n\nreplace github.com/onestep-go/onestep => %s\n\ntool %s\n",
		strings.TrimPrefix(goEnv(t, "GOVERSION"), "go"), m.root, setup))
	in := func(args ...string) (string, string, error) {
		var out, errs bytes.Buffer
		cmd := exec.Command(m.path("bin/go"), args...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = m.path("user"), m.env, &out, &errs
		err := cmd.Run()
		return out.String(), errs.String(), err
	}
	for _, args := range [][]string{{"run", setup}, {"run", "-trimpath", setup}, {"tool", "setup"}} {
		require.NoError(t, os.RemoveAll(m.path("build")))
		m.ready(in(args...))
	}
	_, errs, err := in("mod", "vendor")
	require.NoError(t, err, errs)
	require.NoError(t, os.RemoveAll(m.path("build")))
	m.ready(in("tool", "setup"))

	// What is vendored belongs to the user: nothing is written there.
	vendored := m.path("user/vendor/github.com/onestep-go/onestep")
	require.NoError(t, os.RemoveAll(filepath.Join(vendored, "csrc", "layer", "found.json")))
	m.env = append(m.env, "ONESTEP_BUILD=")
	layer, errs, err := in("tool", "setup")
	require.NoError(t, err, errs)
	require.Equal(t, m.path("cache/onestep/layers"), filepath.Dir(layer))
	require.NoFileExists(t, filepath.Join(vendored, "csrc", "layer", "found.json"))
	require.NoDirExists(t, filepath.Join(vendored, "build"))
}
