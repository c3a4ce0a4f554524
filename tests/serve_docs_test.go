package tests

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/builtin"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// blocks returns a text's indented blocks, without the indentation. Blank lines do not end one.
func blocks(text string) (all []string) {
	open, blank := false, 0
	for line := range strings.Lines(text) {
		body, ok := strings.CutPrefix(line, "    ")
		switch {
		case ok && open:
			all[len(all)-1] += strings.Repeat("\n", blank) + body
			blank = 0
		case ok:
			all, open, blank = append(all, body), true, 0
		case strings.TrimSpace(line) == "":
			blank++
		default:
			open = false
		}
	}
	return all
}

// The commands and programs of docs/serve.md work as they are written, in their order, but on a free port: each onestep serve runs until the next
// one.
func TestServeDocs(t *testing.T) {
	if testing.Short() {
		t.Skip("runs some ten commands")
	}
	text, err := os.ReadFile("../docs/serve.md")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(text), -1) {
		_, err := os.Stat("../docs/" + m[1])
		require.NoError(t, err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	dir := t.TempDir()
	for _, name := range []string{"bin", "loras", "runs/fashion"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o777))
	}
	require.NoError(t, os.Symlink(tool(t), filepath.Join(dir, "bin/onestep")))
	require.NoError(t, tinysd.Write(filepath.Join(dir, "sd15"), "sd15"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "runs/fashion/model-0000002.safetensors"), builtin.Data(), 0o666))
	var s *serving
	end := func() {
		if s != nil {
			assert.Zero(t, s.end(syscall.SIGTERM), s.errs)
		}
	}
	defer func() { end() }()
	ran := 0
	for _, block := range blocks(string(text)) {
		block = strings.ReplaceAll(block, "7860", port)
		var cmd *exec.Cmd
		if modules := regexp.MustCompile(`(?m)^(?:import|from) (openai|webuiapi)\b`).FindStringSubmatch(block); modules != nil {
			t.Run(modules[1], func(t *testing.T) {
				cmd = exec.Command(torchtest.Python(t, modules[1], "PIL"), "-c", block)
				cmd.Dir = dir
				cmd.WaitDelay = time.Minute
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s\n%s", block, out)
			})
			continue
		}
		for _, line := range strings.Split(strings.TrimSpace(strings.NewReplacer("\\\n", " ", "|\n", "| ").Replace(block)), "\n") {
			ran++
			if args, ok := strings.CutPrefix(line, "bin/onestep serve"); ok {
				end()
				all := strings.Fields(args)
				if !strings.Contains(args, "--addr") {
					all = append(all, "--addr", "127.0.0.1:"+port)
				}
				s = startServe(t, dir, append(all, "--threads", "1")...)
				continue
			}
			cmd = exec.Command("bash", "-o", "pipefail", "-c", line)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s\n%s", line, out)
		}
	}
	require.Greater(t, ran, 7)
}
