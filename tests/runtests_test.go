package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTestLog(t *testing.T) {
	root := source(t)
	cmd := exec.Command("awk", "-f", filepath.Join(root, "scripts", "testlog.awk"))
	cmd.Stdin = strings.NewReader(`=== RUN   TestA
    a_test.go:1: chat
=== RUN   TestA/x
=== RUN   TestA/y
    a_test.go:7: why
        not
=== NAME  TestA
    a_test.go:2: in between
--- FAIL: TestA (0.01s)
    --- PASS: TestA/x (0.00s)
    --- FAIL: TestA/y (0.00s)
=== RUN   TestB
    b_test.go:3: no GPU
        here
--- SKIP: TestB (0.00s)
FAIL
3 tensors live at the end
FAIL	example.com/a	0.02s
=== RUN   TestA
    a_test.go:1: chat
--- PASS: TestA (0.00s)
PASS
ok  	example.com/b	(cached)
?   	example.com/c	[no test files]
=== RUN   TestC
panic: lost

goroutine 7 [running]:
FAIL	example.com/d	0.01s
# example.com/e
e.go:1:1: expected package
FAIL	example.com/e [build failed]
FAIL
`)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, `    a_test.go:1: chat
    a_test.go:2: in between
--- FAIL: TestA (0.01s)
    a_test.go:7: why
        not
    --- FAIL: TestA/y (0.00s)
    skipped TestB: no GPU here
3 tensors live at the end
FAIL	example.com/a	0.02s	2 tests, 1 skipped
ok  	example.com/b	(cached)	1 tests
panic: lost

goroutine 7 [running]:
FAIL	example.com/d	0.01s
# example.com/e
e.go:1:1: expected package
FAIL	example.com/e [build failed]
`, string(out))
}

// The script of `make bundle` that runs compiled tests, over tests that are shell scripts.
func TestRunTests(t *testing.T) {
	m := newMachine(t)
	m.tools("awk", "bash", "cat", "dirname", "env", "find", "grep", "mkdir", "mktemp", "nproc", "rm", "sed", "sh", "sort", "tail", "tee", "wc", "xargs")
	text, err := os.ReadFile(filepath.Join(m.root, "scripts", "run-tests.sh"))
	require.NoError(t, err)
	script := m.write("bundle/run-tests.sh", strings.ReplaceAll(string(text), "@TORCH@", "2.11.0"))
	text, err = os.ReadFile(filepath.Join(m.root, "scripts", "testlog.awk"))
	require.NoError(t, err)
	m.write("bundle/testlog.awk", string(text))
	put := func(rel, body string) {
		require.NoError(t, os.Chmod(m.write("bundle/"+rel, "#!/bin/sh\n"+body+"\n"), 0o755))
	}
	put("bin/onestep", `echo "$LD_LIBRARY_PATH"`)
	put("bin/fullsize", `echo made >"$6"`)
	put("bin/bench", `while [ $# -gt 1 ]; do case $1 in --model) cat "$2" ;; --json) echo '{"rows": []}' >"$2" ;; --text) echo table >"$2" ;; esac; shift; done`)
	put("tests/a/run.test", `echo "--- PASS: TestOne (0.0s)"; echo "    --- PASS: TestOne/cuda:0 (0.0s)"; echo "--- SKIP: TestTwo (0.0s)"`)
	put("tests/a/b/run.test", `[ -f ../run.test ] && echo "--- PASS: TestThree (0.0s)"`)
	pack := exec.Command(m.path("bin/python3"), "-c", "import tarfile; t = tarfile.open('programs.tar.xz', 'w:xz'); t.add('bin'); t.add('tests'); t.close()")
	pack.Dir = m.path("bundle")
	out, err := pack.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.RemoveAll(m.path("bundle/bin")))
	require.NoError(t, os.RemoveAll(m.path("bundle/tests")))
	run := func(torch string, args ...string) (string, error) {
		cmd := exec.Command("bash", append([]string{script}, args...)...)
		cmd.Env = append(m.env, "LIBTORCH="+torch)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	dir := m.libtorch("torch", "2.11.0")
	env, err := run(dir, "--env")
	require.NoError(t, err, env)
	require.Equal(t, "export LD_LIBRARY_PATH="+dir+"/lib\n", env)
	require.FileExists(t, m.path("bundle/bin/onestep"), "the programs are unpacked")
	all, err := run(dir)
	require.NoError(t, err, all)
	require.Contains(t, all, dir+"/lib\n")
	require.Contains(t, all, "on the GPU: 1 passed, 0 failed, 0 skipped; skipped in all: 1;")
	require.True(t, strings.HasSuffix(all, "\n2 passed, 0 failed\nmade\n"), "on a GPU the benchmarks follow: %s", all)
	var results struct {
		Tests []struct {
			Package         string
			Passed, Skipped int
			GPU             map[string]string
		}
		Bench struct{ Rows []any }
	}
	text, err = os.ReadFile(m.path("bundle/results/results.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &results), "%s", text)
	require.Len(t, results.Tests, 2)
	require.Equal(t, "a", results.Tests[0].Package)
	require.Equal(t, map[string]string{"TestOne/cuda:0": "pass"}, results.Tests[0].GPU)
	require.Equal(t, 1, results.Tests[0].Skipped)
	require.NotNil(t, results.Bench.Rows)
	text, err = os.ReadFile(m.path("bundle/results/results.txt"))
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(text), "\n2 passed, 0 failed\ntable\n"), "%s", text)
	all, err = run(dir, "a/b")
	require.NoError(t, err, all)
	require.True(t, strings.HasSuffix(all, "\n1 passed, 0 failed\n"), all)
	all, err = run(dir, "x")
	require.Error(t, err)
	require.Contains(t, all, "run-tests: there are no tests of x")

	put("tests/c/run.test", `echo "--- PASS: TestFour (0.0s)"; echo "panic: lost" >&2; exit 2`)
	put("tests/d/run.test", `printf '=== RUN   TestFive\n    five_test.go:7: why\n--- FAIL: TestFive (0.0s)\n=== RUN   TestSix\n    six_test.go:7: chat\n'; exit 1`)
	all, err = run(dir)
	require.Error(t, err)
	require.Contains(t, all, "panic: lost")
	require.Contains(t, all, "five_test.go:7: why\n--- FAIL: TestFive")
	require.NotContains(t, all, "chat")
	require.Contains(t, all, "\n3 passed, 2 failed\n")

	all, err = run(m.libtorch("newer", "2.15.0"))
	require.Error(t, err)
	require.Regexp(t, `^run-tests: \S+ is PyTorch 2\.15\.0, and this bundle is compiled for 2\.11\.0\n$`, all)
	all, err = run("/nonexistent")
	require.Error(t, err)
	require.Regexp(t, `^run-tests: no PyTorch at '/nonexistent': pip install torch==2\.11\.0, or set LIBTORCH[^\n]*\n$`, all)
}
