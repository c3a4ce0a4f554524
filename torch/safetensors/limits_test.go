package safetensors

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// Headers within the format's 100 MB can have millions of entries: they are refused after as many as no honest file has.
func TestEntriesAreLimited(t *testing.T) {
	for name, c := range map[string]struct {
		n           int
		open, entry string
		limit       int
	}{
		"metadata": {7_000_000, `{"__metadata__":{"x":""`, `,"%x":""`, maxMetadata},
		"tensors":  {1_700_000, `{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, `,"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, maxTensors},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			b.WriteString(c.open)
			for i := 0; i < c.n && b.Len() < maxHeader-100; i++ {
				fmt.Fprintf(&b, c.entry, i)
			}
			b.WriteString(strings.Repeat("}", strings.Count(c.open, "{")-strings.Count(c.open, "}")))
			data := file(b.String())
			start := time.Now()
			var err error
			got := allocated(func() { _, err = Parse("x", data) })
			assert.ErrorContains(t, err, fmt.Sprintf("more than %d", c.limit))
			assert.Less(t, got, uint64(300<<20))
			assert.Less(t, time.Since(start), 5*time.Second)
		})
	}
}
