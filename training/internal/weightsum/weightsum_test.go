package weightsum

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// The sums are those of the bytes that caches and runs have been identified by.
func TestForms(t *testing.T) {
	for form, about := range map[Form]string{Cached: "\"a.weight\" float32 [2]\n", Recorded: `"a.weight" [2] `} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			sum := New(form)
			sum.Config([]byte("{}"))
			sum.Tensor("a.weight", torch.FromSlice(s, []float32{1, -2}))
			want := sha256.Sum256([]byte("{}" + about + "\x00\x00\x80\x3f\x00\x00\x00\xc0"))
			require.Equal(t, hex.EncodeToString(want[:]), sum.Hex())
			return nil
		}))
	}
}
