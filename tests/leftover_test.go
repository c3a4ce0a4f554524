package tests

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	sdtiny "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
)

const taesd = sdFolder + "/taesd" // a small one

// found lists what is in a folder and below, by paths relative to it.
func found(t *testing.T, dir string) (all []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir {
			all = append(all, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	}))
	return all
}

// However a writing process ends, its folder has whole files only: at once after a signal that can be caught, and after the next command that
// writes there where it cannot.
func TestKilledLeavesNothing(t *testing.T) {
	onestep := tool(t)
	models := t.TempDir()
	model := filepath.Join(models, "tiny")
	require.NoError(t, sdtiny.Write(model, "sd15"))
	for name, line := range map[string]string{
		"preview": "generate --model MODEL --prompt cat --sampler ddim --steps 900 --width 64 --height 64 --threads 1 --tiny-vae " + taesd + " --preview DIR/p.png --out DIR/a.png --overwrite",
		"sample":  "sample --model builtin --n 100000 --batch 16 --threads 1 --overwrite --out DIR/",
	} {
		for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT} {
			dir := t.TempDir()
			moments := []time.Duration{3 * time.Millisecond} // a signal that is caught ends the command in the same way at any time
			if signal == syscall.SIGKILL {
				moments = []time.Duration{0, 3 * time.Millisecond, 30 * time.Millisecond}
			}
			for _, after := range moments {
				cmd, _, stderr := command(onestep, strings.Fields(strings.NewReplacer("MODEL", model, "DIR", dir).Replace(line))...)
				before := time.Now()
				require.NoError(t, cmd.Start())
				require.Eventually(t, func() bool { // the first file is there, or there anew
					entries, err := os.ReadDir(dir)
					if err != nil {
						return false
					}
					for _, e := range entries {
						if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), ".png") && info.ModTime().After(before) {
							return true
						}
					}
					return false
				}, time.Minute, time.Millisecond)
				time.Sleep(after)
				require.NoError(t, cmd.Process.Signal(signal))
				require.Error(t, cmd.Wait(), stderr.String())
				if signal != syscall.SIGKILL {
					require.Equal(t, 130, cmd.ProcessState.ExitCode(), "%s %v: %s", name, signal, stderr)
					for _, f := range found(t, dir) {
						require.False(t, strings.HasPrefix(f, "."), "%s %v left %s", name, signal, f)
					}
				}
			}
			if signal != syscall.SIGKILL {
				continue
			}
			cmd, _, stderr := command(onestep, "sample", "--model", "builtin", "--overwrite", "--out", dir+"/p.png")
			require.NoError(t, cmd.Run(), stderr.String())
			for _, f := range found(t, dir) {
				require.False(t, strings.HasPrefix(f, "."), "%s %v left %s", name, signal, f)
			}
		}
	}
}

// What is over the limit on the size of files, or finds no room on the disk, is one line that names the file; what was there before is still
// there, and nothing else.
func TestNoRoom(t *testing.T) {
	onestep := tool(t)
	dir := t.TempDir()
	model := filepath.Join(dir, "tiny")
	require.NoError(t, sdtiny.Write(model, "sd15"))
	lines := []string{
		"generate --model MODEL --prompt cat --steps 1 --width 64 --height 64 --out DIR/a.png --overwrite",
		"sample --model builtin --n 400 --quiet --out DIR/a.png --overwrite",
		"convert --model MODEL --out DIR/a.safetensors --overwrite",
		"convert --model MODEL --out DIR/folder --overwrite",
		"train --data emoji --method ict --resolution 8 --channels 16 --mult 1 --batch 2 --threads 1 --steps 2 --out DIR/run",
	}
	check := func(t *testing.T, at, want string, run func(args []string) (*exec.Cmd, string)) {
		files := []string{"a.png", "a.safetensors", "folder", "folder/model_index.json"}
		for _, line := range lines {
			cmd, errs := run(strings.Fields(strings.NewReplacer("MODEL", model, "DIR", at).Replace(line)))
			require.Equal(t, 1, cmd.ProcessState.ExitCode(), errs)
			require.Contains(t, errs, want, line)
			require.Contains(t, errs, "write "+at+"/", line)
			require.NotContains(t, errs, "goroutine", line)
			require.LessOrEqual(t, strings.Count(errs, "exceeds the limit"), 1, errs)
			if !strings.HasPrefix(line, "train") {
				require.Equal(t, 1, strings.Count(errs, "\n"), errs)
				require.Equal(t, files, found(t, at), line)
				for _, f := range []string{"a.png", "a.safetensors", "folder/model_index.json"} {
					data, err := os.ReadFile(filepath.Join(at, f))
					require.NoError(t, err)
					require.Equal(t, "{}", string(data))
				}
				continue
			}
			for _, f := range found(t, at) {
				require.False(t, strings.HasSuffix(f, ".safetensors") && strings.HasPrefix(f, "run/"), f)
				require.False(t, strings.HasPrefix(f, "run/.onestep-"), f)
			}
		}
	}
	fill := func(t *testing.T, at string) {
		require.NoError(t, os.MkdirAll(filepath.Join(at, "folder"), 0o777))
		for _, f := range []string{"a.png", "a.safetensors", "folder/model_index.json"} {
			require.NoError(t, os.WriteFile(filepath.Join(at, f), []byte("{}"), 0o666))
		}
	}
	t.Run("limit", func(t *testing.T) {
		at := t.TempDir()
		fill(t, at)
		check(t, at, "file too large", func(args []string) (*exec.Cmd, string) {
			cmd, _, stderr := command("bash", append([]string{"-c", `ulimit -f 6; exec "$@"`, "bash", onestep}, args...)...)
			_ = cmd.Run()
			return cmd, stderr.String()
		})
	})
	t.Run("disk", func(t *testing.T) {
		at := t.TempDir()
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"); err != nil {
			t.Skip("no small disk can be made here: ", err)
		}
		defer func() { require.NoError(t, unix.Unmount(at, 0)) }()
		fill(t, at)
		require.NoError(t, os.WriteFile(filepath.Join(at, "folder", "model_index.json"), []byte("{}"), 0o666))
		lines = lines[1:] // the tiny model's image has room
		check(t, at, "no space left on device", func(args []string) (*exec.Cmd, string) {
			cmd, _, stderr := command(onestep, args...)
			_ = cmd.Run()
			return cmd, stderr.String()
		})
	})
}
