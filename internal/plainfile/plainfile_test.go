package plainfile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/plainfile"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		if got, err := plainfile.Read(p, 7); err != nil || string(got) != "content" {
			t.Errorf("%s: got %q, %v", p, got, err)
		}
	}
	if got, err := plainfile.Read(path, 6); !errors.Is(err, plainfile.ErrTooLarge) || !strings.Contains(err.Error(), "7") || !strings.Contains(err.Error(), "6") {
		t.Errorf("7 bytes where 6 may be: got %q, %v", got, err)
	}
	// The kernel says that these have no bytes.
	if got, err := plainfile.Read("/proc/self/status", 1<<20); err != nil || !strings.Contains(string(got), "VmRSS") {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := plainfile.Read("/proc/self/status", 10); !errors.Is(err, plainfile.ErrTooLarge) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := plainfile.Read(filepath.Join(dir, "\x1b[2Jnone"), 6); !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("a name with an escape sequence: got %q", err)
	}
}

// What is no file is refused without waiting for it: a test that fails here hangs.
func TestNotRegular(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo\u009b")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, is := range map[string]string{fifo: "named pipe", "/dev/zero": "device", dir: "directory"} {
		_, err := plainfile.Read(path, 6)
		f, _, errOpen := plainfile.Open(path)
		for _, err := range []error{err, errOpen} {
			if !errors.Is(err, plainfile.ErrNotRegular) || !strings.Contains(err.Error(), is) || strings.Contains(err.Error(), "\u009b") {
				t.Errorf("%q: got %q, want it refused as a %s", path, err, is)
			}
		}
		if f != nil {
			t.Errorf("%q: a file came, too", path)
		}
	}
}

func TestStream(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := plainfile.Stream(fifo)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || len(got) != 0 {
		t.Errorf("nobody writes: got %q, %v", got, err)
	}
	f.Close()
	r, w, err := os.Pipe() // as a shell's <(command)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if f, err = plainfile.Stream("/dev/fd/" + strconv.Itoa(int(r.Fd()))); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	go func() {
		defer w.Close()
		_, _ = w.WriteString("from a command")
	}()
	if got, err := io.ReadAll(f); err != nil || string(got) != "from a command" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := plainfile.Stream("/dev/zero"); !errors.Is(err, plainfile.ErrNotRegular) {
		t.Errorf("a device: got %v", err)
	}
}
