package weights

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadGuidance(t *testing.T) {
	for text, want := range map[string]Scales{"1.5 4": {1.5, 4}, "2 2": {2, 2}, "0.5 1000": {0.5, 1000}} {
		var c Component
		require.Empty(t, c.readGuidance(map[string]string{guidanceKey: text}), text)
		require.Equal(t, want, c.Guidance)
		require.Equal(t, text, c.Guidance.metadata())
	}
	for _, text := range []string{"", "4", "4 1", "-1 4", "1 NaN", "NaN 1", "1 +Inf", "1 4 5", "1e300 1e301", "a b"} {
		var c Component
		require.NotEmpty(t, c.readGuidance(map[string]string{guidanceKey: text}), text)
		require.False(t, c.Guidance.Known(), text)
	}
	var c Component
	require.Empty(t, c.readGuidance(nil))
	require.True(t, c.Guidance.Has(8.5), "an unknown range has every scale")
	require.False(t, Scales{1.5, 4}.Has(8.5))
}
