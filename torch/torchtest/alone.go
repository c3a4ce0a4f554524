package torchtest

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// Alone tells whether the test runs in a process of its own, where no other test's tensors count in what an allocator held at most. If it
// does not, it runs the test in one: the test has nothing left to do then.
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
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
	t.Logf("in a process of its own:\n%s", out)
	return false
}
