package captioned

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/internal/quote"
)

// pipe is what a spec of a shell command begins with, as in WebDataset.
const pipe = "pipe:"

// command returns the path of a file with the output of a shell command, which the caller removes.
func (f *fetcher) command(ctx context.Context, line string) (_ string, err error) {
	if strings.TrimSpace(line) == "" {
		return "", errors.New("pipe: want a shell command that writes a tar shard, got nothing")
	}
	file, err := os.CreateTemp(f.dir, "pipe-*.tar")
	if err != nil {
		return "", quote.Error(err)
	}
	defer func() {
		if err = errors.Join(err, quote.Error(file.Close())); err != nil {
			err = errors.Join(err, quote.Error(os.Remove(file.Name())))
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stderr tail
	c := exec.CommandContext(ctx, "sh", "-c", line)
	c.Stderr = &stderr
	// The command's processes end together.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 10 * time.Second
	out, err := c.StdoutPipe()
	if err != nil {
		return "", quote.Error(err)
	}
	if err := c.Start(); err != nil {
		return "", quote.Error(err)
	}
	n, copied := io.Copy(file, io.LimitReader(out, f.left+1))
	if n > f.left || copied != nil {
		cancel()
	}
	ended := c.Wait()
	switch {
	case n > f.left:
		return "", f.tooMuch("pipe: " + quote.Quoted(line))
	case copied != nil:
		return "", fmt.Errorf("pipe: %s: %w", quote.Quoted(line), quote.Error(copied))
	case ended != nil:
		return "", fmt.Errorf("pipe: %s: %w%s", quote.Quoted(line), quote.Error(ended), stderr.said())
	case n == 0:
		return "", fmt.Errorf("pipe: %s: it wrote nothing%s", quote.Quoted(line), stderr.said())
	}
	f.left -= n
	f.fetched++
	return file.Name(), nil
}

// tail keeps the end of what is written.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.data = append(t.data, p...)
	if over := len(t.data) - most; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// said is the last line of it, for an error.
func (t *tail) said() string {
	lines := bytes.Split(bytes.TrimSpace(t.data), []byte("\n"))
	if last := bytes.TrimSpace(lines[len(lines)-1]); len(last) > 0 {
		return ": " + quote.Long(last, 400)
	}
	return ""
}
