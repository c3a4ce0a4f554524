package tests

import (
	"os"
	"testing"

	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) {
	torchtest.Main(m, python3.close, func() {
		for _, p := range []*program{&theTool, &theSetup} {
			if p.dir != "" {
				_ = os.RemoveAll(p.dir)
			}
		}
	})
}
