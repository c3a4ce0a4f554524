package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/internal/libtorch"
)

// sitePython is the Python whose wheel is fetched: its libraries do not depend on the Python that runs pip.
const sitePython = "3.12"

// room is how many megabytes an installation needs while it runs.
func room(cuda bool) int64 {
	if cuda {
		return 9000
	}
	return 2500
}

// installer puts a release's wheels into a directory of their own in the cache.
type installer struct {
	release libtorch.Release
	cache   string
	cuda    bool
}

func (i installer) with(cuda bool) installer {
	i.cuda = cuda
	return i
}

// site is the directory of the wheels, as pip makes it with --target.
func (i installer) site() string {
	dir := filepath.Join(i.cache, "libtorch-"+i.release.Version)
	if i.cuda {
		dir += "-cuda"
	}
	return dir
}

// pinned are the wheels of the release without CUDA's, as pip takes them.
func (i installer) pinned() []string {
	return append([]string{"--no-deps", "torch==" + i.release.Version}, i.release.Wheels...)
}

// elsewhere says how to do without what is missing here.
func (i installer) elsewhere() string {
	site := i.with(false).site()
	return fmt.Sprintf("set LIBTORCH to a libtorch %s directory, or run `pip install --target %s %s` on a machine with it and copy the directory to %s",
		i.release.Version, filepath.Base(site), strings.Join(i.pinned(), " "), site)
}

// install makes the directory beside its place and renames it at the end, so that an interrupted run leaves nothing that looks
// finished; a lock keeps two runs apart.
func (i installer) install(ctx context.Context) error {
	python := findPython(ctx)
	if python == "" {
		return fmt.Errorf("libtorch is fetched by pip, and Python 3 is missing: apt-get install python3 python3-pip (or %s)", i.elsewhere())
	}
	unlock, err := lock(ctx, filepath.Join(i.cache, ".lock"), "another run is installing libtorch into "+i.cache+": waiting for it")
	if err != nil {
		return err
	}
	defer unlock()
	site := i.site()
	if whole(ctx, site, i.release.Version) {
		return nil
	}
	if err := i.enough(free(i.cache)); err != nil {
		return err
	}
	if err := os.RemoveAll(site); err != nil {
		return err
	}
	for _, dir := range libtorch.Match(i.cache, filepath.Base(site)+".part.*") {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	part := fmt.Sprintf("%s.part.%d", site, os.Getpid())
	defer os.RemoveAll(part)
	if err := os.MkdirAll(filepath.Join(part, "tmp"), 0o755); err != nil {
		return err
	}
	p, err := newPip(ctx, python, part)
	if err != nil {
		return err
	}
	made := p.target
	if from := i.with(false).site(); i.cuda && complete(from, i.release.Version) {
		if err := link(from, made); err != nil {
			return err
		}
	} else {
		note("fetching libtorch %s from PyPI into %s (600 MB, once)", i.release.Version, i.cache)
		if err := p.install(ctx, i, i.pinned()...); err != nil {
			return err
		}
	}
	if i.cuda {
		note("fetching its CUDA libraries too (2 GB, once; ONESTEP_CUDA=0 does without)")
		wheels, err := i.cudaWheels(made)
		if err != nil {
			return err
		}
		if err := p.install(ctx, i, append([]string{"--upgrade"}, wheels...)...); err != nil {
			return err
		}
	}
	if !complete(made, i.release.Version) {
		return fmt.Errorf("the torch %s that pip installed has no libtorch_cpu for this machine (%s)", i.release.Version, runtime.GOARCH)
	}
	if lib := lacks(ctx, filepath.Join(made, "torch")); lib != "" {
		return fmt.Errorf("the torch %s that pip installed does not load here: %s is missing", i.release.Version, lib)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return os.Rename(made, site)
}

// enough checks the disk's free megabytes.
func (i installer) enough(free int64) error {
	if need := room(i.cuda); free < need {
		return fmt.Errorf("too little disk space: libtorch needs %d MB free in %s, and there are %d: make room or set XDG_CACHE_HOME to another disk", need, i.cache, free)
	}
	return nil
}

// free is how many megabytes a user may still write into a directory.
func free(dir string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return room(true) // pip will say if there is too little
	}
	return int64(st.Bavail) * int64(st.Bsize) >> 20
}

var cudaWheel = regexp.MustCompile(`(?m)^Requires-Dist: *((?:nvidia-|cuda-toolkit)[^;\r\n]*)`)

// cudaWheels are what the torch wheel itself asks for, at its own pins; not the Python packages beside them.
func (i installer) cudaWheels(site string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(site, "torch-"+i.release.Version+".dist-info", "METADATA"))
	if err != nil {
		return nil, err
	}
	var wheels []string
	for _, m := range cudaWheel.FindAllStringSubmatch(string(text), -1) {
		wheels = append(wheels, strings.Join(strings.Fields(m[1]), ""))
	}
	if wheels == nil {
		return nil, fmt.Errorf("the torch %s that pip installed names no CUDA libraries", i.release.Version)
	}
	return wheels, nil
}

// pip is a pip that installs into a directory of ours.
type pip struct {
	command []string
	target  string
	tmp     string
}

// newPip finds a Python's pip, or the one that the Python carries for its virtual environments.
func newPip(ctx context.Context, python, part string) (pip, error) {
	p := pip{target: filepath.Join(part, "site"), tmp: filepath.Join(part, "tmp")}
	runs := func(python string) bool {
		return exec.CommandContext(ctx, python, "-m", "pip", "--version").Run() == nil
	}
	if runs(python) {
		p.command = []string{python, "-m", "pip"}
		return p, nil
	}
	venv := filepath.Join(part, "venv")
	if own := filepath.Join(venv, "bin", "python"); exec.CommandContext(ctx, python, "-m", "venv", venv).Run() == nil && runs(own) {
		p.command = []string{own, "-m", "pip"}
		return p, nil
	}
	return p, errors.New("pip is missing: apt-get install python3-pip")
}

var (
	fullDisk  = regexp.MustCompile(`(?i)No space left|Disk quota`)
	noNetwork = regexp.MustCompile(`(?i)NewConnectionError|Retrying \(|ReadTimeout|ConnectTimeout|ProxyError|Connection (aborted|broken|refused|reset)|Temporary failure`)
	pipError  = regexp.MustCompile(`(?m)^ERROR.*`)
)

// install runs pip whatever the user's settings and the Python's are: a Python that belongs to the system (PEP 668) is not
// touched, since all goes to a directory of ours. Progress goes to standard error; errors become one line.
func (p pip) install(ctx context.Context, i installer, wheels ...string) error {
	args := append(p.command[1:len(p.command):len(p.command)], "--disable-pip-version-check", "--no-input", "--no-cache-dir", "install",
		"--target", p.target, "--no-compile", "--only-binary=:all:", "--python-version", sitePython)
	cmd := exec.CommandContext(ctx, p.command[0], append(args, wheels...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+p.tmp, "PIP_USER=0", "PIP_REQUIRE_VIRTUALENV=0", "PIP_BREAK_SYSTEM_PACKAGES=1", "PIP_ROOT_USER_ACTION=ignore")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout = os.Stderr
	var errs strings.Builder
	cmd.Stderr = &errs
	err := cmd.Run()
	said := errs.String()
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case fullDisk.MatchString(said):
		return fmt.Errorf("the disk is full: make room in %s or set XDG_CACHE_HOME to another disk", i.cache)
	case noNetwork.MatchString(said):
		return fmt.Errorf("pip could not reach PyPI: connect to the network and run this again, or %s", i.elsewhere())
	}
	why := pipError.FindString(said)
	if why == "" {
		lines := strings.Split(strings.TrimSpace(said), "\n")
		why = lines[len(lines)-1]
	}
	return fmt.Errorf("pip could not install %s: %s", strings.Join(wheels, " "), why)
}

// lock takes the lock of a file, after saying so where it has to wait, and returns what gives it back.
// It asks again and again, since a wait inside the kernel would outlast an interrupt.
func lock(ctx context.Context, path, waiting string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for said := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: %v: set XDG_CACHE_HOME to a directory on another disk", path, err)
		}
		if !said {
			note("%s", waiting)
			said = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// link copies a tree by hard links, or by copies where the file system has none.
func link(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o755)
		case e.Type()&fs.ModeSymlink != 0:
			name, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(name, target)
		case os.Link(path, target) == nil:
			return nil
		}
		return copyFile(path, target)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := out.ReadFrom(in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
