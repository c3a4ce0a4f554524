// Package tool runs the onestep tool for the scripts that measure with it.
package tool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/atomicfile"
)

// Tool is the path of the onestep binary.
type Tool string

// Run runs the tool, and returns what it prints and the processor time that it took. The error of a failed run has the tool's own message.
func (t Tool) Run(ctx context.Context, args ...string) ([]byte, time.Duration, error) {
	c := t.command(ctx, args)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return nil, spent(c), fmt.Errorf("onestep %s: %w: %s", strings.Join(args, " "), err, cmp.Or(strings.TrimSpace(errs.String()), "no error message"))
	}
	return out, spent(c), nil
}

// Show is Run with the tool's messages on standard error.
func (t Tool) Show(ctx context.Context, args ...string) ([]byte, time.Duration, error) {
	c := t.command(ctx, args)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, spent(c), fmt.Errorf("onestep %s: %w", strings.Join(args, " "), err)
	}
	return out, spent(c), nil
}

// command is the tool, which is interrupted when the context ends, and then saves what it trains.
func (t Tool) command(ctx context.Context, args []string) *exec.Cmd {
	c := exec.CommandContext(ctx, string(t), args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	return c
}

func spent(c *exec.Cmd) time.Duration {
	if c.ProcessState == nil { // it did not start
		return 0
	}
	return c.ProcessState.UserTime() + c.ProcessState.SystemTime()
}

// Once returns what is in the JSON file at path, or what measure returns, which it then writes there.
func Once[T any](path string, measure func() (T, error)) (got T, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if err = json.Unmarshal(text, &got); err != nil {
			err = fmt.Errorf("%s: %w; remove the file to measure again", path, err)
		}
		return got, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return got, err
	}
	if got, err = measure(); err != nil {
		return got, err
	}
	if text, err = json.MarshalIndent(got, "", "  "); err != nil {
		return got, err
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return got, err
	}
	return got, atomicfile.WriteBytes(path, atomicfile.Options{}, text)
}

// PerImage is the processor time of an image: the difference between 17 images and one, which draw generates into a directory, so that
// what is done once is left out. Unlike the time by the clock it is the same on a busy machine.
func (t Tool) PerImage(ctx context.Context, draw func(n int, dir string) []string) (seconds float64, err error) {
	took := func(n int) (time.Duration, error) {
		dir, err := os.MkdirTemp("", "")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		_, took, err := t.Run(ctx, draw(n, dir+"/")...)
		return took, err
	}
	one, err := took(1)
	if err != nil {
		return 0, err
	}
	many, err := took(17)
	return (many - one).Seconds() / 16, err
}
