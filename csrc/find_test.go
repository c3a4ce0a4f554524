package csrc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/libtorch"
)

// machine is a made-up machine: a program's folder, a cache folder and folders with libtorch.
type machine struct {
	place
	t   *testing.T
	dir string
}

func newMachine(t *testing.T) *machine {
	dir := t.TempDir()
	m := &machine{t: t, dir: dir}
	m.place = place{folders: []string{m.at("bin"), m.at("lib")}, cache: m.at("cache"), sum: "0123456789ab"}
	return m
}

func (m *machine) at(rel string) string { return filepath.Join(m.dir, rel) }

func (m *machine) write(rel, text string) string {
	m.t.Helper()
	path := m.at(rel)
	require.NoError(m.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(m.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// layerFile puts a layer of a version into a folder, the older the smaller age is.
func (m *machine) layerFile(rel, version string, age time.Duration) string {
	m.t.Helper()
	path := m.write(filepath.Join(rel, libtorch.LayerFile(version, m.sum, "89abcdef")), "no library")
	when := time.Now().Add(-age)
	require.NoError(m.t, os.Chtimes(path, when, when))
	return path
}

// libtorch puts a libtorch into a folder and returns its lib folder.
func (m *machine) libtorch(rel, version string) string {
	m.t.Helper()
	v := strings.Split(version, ".")
	m.write(rel+"/include/torch/headeronly/version.h",
		"#pragma once\n#define TORCH_VERSION_MAJOR "+v[0]+"\n#define TORCH_VERSION_MINOR "+v[1]+"\n#define TORCH_VERSION_PATCH "+v[2]+"\n#define TORCH_VERSION_ABI_TAG 0\n")
	return filepath.Dir(m.write(rel+"/lib/"+libtorch.Library, "no library"))
}

func TestFind(t *testing.T) {
	m := newMachine(t)
	_, err := m.find()
	var missing *OpenError
	require.ErrorAs(t, err, &missing)
	require.Empty(t, missing.Layer)
	require.Equal(t, []string{m.at("bin"), m.at("lib"), m.at("cache/layers")}, missing.Searched)
	for _, v := range Supported() {
		require.Contains(t, missing.Want, v)
	}
	require.Contains(t, missing.Error(), libtorch.SetUp, "without sources here it is run where the program was built")

	m.write("cache/layers/"+libtorch.LayerFile("2.11.0", "fedcba987654", "89abcdef"), "of other sources")
	_, err = m.find()
	require.Error(t, err)

	// Where none has its libtorch the first is taken, so that it can be said what that one lacks.
	older := m.layerFile("cache/layers", "2.15.0", time.Hour)
	newer := m.layerFile("cache/layers", "2.11.0", 0)
	l, err := m.find()
	require.NoError(t, err)
	require.Equal(t, Layer{Path: newer, Version: "2.11.0"}, l)

	// The libtorch that is there decides.
	lib := m.libtorch("torch", "2.15.0")
	m.path = []string{m.at("nothing"), lib}
	l, err = m.find()
	require.NoError(t, err)
	require.Equal(t, older, l.Path)
	require.Equal(t, filepath.Join(lib, libtorch.Library), l.Library)
	require.Equal(t, "2.15.0", l.libraryVersion())

	m.found = m.write("elsewhere/"+libtorch.LayerFile("2.15.0", m.sum, "1"), "")
	l, err = m.find()
	require.NoError(t, err)
	require.Equal(t, m.found, l.Path, "what was built in goes before the cache")
	beside := m.layerFile("lib", "2.15.0", time.Hour)
	l, err = m.find()
	require.NoError(t, err)
	require.Equal(t, beside, l.Path, "a bundle's own goes before what was built in")
	m.given = older
	l, err = m.find()
	require.NoError(t, err)
	require.Equal(t, older, l.Path)

	m.given = m.at("none.so")
	_, err = m.find()
	require.ErrorAs(t, err, &missing)
	require.Contains(t, missing.Reason, m.given)
}

// The folder that is built into a layer is searched after $LD_LIBRARY_PATH.
// A layer of other sources that the set-up had made last when the program was built does not hide that of its own sources in the cache.
func TestFindAfterSourcesChanged(t *testing.T) {
	m := newMachine(t)
	m.path = []string{m.libtorch("torch", "2.11.0")}
	m.found = m.write("cache/layers/"+libtorch.LayerFile("2.11.0", "fedcba987654", "89abcdef"), "of the sources before")
	l, err := m.find()
	require.NoError(t, err)
	require.Equal(t, m.found, l.Path, "there is no other: opening it says what is wrong with it")
	own := m.layerFile("cache/layers", "2.11.0", 0)
	l, err = m.find()
	require.NoError(t, err)
	require.Equal(t, own, l.Path)
}

func TestRunpath(t *testing.T) {
	m := newMachine(t)
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip(err)
	}
	path := m.at(libtorch.LayerPrefix + "2.11.0-" + m.sum + "-1.so")
	out, err := exec.Command(cc, "-shared", "-o", path, "-Wl,--enable-new-dtags", "-Wl,-rpath,"+m.at("torch/lib")+":$ORIGIN/near", "-x", "c", "/dev/null").CombinedOutput()
	require.NoError(t, err, "%s", out)
	m.path = []string{m.at("first")}
	l := m.layer(path)
	require.Empty(t, l.Library)
	require.Equal(t, []string{m.at("first"), m.at("torch/lib"), m.at("near")}, l.searched)
	m.write("near/"+libtorch.Library, "")
	require.Equal(t, m.at("near/"+libtorch.Library), m.layer(path).Library)
	m.libtorch("torch", "2.11.0")
	require.Equal(t, m.at("torch/lib/"+libtorch.Library), m.layer(path).Library)
}

// What the loader says, and what is there, become what is wrong and a command that fixes it.
func TestExplain(t *testing.T) {
	const setUp, pip = "go -C @/tree run ./scripts/setup", "pip install torch==2.11.0"
	noFile := func(name string) string {
		return name + ": cannot open shared object file: No such file or directory"
	}
	for _, c := range []struct {
		name    string
		with    func(m *machine)
		message string
		reason  string // with @ for the machine's folder
		remedy  string
	}{
		{"missing", nil, noFile(libtorch.Library), "libtorch 2.11.0 is missing: there is no libtorch_cpu.so in @/gone", setUp},
		{"missing, in a program of another module", func(m *machine) { m.source, m.user = m.at("cache/onestep@v1.2.3"), true }, noFile(libtorch.Library), "is missing", libtorch.SetUp},
		{"missing, in a tool from the module cache", func(m *machine) { m.source = m.at("cache/onestep@v1.2.3") }, noFile(libtorch.Library), "is missing", libtorch.SetUp + "%v1.2.3"},
		{"missing, without sources", func(m *machine) { m.source = "" }, noFile(libtorch.Library), "is missing", pip},
		{"missing, but one is elsewhere", func(m *machine) {
			m.libtorch("old", "2.9.1")
			m.libtorch("venv", "2.11.0")
			m.torches = []string{m.at("none"), m.at("old"), m.at("venv")}
		}, noFile(libtorch.Library), "is missing", "export LD_LIBRARY_PATH=@/venv/lib"},
		{"in an odd folder", func(m *machine) {
			m.libtorch("it's here", "2.11.0")
			m.torches = []string{m.at("it's here")}
		}, noFile(libtorch.Library), "is missing", `export LD_LIBRARY_PATH='@/it'\''s here/lib'`},
		{"a part is missing", func(m *machine) { m.path = []string{m.libtorch("torch", "2.11.0")} }, noFile("libcudart.so.13"), "libcudart.so.13, which it needs, is missing", setUp},
		{"libgomp is missing", func(m *machine) { m.path = []string{m.libtorch("torch", "2.11.0")} }, noFile("libgomp.so.1"), "libgomp.so.1, which it needs", "apt-get install libgomp1"},
		{"for another machine", func(m *machine) { m.path = []string{m.libtorch("torch", "2.11.0")} }, noFile(libtorch.Library), "@/torch/lib/libtorch_cpu.so is not for this kind of machine", setUp},
		{"damaged", func(m *machine) { m.path = []string{m.libtorch("torch", "2.11.0")} }, "@/torch/lib/libtorch_cpu.so: file too short", "file too short", setUp},
		{"damaged, and fetched by the script", func(m *machine) { m.path = []string{m.libtorch("cache/libtorch-2.11.0/torch", "2.11.0")} },
			"invalid ELF header", "invalid ELF header", "rm -r @/cache/libtorch-2.11.0 && " + setUp},
		{"no room in memory", func(m *machine) {
			m.path, m.limit = []string{m.libtorch("cache/libtorch-2.11.0/torch", "2.11.0")}, "ulimit -v (1.5 GiB)"
		}, "libtorch_cpu.so: failed to map segment from shared object", "its memory is limited by ulimit -v (1.5 GiB)", "ulimit -v unlimited"},
		{"an old system", func(m *machine) { m.path = []string{m.libtorch("torch", "2.11.0")} },
			"/lib/libc.so.6: version `GLIBC_2.38' not found (required by x)", "older than libtorch 2.11.0 needs", "libc6"},
		{"something else", func(m *machine) { m.path = []string{m.libtorch("torch", "2.11.0")} }, "undefined symbol: _ZN2at", "undefined symbol: _ZN2at", setUp},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.source = m.at("tree")
			layer := m.layerFile("cache/layers", "2.11.0", 0)
			if c.with != nil {
				c.with(m)
			}
			l := m.layer(layer)
			if l.Library == "" {
				l.searched = append(l.searched, m.at("gone"))
			}
			e := m.explain(l, c.message)
			at := strings.NewReplacer("@", m.dir, "%", "@")
			require.Contains(t, e.Reason, at.Replace(c.reason))
			require.Contains(t, e.Remedy, at.Replace(c.remedy))
			require.Equal(t, "2.11.0", e.Want)
			require.Equal(t, layer, e.Layer)
			require.Contains(t, e.Error(), e.Reason)
			require.Contains(t, e.Error(), e.Remedy)
			require.NotContains(t, e.Error(), "\n")
		})
	}
}

func TestOtherVersion(t *testing.T) {
	m := newMachine(t)
	m.source = m.at("tree")
	l := m.layer(m.layerFile("cache/layers", "2.11.0", 0))
	l.Library = filepath.Join(m.libtorch("new", "2.15.0"), libtorch.Library)
	l.searched = []string{m.at("new/lib"), m.libtorch("right", "2.11.0")}
	m.path = []string{m.at("new/lib")}
	e := m.otherVersion(l, l.libraryVersion())
	require.Contains(t, e.Reason, m.at("new/lib/"+libtorch.Library)+" is libtorch 2.15.0, expected 2.11.0")
	require.Equal(t, "unset LD_LIBRARY_PATH", e.Remedy, "it hides the right one")
	m.libtorch("right", "2.15.0")
	require.Contains(t, m.otherVersion(l, "2.15.0").Remedy, "run ./scripts/setup")
}

// asNobody runs f as a user who may read only what everybody may. Of root's processes that is one thread with another user of files.
func asNobody(t *testing.T, dir string, f func() *OpenError) *OpenError {
	if os.Geteuid() != 0 {
		return f()
	}
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // testing's own, which is closed
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.NoError(t, syscall.Setfsuid(65534))
	defer func() { require.NoError(t, syscall.Setfsuid(0)) }()
	return f()
}

func TestUnreadable(t *testing.T) {
	m := newMachine(t)
	m.path = []string{m.libtorch("torch", "2.11.0")}
	l := m.layer(m.layerFile("cache/layers", "2.11.0", 0))
	explain := func() *OpenError {
		return asNobody(t, m.dir, func() *OpenError { return m.explain(m.layer(l.Path), "Permission denied") })
	}
	require.NoError(t, os.Chmod(l.Library, 0))
	e := explain()
	require.Contains(t, e.Reason, l.Library)
	require.Equal(t, "chmod -R a+rX "+m.at("torch"), e.Remedy)

	require.NoError(t, os.Chmod(m.at("torch/lib"), 0))
	e = explain()
	require.Contains(t, e.Reason, m.at("torch/lib"))
	require.Equal(t, "chmod -R a+rX "+m.at("torch"), e.Remedy)

	// In a home that is closed nothing is to be changed.
	require.NoError(t, os.Chmod(m.at("torch/lib"), 0o755))
	require.NoError(t, os.Rename(m.at("torch"), m.at("home")))
	m.libtorch("home/of/torch", "2.11.0")
	require.NoError(t, os.Chmod(m.at("home"), 0))
	t.Cleanup(func() { _ = os.Chmod(m.at("home"), 0o755) })
	m.path = []string{m.at("home/of/torch/lib")}
	e = explain()
	require.Contains(t, e.Reason, m.at("home"))
	require.Contains(t, e.Remedy, "pip install torch==2.11.0")
}

// Layers in the home or the cache of another user are said to be there, not to be missing, and what helps is a place of one's own.
func TestLayersOfAnotherUser(t *testing.T) {
	m := newMachine(t)
	m.source = "/src"
	home := m.at("home")
	m.found, m.cache = m.layerFile("home/layers", "2.11.0", 0), m.at("home/cache")
	find := func() *OpenError {
		return asNobody(t, m.dir, func() *OpenError {
			_, err := m.find()
			var e *OpenError
			require.ErrorAs(t, err, &e)
			return e
		})
	}
	require.NoError(t, os.Chmod(home, 0o700))
	if os.Geteuid() != 0 {
		require.NoError(t, os.Chmod(home, 0))
	}
	t.Cleanup(func() { _ = os.Chmod(home, 0o755) })
	e := find()
	require.Contains(t, e.Reason, "may not read "+home)
	require.Regexp(t, `^export XDG_CACHE_HOME=\S+ && go -C /src run \./scripts/setup$`, e.Remedy)

	m.cache = m.at("own")
	if e = find(); os.Geteuid() != 0 { // of root's access(2) looks at the process's user
		require.Equal(t, "go -C /src run ./scripts/setup", e.Remedy)
	}
	require.Contains(t, e.Reason, "may not read "+home)

	m.given = m.found
	e = find()
	require.Contains(t, e.Reason, "may not read "+home)
	require.Equal(t, "unset ONESTEP_LAYER", e.Remedy)
}

// The set-up, which reads the sources from files, names a layer by the same sum as the program, which has them in it.
func TestSourceSum(t *testing.T) {
	if _, err := os.Stat("ct.h"); errors.Is(err, os.ErrNotExist) {
		t.Skip("compiled tests, without the source tree")
	}
	sum, err := libtorch.Sum(os.DirFS("."))
	require.NoError(t, err)
	require.Equal(t, sum, sourceSum())
	l, err := Find()
	require.NoError(t, err)
	require.Contains(t, filepath.Base(l.Path), "-"+sourceSum()+"-")
	require.Contains(t, Supported(), l.Version)
	require.NoError(t, Open())
}
