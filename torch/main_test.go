package torch_test

import (
	"os"
	"testing"

	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(alone) != "" { // set by TestWithoutLibtorch, in a process of its own
		os.Exit(m.Run())
	}
	torchtest.Main(m)
}
