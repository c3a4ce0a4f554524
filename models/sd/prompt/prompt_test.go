package prompt

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDefault(t *testing.T) {
	d := Default()
	require.Equal(t, 49408, d.Vocab())
	require.Equal(t, []int{320, 1125, 539, 320, 2368}, d.Encode("a photo of a cat"))
	require.Equal(t, "a photo of a cat", d.Decode(d.Encode("A  photo of a\ncat")))
	chunks, cut := d.Plain("a cat")
	require.Empty(t, cut)
	require.Len(t, chunks[0].IDs, 77)
	require.Equal(t, []int{49406, 320, 2368, 49407, 49407}, chunks[0].IDs[:5])
	require.Equal(t, 0, d.WithPad(0).frame(nil, nil).IDs[2])
}
