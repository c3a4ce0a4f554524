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
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests of scripts/setup run it in made-up machines: a PATH with chosen tools, a cache folder of its own, and instead
// of PyPI a folder of tiny wheels that have the shape of the real ones.

// source returns the root of the source tree.
func source(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds programs from the source tree")
	}
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(root, "scripts", "setup")); err != nil {
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
	m.tools("go", "g++", "gcc", "ldd", "bash", "cat") // the last two for ldd, which is a script
	// The folders that stand for libtorch have nothing to compile a layer against: what would be compiled is written down.
	m.tool("g++", `case "$*" in *-DONESTEP_SOURCE=* | *-lc10*)
  echo "$*" >>`+m.path("compiled")+`
  for a; do case "$a" in -DONESTEP_SOURCE=*) echo "$a" >`+m.path("source")+` ;; esac; done
  case "$*" in *-lc10*) link=1 ;; esac
  while [ "$1" != -o ]; do shift; done
  : >"$2"
  [ -n "$link" ] || exit 0
  echo 'extern "C" { extern const char onestep_layer_source[]; const char onestep_layer_source[] = ONESTEP_SOURCE; }' |
    PATH='`+os.Getenv("PATH")+`' `+look(t, "g++")+` "$(cat `+m.path("source")+`)" -shared -fPIC -o "$2" -x c++ -
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

// tools puts those of the real machine on the machine's PATH.
func (m *machine) tools(names ...string) {
	m.t.Helper()
	for _, name := range names {
		m.tool(name, `exec `+look(m.t, name)+` "$@"`)
	}
}

// command is the set-up, built from a source tree, in a folder of the user's.
func (m *machine) command(tree string, args ...string) *exec.Cmd {
	m.t.Helper()
	of := &theSetup
	if tree != m.root {
		of = new(program)
	}
	path := of.build(m.t, tree, "./scripts/setup", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	if of != &theSetup {
		m.t.Cleanup(func() { require.NoError(m.t, os.RemoveAll(of.dir)) })
	}
	cmd := exec.Command(path, args...)
	cmd.Env = m.env
	cmd.Dir = m.dir
	return cmd
}

// run runs the set-up and returns its two outputs.
func (m *machine) run(args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd := m.command(m.root, args...)
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

func look(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	require.NoError(t, err)
	return path
}
