package atomicfile

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// Temporary names. Whoever works on what has one holds a lock on it (flock), which ends with the process, however it ends: a temporary name
// whose lock can be taken belongs to nobody. Where a file system has no locks, nothing can be known, and nothing is removed.
var temporary = regexp.MustCompile(`^\.onestep-[A-Z2-7]{26}\.tmp$`)

// temporaryIn makes up a temporary name in a folder.
func temporaryIn(dir string) string { return filepath.Join(dir, ".onestep-"+rand.Text()+".tmp") }

// create opens a new file in a folder, locked, without a name, or with a temporary one where the file system or /proc cannot do that. Its
// errors speak of path.
func create(dir, path string) (f *os.File, temp string, err error) {
	if _, err := os.Stat("/proc/self/fd"); err == nil {
		if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o666); err == nil {
			_ = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) // for the moment in which it may have a temporary name
			return os.NewFile(uintptr(fd), path), "", nil
		}
	}
	return createNamed(dir, path)
}

// Probe finds out whether a file can be made in a folder.
func Probe(dir string) error {
	f, temp, err := create(dir, dir)
	if err != nil {
		return err
	}
	(&File{f: f, temp: temp}).Discard()
	return nil
}

// createNamed is create with a temporary name.
func createNamed(dir, path string) (f *os.File, temp string, err error) {
	for {
		temp = temporaryIn(dir)
		fd, err := unix.Open(temp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return nil, "", err
		}
		f = os.NewFile(uintptr(fd), path)
		if held(f, temp) {
			return f, temp, nil
		}
		_ = f.Close() // swept away between the two calls, or about to be
	}
}

// held locks what was just made, and reports whether it is still there: another process may have taken it for left behind before.
func held(f *os.File, temp string) bool {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return false
	}
	return is(f, temp)
}

// is reports whether a name is an open file's.
func is(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(name)
	return err == nil && os.SameFile(a, b)
}

// free gives what link links a temporary name beside a path.
func free(path string, link func(string) error) (string, error) {
	for {
		temp := temporaryIn(filepath.Dir(path))
		if err := link(temp); !errors.Is(err, fs.ErrExist) {
			return temp, err
		}
	}
}

// Sweep removes from a folder what killed processes have left there in the middle of writing, and nothing else: no file of another name, and
// none that a process is working on, on whatever machine. It returns how many it has removed. What it may not read or remove stays.
func Sweep(dir string) (removed int) {
	d, err := os.Open(dir)
	if err != nil {
		return 0
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			if temporary.MatchString(name) && sweep(filepath.Join(dir, name)) {
				removed++
			}
		}
		if err != nil { // the end, too
			return removed
		}
	}
}

func sweep(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || !(st.Mode().IsRegular() || st.IsDir()) {
		return false
	}
	flag := unix.O_WRONLY // some file systems lock only what can be written
	if st.IsDir() {
		flag = unix.O_RDONLY | unix.O_DIRECTORY
	}
	fd, err := unix.Open(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil || !is(f, path) {
		return false
	}
	return os.RemoveAll(path) == nil
}
