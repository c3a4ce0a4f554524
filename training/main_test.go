package training

import (
	"testing"

	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// drawn is the randomness of step k, of batches like b from the first on.
func drawn(seed uint64, k int, b Batch) Draws {
	n := b.X.Dim(0)
	return Draw(seed, k, int64(k)*int64(n), n)
}
