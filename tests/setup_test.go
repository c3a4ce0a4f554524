package tests

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// These tests run scripts/libtorch.sh in made-up machines: a PATH with chosen tools, a cache folder of its own, and instead
// of PyPI a folder of tiny wheels that have the shape of the real ones.

// source returns the root of the source tree.
func source(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the set-up script")
	}
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(root, "scripts", "libtorch.sh")); err != nil {
		t.Skip("compiled tests, without the source tree")
	}
	return root
}

// machine is a made-up machine.
type machine struct {
	t    *testing.T
	root string
	dir  string // bin, cache, build, wheels
	env  []string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, root: source(t), dir: t.TempDir()}
	for _, tool := range []string{
		"awk", "basename", "bash", "cat", "chmod", "cp", "cut", "df", "dirname", "env", "find", "flock", "go", "grep", "head", "id", "ldd", "mkdir",
		"mktemp", "mv", "nproc", "paste", "rm", "sed", "sha256sum", "sh", "sleep", "sort", "stat", "tail", "touch", "tr", "uname", "wc", "g++", "gcc",
	} {
		path, err := exec.LookPath(tool)
		require.NoError(t, err)
		m.tool(tool, `exec `+path+` "$@"`)
	}
	// The folders that stand for libtorch have nothing to compile a layer against: what would be compiled is written down.
	m.tool("g++", `case "$*" in *-DONESTEP_SOURCE=* | *-lc10*)
  echo "$*" >>`+m.path("compiled")+`
  while [ "$1" != -o ]; do shift; done
  : >"$2"
  exit ;;
esac
exec `+look(t, "g++")+` "$@"`)
	// With a home of its own every go would leave a process behind that writes there (telemetry).
	if home, ok := os.LookupEnv("HOME"); ok {
		m.tool("go", "HOME='"+home+"' exec "+look(t, "go")+` "$@"`)
	}
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Skipf("no python3: %v", err)
	}
	m.tool("python3", `exec `+strings.TrimSpace(string(out))+` "$@"`)
	m.env = []string{
		"PATH=" + m.path("bin"), "HOME=" + m.path("home"), "XDG_CACHE_HOME=" + m.path("cache"), "ONESTEP_BUILD=" + m.path("build"), "ONESTEP_CUDA=0",
		"PIP_CONFIG_FILE=/dev/null", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=" + m.path("wheels"),
		"GOCACHE=" + goEnv(t, "GOCACHE"), "GOMODCACHE=" + goEnv(t, "GOMODCACHE"), "GOFLAGS=", "GOTOOLCHAIN=local",
		// No torch of the Python that runs: -s and an empty user site are not enough for one in its site-packages.
		"PYTHONPATH=" + m.path("hide"),
	}
	m.write("hide/sitecustomize.py", hideTorch)
	return m
}

// hideTorch makes a Python forget a torch that it has, unless PYTHONPATH names a folder with one.
const hideTorch = `
import importlib.machinery, os, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            where = [p for p in os.environ.get("PYTHONPATH", "").split(":") if p]
            spec = importlib.machinery.PathFinder.find_spec(name, where)
            if spec is None:
                raise ModuleNotFoundError(name)
            return spec
sys.meta_path.insert(0, Hide())
`

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

func (m *machine) path(rel string) string { return filepath.Join(m.dir, rel) }

func (m *machine) write(rel, text string) string {
	m.t.Helper()
	p := m.path(rel)
	require.NoError(m.t, os.MkdirAll(filepath.Dir(p), 0o755))
	require.NoError(m.t, os.WriteFile(p, []byte(text), 0o644))
	return p
}

// tool puts a shell script on the machine's PATH.
func (m *machine) tool(name, body string) {
	m.t.Helper()
	require.NoError(m.t, os.Chmod(m.write("bin/"+name, "#!/bin/sh\n"+body+"\n"), 0o755))
}

// python puts a command before what the machine's Python does.
func (m *machine) python(before string) {
	m.t.Helper()
	text, err := os.ReadFile(m.path("bin/python3"))
	require.NoError(m.t, err)
	m.tool("python3", before+"\n"+strings.TrimPrefix(string(text), "#!/bin/sh\n"))
}

func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(m.root, "scripts", "libtorch.sh"), args...)
	cmd.Env = m.env
	cmd.Dir = m.root
	return cmd
}

// run runs the set-up and returns its two outputs.
func (m *machine) run(args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd := m.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// libtorch makes a folder that looks like a libtorch of some version and returns its path. Its library needs
// libcudart.so.13 as the real one does, found in nvidia/cu13/lib beside it.
func (m *machine) libtorch(rel, version string) string {
	m.t.Helper()
	v := strings.Split(version, ".")
	m.write(rel+"/include/torch/headeronly/version.h",
		fmt.Sprintf("#pragma once\n#define TORCH_VERSION_MAJOR %s\n#define TORCH_VERSION_MINOR %s\n#define TORCH_VERSION_PATCH %s\n", v[0], v[1], v[2]))
	m.write(rel+"/include/torch/csrc/api/include/torch/version.h", "#include <torch/headeronly/version.h>\n")
	m.write(rel+"/__init__.py", `open(__file__ + ".imported", "w")`)
	lib := m.write(rel+"/lib/libtorch_cpu.so", "")
	cudart := m.cudart()
	m.compile(lib, "-Wl,--no-as-needed", cudart, "-Wl,--disable-new-dtags,-rpath,$ORIGIN/../../nvidia/cu13/lib")
	return m.path(rel)
}

// cudart compiles a library of that name and returns its path.
func (m *machine) cudart() string {
	lib := m.path("lib/libcudart.so.13")
	if _, err := os.Stat(lib); err != nil {
		m.write("lib/libcudart.so.13", "")
		m.compile(lib, "-Wl,-soname,libcudart.so.13")
	}
	return lib
}

func (m *machine) compile(lib string, flags ...string) {
	m.t.Helper()
	cmd := exec.Command("g++", append([]string{"-shared", "-o", lib, "-x", "c++", "/dev/null", "-x", "none"}, flags...)...)
	out, err := cmd.CombinedOutput()
	require.NoError(m.t, err, "%s", out)
}

// wheel packs files (by their place in site-packages) into a wheel.
func (m *machine) wheel(name, version, tag string, requires []string, files map[string]string) {
	m.t.Helper()
	base := strings.ReplaceAll(name, "-", "_") + "-" + version
	info := base + ".dist-info/"
	meta := "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"
	for _, r := range requires {
		if _, extra, ok := strings.Cut(r, "; extra == "); ok {
			meta += "Provides-Extra: " + strings.Trim(extra, `"`) + "\n"
		}
		meta += "Requires-Dist: " + r + "\n"
	}
	all := map[string]string{info + "METADATA": meta, info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: " + tag + "\n"}
	for k, v := range files {
		all[k] = v
	}
	record := info + "RECORD,,\n"
	for k := range all {
		record += k + ",,\n"
	}
	all[info+"RECORD"] = record

	f, err := os.Create(m.write("wheels/"+base+"-"+tag+".whl", ""))
	require.NoError(m.t, err)
	defer f.Close()
	z := zip.NewWriter(f)
	for k, v := range all {
		w, err := z.Create(k)
		require.NoError(m.t, err)
		_, err = io.WriteString(w, v)
		require.NoError(m.t, err)
	}
	require.NoError(m.t, z.Close())
}

// index fills the folder that stands for PyPI.
func (m *machine) index() {
	m.t.Helper()
	dir := m.libtorch("made/torch", "2.11.0")
	files := map[string]string{}
	for _, f := range []string{"lib/libtorch_cpu.so", "include/torch/headeronly/version.h", "include/torch/csrc/api/include/torch/version.h", "__init__.py"} {
		text, err := os.ReadFile(filepath.Join(dir, f))
		require.NoError(m.t, err)
		files["torch/"+f] = string(text)
	}
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	m.wheel("torch", "2.11.0", "cp312-cp312-manylinux_2_28_"+arch, []string{
		"sympy>=1.13", `cuda-toolkit[cudart]==13.0.2; platform_system == "Linux"`, `nvidia-cudnn-cu13==9.19.0.56; platform_system == "Linux"`,
		`triton==3.6.0; platform_system == "Linux"`,
	}, files)
	cudart, err := os.ReadFile(m.cudart())
	require.NoError(m.t, err)
	m.wheel("nvidia-cuda-runtime", "13.0.96", "py3-none-any", nil, map[string]string{"nvidia/cu13/lib/libcudart.so.13": string(cudart)})
	m.wheel("nvidia-cuda-cupti", "13.0.85", "py3-none-any", nil, map[string]string{"nvidia/cu13/lib/libcupti.so.13": ""})
	m.wheel("cuda-toolkit", "13.0.2", "py3-none-any", []string{`nvidia-cuda-runtime==13.0.96; extra == "cudart"`}, nil)
	m.wheel("nvidia-cudnn-cu13", "9.19.0.56", "py3-none-any", nil, map[string]string{"nvidia/cudnn/lib/libcudnn.so.9": ""})
}

// needPip skips where no pip can be tested.
func (m *machine) needPip() {
	m.t.Helper()
	cmd := exec.Command(m.path("bin/python3"), "-m", "pip", "--version")
	cmd.Env = m.env
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Skipf("this Python has no pip: %s", out)
	}
}

// ready checks what a set-up that ended well leaves behind, and returns the folder of libtorch.
func (m *machine) ready(stdout, stderr string, err error) string {
	m.t.Helper()
	require.NoError(m.t, err, "%s", stderr)
	require.Regexp(m.t, "^"+regexp.QuoteMeta(m.path("build"))+`/libonestep-torch-2\.11\.0-[0-9a-f]{12}-[0-9a-f]{8}\.so\n$`, stdout)
	require.FileExists(m.t, strings.TrimSpace(stdout))
	var info struct{ Version, Path, Source string }
	text, err := os.ReadFile(m.path("build/libtorch.json"))
	require.NoError(m.t, err)
	require.NoError(m.t, json.Unmarshal(text, &info))
	require.Equal(m.t, "2.11.0", info.Version)
	require.FileExists(m.t, filepath.Join(info.Path, "lib/libtorch_cpu.so"))
	require.NoFileExists(m.t, filepath.Join(info.Path, "__init__.py.imported"))
	compiled, err := os.ReadFile(m.path("compiled"))
	require.NoError(m.t, err)
	require.Contains(m.t, string(compiled), "-I"+info.Path+"/include ")
	left, err := filepath.Glob(m.path("cache/onestep/*.part*"))
	require.NoError(m.t, err)
	require.Empty(m.t, left)
	return info.Path
}

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
		{"LIBTORCH is nothing", set("LIBTORCH=/nonexistent"), nil, `LIBTORCH=/nonexistent is no libtorch: want a folder with lib/libtorch_cpu\.so`},
		{"LIBTORCH is too old", func(m *machine) { set("LIBTORCH=" + m.libtorch("old", "2.9.1"))(m) }, nil, `is libtorch 2\.9\.1: use 2\.11\.0 and 2\.15\.0`},
		{"LIBTORCH is another than asked for", func(m *machine) { set("LIBTORCH=" + m.libtorch("l", "2.11.0"))(m) }, []string{"2.15.0"}, `is libtorch 2\.11\.0: use 2\.15\.0`},
		{"LIBTORCH lacks a library", func(m *machine) { set("LIBTORCH=" + m.libtorch("l", "2.11.0"))(m) }, nil, `libcudart\.so\.13 is missing.*nvidia-cuda-runtime==13\.0\.96`},
		{"LIBTORCH in an odd folder", func(m *machine) {
			m.write("odd one/nvidia/cu13/lib/libcudart.so.13", "")
			m.compile(m.path("odd one/nvidia/cu13/lib/libcudart.so.13"))
			set("LIBTORCH=" + m.libtorch("odd one/torch", "2.11.0"))(m)
		}, nil, `odd one/torch' holds a character`},
		{"a version that is not supported", set(), []string{"2.12.0"}, `libtorch 2\.12\.0 is not supported: use 2\.11\.0 and 2\.15\.0`},
		{"no Go", without("go"), nil, `Go is missing: get go 1\.\S+ or newer from https://go\.dev/dl/`},
		{"old Go", func(m *machine) { m.tool("go", "printf 'go1.19.8\\n1\\ng++\\n'") }, nil, `Go is too old: go\.mod needs go 1\.\S+ and this is go 1\.19\.8`},
		{"Go that may not fetch a newer one", func(m *machine) {
			m.tool("go", "echo 'go: go.mod requires go >= 1.26.0 (running go 1.24.4; GOTOOLCHAIN=local)' >&2; exit 1")
		}, nil, `Go does not run: go: go\.mod requires go >= 1\.26\.0 .*go\.dev/dl`},
		{"no g++", without("g++"), nil, `a C\+\+ compiler \(g\+\+\) is missing: apt-get install g\+\+`},
		{"another compiler that is missing", set("CXX=clang++-99 -v"), nil, `a C\+\+ compiler \(clang\+\+-99\) is missing`},
		{"cgo off", set("CGO_ENABLED=0"), nil, `cgo is switched off`},
		{"no Python", without("python3"), nil, `Python 3 is missing.*apt-get install python3 python3-pip`},
		{"no pip", func(m *machine) { m.python(`case "$2" in pip | venv) exit 1 ;; esac`) }, nil, `pip is missing: apt-get install python3-pip`},
		{"full disk", func(m *machine) { m.tool("df", `printf 'x\n/dev/x 1 1 1234 1%% /\n'`) }, nil, `too little disk space: libtorch needs 2500 MB free in \S+, and there are 1234`},
		{"a cache that cannot be written", set("XDG_CACHE_HOME=/proc/nothing"), nil, `cannot write to /proc/nothing/onestep: set XDG_CACHE_HOME`},
		{"no home", set("XDG_CACHE_HOME=", "HOME="), nil, `neither HOME nor XDG_CACHE_HOME is set`},
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
		}, `could not reach PyPI: connect to the network \(or set LIBTORCH to a libtorch 2\.11\.0 folder\)`},
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
	m.tool("df", "exit 1")
	require.Equal(t, dir, m.ready(m.run()))

	// With ONESTEP_BUILD unset the same is kept for programs elsewhere; that run would write into this tree, so the script
	// runs in a copy.
	tree := m.path("tree")
	files := []string{"go.mod", "scripts/libtorch.sh", "scripts/libtorch-versions", "csrc/csrc.go"}
	for _, pattern := range []string{"csrc/*.h", "csrc/layer/*.cpp", "csrc/layer/*.h"} {
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
		require.NoError(t, os.Chmod(m.write("tree/"+f, string(text)), 0o755))
	}
	elsewhere := func() string {
		cmd := exec.Command(filepath.Join(tree, "scripts", "libtorch.sh"))
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
	cmd := exec.Command("bash", filepath.Join(tree, "scripts", "libtorch.sh"))
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
			out, err := m.command().CombinedOutput()
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
		cmd := m.command()
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
	require.Contains(t, stderr, "the torch of python3 is 2.12.1: looking for 2.11.0 and 2.15.0")
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

// The compiler refuses what the set-up refuses: the list in csrc/layer/torch_version.h is the one in scripts/libtorch-versions.
func TestVersionsInHeader(t *testing.T) {
	root := source(t)
	text, err := os.ReadFile(filepath.Join(root, "scripts", "libtorch-versions"))
	require.NoError(t, err)
	var supported []string
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if !strings.HasPrefix(line, "#") {
			supported = append(supported, strings.Fields(line)[0])
		}
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

func TestTestLog(t *testing.T) {
	root := source(t)
	cmd := exec.Command("awk", "-f", filepath.Join(root, "scripts", "testlog.awk"))
	cmd.Stdin = strings.NewReader(`=== RUN   TestA
    a_test.go:1: chat
=== RUN   TestA/x
=== RUN   TestA/y
    a_test.go:7: why
        not
=== NAME  TestA
    a_test.go:2: in between
--- FAIL: TestA (0.01s)
    --- PASS: TestA/x (0.00s)
    --- FAIL: TestA/y (0.00s)
=== RUN   TestB
    b_test.go:3: no GPU
        here
--- SKIP: TestB (0.00s)
FAIL
3 tensors live at the end
FAIL	example.com/a	0.02s
=== RUN   TestA
    a_test.go:1: chat
--- PASS: TestA (0.00s)
PASS
ok  	example.com/b	(cached)
?   	example.com/c	[no test files]
=== RUN   TestC
panic: lost

goroutine 7 [running]:
FAIL	example.com/d	0.01s
# example.com/e
e.go:1:1: expected package
FAIL	example.com/e [build failed]
FAIL
`)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, `    a_test.go:1: chat
    a_test.go:2: in between
--- FAIL: TestA (0.01s)
    a_test.go:7: why
        not
    --- FAIL: TestA/y (0.00s)
    skipped TestB: no GPU here
3 tensors live at the end
FAIL	example.com/a	0.02s	2 tests, 1 skipped
ok  	example.com/b	(cached)	1 tests
panic: lost

goroutine 7 [running]:
FAIL	example.com/d	0.01s
# example.com/e
e.go:1:1: expected package
FAIL	example.com/e [build failed]
`, string(out))
}

// The script of `make bundle` that runs compiled tests, over tests that are shell scripts.
func TestRunTests(t *testing.T) {
	m := newMachine(t)
	text, err := os.ReadFile(filepath.Join(m.root, "scripts", "run-tests.sh"))
	require.NoError(t, err)
	script := m.write("bundle/run-tests.sh", strings.ReplaceAll(string(text), "@TORCH@", "2.11.0"))
	text, err = os.ReadFile(filepath.Join(m.root, "scripts", "testlog.awk"))
	require.NoError(t, err)
	m.write("bundle/testlog.awk", string(text))
	put := func(rel, body string) {
		require.NoError(t, os.Chmod(m.write("bundle/"+rel, "#!/bin/sh\n"+body+"\n"), 0o755))
	}
	put("bin/onestep", `echo "$LD_LIBRARY_PATH"`)
	put("tests/a/run.test", `echo "--- PASS: TestOne (0.0s)"; echo "    --- PASS: TestOne/cuda:0 (0.0s)"; echo "--- SKIP: TestTwo (0.0s)"`)
	put("tests/a/b/run.test", `[ -f ../run.test ] && echo "--- PASS: TestThree (0.0s)"`)
	run := func(torch string) (string, error) {
		cmd := exec.Command("bash", script)
		cmd.Env = append(m.env, "LIBTORCH="+torch)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	dir := m.libtorch("torch", "2.11.0")
	m.tool("find", "exec "+look(t, "find")+` "$@"`)
	out, err := run(dir)
	require.NoError(t, err, out)
	require.Contains(t, out, dir+"/lib\n")
	require.Contains(t, out, "on the GPU: 1 passed, 0 failed, 0 skipped; skipped in all: 1;")
	require.True(t, strings.HasSuffix(out, "\n2 passed, 0 failed\n"), out)

	put("tests/c/run.test", `echo "--- PASS: TestFour (0.0s)"; echo "panic: lost" >&2; exit 2`)
	put("tests/d/run.test", `printf '=== RUN   TestFive\n    five_test.go:7: why\n--- FAIL: TestFive (0.0s)\n=== RUN   TestSix\n    six_test.go:7: chat\n'; exit 1`)
	out, err = run(dir)
	require.Error(t, err)
	require.Contains(t, out, "panic: lost")
	require.Contains(t, out, "five_test.go:7: why\n--- FAIL: TestFive")
	require.NotContains(t, out, "chat")
	require.True(t, strings.HasSuffix(out, "\n3 passed, 2 failed\n"), out)

	out, err = run(m.libtorch("newer", "2.15.0"))
	require.Error(t, err)
	require.Regexp(t, `^run-tests: \S+ is PyTorch 2\.15\.0, and this bundle is compiled for 2\.11\.0\n$`, out)
	out, err = run("/nonexistent")
	require.Error(t, err)
	require.Regexp(t, `^run-tests: no PyTorch at '/nonexistent': pip install torch==2\.11\.0, or set LIBTORCH[^\n]*\n$`, out)
}

func look(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	require.NoError(t, err)
	return path
}
