package torchtest

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// Alone reports whether the test runs in its own process, where other tests do not add to the allocator's peak. If not, it runs the test in
// a new process and returns false: the test should then return.
func Alone(t *testing.T) bool {
	t.Helper()
	const alone = "ONESTEP_TEST_ALONE"
	if os.Getenv(alone) == t.Name() {
		return true
	}
	var names []string
	for name := range strings.SplitSeq(t.Name(), "/") {
		names = append(names, "^"+regexp.QuoteMeta(name)+"$")
	}
	child := exec.Command(os.Args[0], "-test.run="+strings.Join(names, "/"), "-test.v")
	child.Env = append(os.Environ(), alone+"="+t.Name())
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("in its own process: %v\n%s", err, out)
	}
	t.Logf("in its own process:\n%s", out)
	return false
}
