package serve

import (
	"testing"

	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }
