package tests

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// When libtorch is opened, OpenMP's workers are set to spin briefly, and there are no more threads than Go may use. What the user has set holds.
// OpenMP's runtime prints what it has read.
func TestThreadsAtOpen(t *testing.T) {
	path := tool(t)
	for _, c := range []struct {
		env, runtime string
		threads      int // 0: the machine's
	}{
		{"", "GOMP_SPINCOUNT = '20000'", 0},
		{"GOMP_SPINCOUNT=77", "GOMP_SPINCOUNT = '77'", 0},
		{"OMP_WAIT_POLICY=active", "OMP_WAIT_POLICY = 'ACTIVE'", 0},
		{"OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT = '0'", 0},
		{"GOMAXPROCS=1", "", 1},
		{"GOMAXPROCS=1 OMP_NUM_THREADS=2", "", 2},
	} {
		cmd := exec.Command(path, "doctor", "--json")
		for _, kv := range os.Environ() {
			switch name, _, _ := strings.Cut(kv, "="); name {
			case "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMAXPROCS":
			default:
				cmd.Env = append(cmd.Env, kv)
			}
		}
		cmd.Env = append(append(cmd.Env, "OMP_DISPLAY_ENV=VERBOSE"), strings.Fields(c.env)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		require.NoError(t, cmd.Run(), "%s: %s", c.env, errs.String())
		require.Contains(t, errs.String(), c.runtime, c.env)
		var h struct{ Threads int }
		require.NoError(t, json.Unmarshal(out.Bytes(), &h))
		if c.threads > 0 {
			require.Equal(t, c.threads, h.Threads, c.env)
		}
	}
}
