package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	o := Options{Durable: true}
	require.NoError(t, WriteBytes(path, o, []byte("one")))
	require.ErrorIs(t, WriteBytes(path, o, []byte("two")), fs.ErrExist)
	require.Equal(t, "one", content(t, path))
	o.Overwrite = true
	require.NoError(t, os.Chmod(path, 0o640))
	require.NoError(t, WriteBytes(path, o, []byte("two")))
	require.Equal(t, "two", content(t, path))
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o640), st.Mode())

	broken := errors.New("broken")
	fails := func(w io.Writer) error {
		_, err := w.Write(make([]byte, 1<<20))
		return errors.Join(err, broken)
	}
	require.ErrorIs(t, Write(path, o, fails), broken)
	require.ErrorIs(t, Write(filepath.Join(dir, "b"), o, fails), broken)
	require.Panics(t, func() { _ = Write(path, o, func(io.Writer) error { panic("") }) })
	require.Equal(t, "two", content(t, path))
	require.Equal(t, []string{"a"}, names(t, dir))

	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink("a", link))
	o.KeepLinks = true
	require.NoError(t, WriteBytes(link, o, []byte("three")))
	require.Equal(t, "three", content(t, path))
	o.KeepLinks = false
	require.NoError(t, WriteBytes(link, o, []byte("four")))
	require.Equal(t, "three", content(t, path))
	require.Equal(t, "four", content(t, link))

	require.Error(t, WriteBytes(filepath.Join(dir, "none", "x"), o, nil))
	require.ErrorContains(t, WriteBytes(dir, o, nil), "regular")
	require.Equal(t, []string{"a", "link"}, names(t, dir))
}

// Several files get their names together, or none does.
func TestCommit(t *testing.T) {
	dir := t.TempDir()
	prepare := func(name string) *File {
		f, err := Prepare(filepath.Join(dir, name), Options{}, func(w io.Writer) error {
			_, err := io.WriteString(w, name)
			return err
		})
		require.NoError(t, err)
		return f
	}
	a, b := prepare("a"), prepare("b")
	require.Empty(t, names(t, dir))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b"), []byte("other"), 0o666))
	require.ErrorIs(t, Commit(a, b), fs.ErrExist)
	require.Equal(t, []string{"b"}, names(t, dir))
	require.Equal(t, "other", content(t, filepath.Join(dir, "b")))
}

// Where files have to have a name, the temporary one goes in each case.
func TestWithNames(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	for _, overwrite := range []bool{false, true, true} {
		f, temp, err := createNamed(dir, path)
		require.NoError(t, err)
		require.Regexp(t, temporary, filepath.Base(temp))
		require.Zero(t, Sweep(dir), "it is being written")
		require.NoError(t, Commit(&File{f: f, temp: temp, path: path, target: path, options: Options{Overwrite: overwrite}}))
		require.Equal(t, []string{"a"}, names(t, dir))
	}
	f, temp, err := createNamed(dir, path)
	require.NoError(t, err)
	require.ErrorIs(t, Commit(&File{f: f, temp: temp, path: path, target: path}), fs.ErrExist)
	require.Equal(t, []string{"a"}, names(t, dir))
}

func TestWriteFolder(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "x")
	fill := func(name string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o666) }
	}
	require.NoError(t, os.Mkdir(path, 0o777))
	require.NoError(t, WriteFolder(path+"/", Options{}, fill("one"))) // in place of an empty one
	require.ErrorIs(t, WriteFolder(path, Options{}, fill("two")), fs.ErrExist)
	require.Equal(t, []string{"one"}, names(t, path))
	require.NoError(t, WriteFolder(path, Options{Overwrite: true}, fill("two")))
	require.Equal(t, []string{"two"}, names(t, path))
	broken := errors.New("broken")
	require.ErrorIs(t, WriteFolder(path, Options{Overwrite: true}, func(dir string) error {
		require.Zero(t, Sweep(parent), "it is being written")
		return errors.Join(fill("three")(dir), broken)
	}), broken)
	err := WriteFolder(path, Options{Overwrite: true}, func(dir string) error {
		return WriteBytes(filepath.Join(dir, "none", "z"), Options{}, nil)
	})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Contains(t, err.Error(), filepath.Join(path, "none", "z"))
	require.NotContains(t, err.Error(), ".tmp")
	require.Equal(t, []string{"two"}, names(t, path))
	require.Equal(t, []string{"x"}, names(t, parent))
}

// What a killed process leaves is swept away, what a living one writes is not, nor what is somebody's own.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	if os.Getenv("ATOMICFILE_DIR") != "" {
		return // see TestHelper
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), "ATOMICFILE_DIR="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, 1))
	require.NoError(t, err)
	for _, name := range []string{".onestep-mine.png", ".onestep-ABCDEFGHIJKLMNOPQRSTUVWXYZ", ".hidden.tmp", "a.png"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o666))
	}
	link := ".onestep-ABCDEFGHIJKLMNOPQRSTUVWXYZ.tmp"
	require.NoError(t, os.Symlink("a.png", filepath.Join(dir, link)))
	require.Len(t, names(t, dir), 7)
	require.Zero(t, Sweep(dir), "the process lives")
	require.Len(t, names(t, dir), 7)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Equal(t, 2, Sweep(dir))
	require.Equal(t, []string{".hidden.tmp", ".onestep-ABCDEFGHIJKLMNOPQRSTUVWXYZ", link, ".onestep-mine.png", "a.png"}, names(t, dir))
	require.Zero(t, Sweep(filepath.Join(dir, "none")))
}

// TestHelper is the process that TestSweep kills: it has a file and a folder half done.
func TestHelper(t *testing.T) {
	dir := os.Getenv("ATOMICFILE_DIR")
	if dir == "" {
		t.Skip("part of TestSweep")
	}
	_, _, err := createNamed(dir, "x")
	require.NoError(t, err)
	_ = WriteFolder(filepath.Join(dir, "y"), Options{}, func(dir string) error {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "z"), []byte(strings.Repeat("z", 1000)), 0o666))
		_, _ = os.Stdout.WriteString("x")
		time.Sleep(time.Minute)
		return nil
	})
}
