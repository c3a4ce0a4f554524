package models

import (
	"fmt"
	"os"
	"testing"

	"github.com/onestep-go/onestep/torch"
)

func TestMain(m *testing.M) {
	if err := torch.SetThreads(1); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	before := torch.Live()
	code := m.Run()
	if left := torch.Live() - before; left != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d tensors were not freed\n", left)
		code = 1
	}
	os.Exit(code)
}
