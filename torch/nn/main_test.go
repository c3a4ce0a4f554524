package nn

import (
	"fmt"
	"os"
	"testing"

	"github.com/onestep-go/onestep/torch"
)

func TestMain(m *testing.M) {
	before := torch.Live()
	code := m.Run()
	if left := torch.Live() - before; left != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d tensors were not freed\n", left)
		code = 1
	}
	os.Exit(code)
}
