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

// Temporary names. A process holds a lock (flock) on its temporary file, which ends with the process: a temporary file whose lock can be
// taken was left behind. On a file system without locks nothing is removed.
var temporary = regexp.MustCompile(`^\.onestep-[A-Z2-7]{26}\.tmp$`)

// temporaryIn returns a new temporary name in a directory.
func temporaryIn(dir string) string { return filepath.Join(dir, ".onestep-"+rand.Text()+".tmp") }

// create opens a new locked file in a directory, unnamed, or with a temporary name if the file system or /proc does not support that. Its
// errors name path.
func create(dir, path string) (f *os.File, temp string, err error) {
	if _, err := os.Stat("/proc/self/fd"); err == nil {
		if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o666); err == nil {
			_ = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) // in case it gets a temporary name
			return os.NewFile(uintptr(fd), path), "", nil
		}
	}
	return createNamed(dir, path)
}

// Probe returns an error if no file can be made in a directory.
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
		_ = f.Close() // removed by Sweep between the two calls, or about to be
	}
}

// held locks a file that was just made, and reports whether it still exists: another process may have removed it as left behind.
func held(f *os.File, temp string) bool {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return false
	}
	return is(f, temp)
}

// is reports whether a name refers to an open file.
func is(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(name)
	return err == nil && os.SameFile(a, b)
}

// free calls link with new temporary names in a path's directory until one does not exist.
func free(path string, link func(string) error) (string, error) {
	for {
		temp := temporaryIn(filepath.Dir(path))
		if err := link(temp); !errors.Is(err, fs.ErrExist) {
			return temp, err
		}
	}
}

// Sweep removes temporary files and directories that killed processes left in a directory, and nothing else: no file with another name, and
// none that a process on any machine is writing. It returns the number removed. Entries that it may not read or remove stay.
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
		if err != nil { // also at the end
			return removed
		}
	}
}

func sweep(path string) bool {
	st, err := os.Lstat(path)
	if err != nil || !(st.Mode().IsRegular() || st.IsDir()) {
		return false
	}
	flag := unix.O_WRONLY // some file systems lock only files open for writing
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
