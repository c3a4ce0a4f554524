package captioned

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/internal/shuffle"
)

// drawn are the captions that 2,000 positions make of some, with their numbers.
func drawn(t *testing.T, x Settings, all ...string) map[string]int {
	require.NoError(t, x.defaults())
	n := map[string]int{}
	for i := range uint64(2000) {
		n[x.caption(all, int64(i%10), draws{shuffle.Mix(i)})]++
	}
	return n
}

func TestCaptionChanges(t *testing.T) {
	assert.Equal(t, map[string]int{"a, b|c {d}": 2000}, drawn(t, Settings{}, "a, b|c {d}"), "nothing is asked for")

	n := drawn(t, Settings{Shuffle: true, KeepTokens: 1}, "a,b , c,  d")
	assert.Len(t, n, 6)
	for text, count := range n {
		assert.True(t, strings.HasPrefix(text, "a, "), text)
		assert.InDelta(t, 2000/6, count, 80, text)
	}
	assert.Len(t, drawn(t, Settings{Shuffle: true, KeepTokens: 9}, "a, b, c"), 1)

	n = drawn(t, Settings{Dropout: 0.25}, "a")
	assert.InDelta(t, 500, n[""], 80)
	assert.Equal(t, map[string]int{"": 2000}, drawn(t, Settings{Dropout: 1}, "a"))
	assert.Equal(t, map[string]int{"": 1000, "a": 1000}, drawn(t, Settings{DropoutEvery: 2}, "a"))

	n = drawn(t, Settings{}, "first", "second", "third")
	assert.Len(t, n, 3)
	assert.InDelta(t, 2000/3, n["second"], 80)

	// Parts are dropped each for itself, kept ones never.
	n = drawn(t, Settings{PartDropout: 0.5, KeepTokens: 1}, "a, b, c")
	assert.Len(t, n, 4)
	for _, text := range []string{"a, b, c", "a, b", "a, c", "a"} {
		assert.InDelta(t, 500, n[text], 80, text)
	}

	// What is between two separators is shuffled, what is around them is kept, and the second separator keeps parts together.
	x := Settings{Shuffle: true, KeepSeparator: "|||", SecondSeparator: ";;;", Prefix: "1girl |||", Suffix: ", x ||| best, quality"}
	n = drawn(t, x, "sky;;;day, sea")
	assert.Len(t, n, 6)
	assert.Contains(t, n, "1girl, sea, sky,day, x, best, quality")
	x.Shuffle = false
	assert.Equal(t, map[string]int{"1girl, sky,day, sea, x, best, quality": 2000}, drawn(t, x, "sky;;;day, sea"))

	n = drawn(t, Settings{Wildcards: true}, "{red|green} {{cat}} {on|off}")
	assert.Len(t, n, 4)
	assert.Contains(t, n, "green {cat} on")
	assert.Equal(t, map[string]int{"a { b": 2000}, drawn(t, Settings{Wildcards: true}, "a { b"))
	assert.Equal(t, map[string]int{"a } b": 2000}, drawn(t, Settings{Wildcards: true}, "a } b"))

	assert.Equal(t, map[string]int{"x": 2000}, drawn(t, Settings{Prefix: "x"}, ""))
	assert.Equal(t, map[string]int{"": 2000}, drawn(t, Settings{Prefix: "x", Dropout: 1}, "a"))
}

func TestCaptionLines(t *testing.T) {
	text := []byte("\ufeff one \r\n\r\n two\n")
	for lines, want := range map[Lines][]string{JoinLines: {"one two"}, FirstLine: {"one"}, RandomLine: {"one", "two"}} {
		got, _, err := (&Settings{Lines: lines}).captions(text)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	got, _, err := (&Settings{}).captions([]byte(" \n"))
	require.NoError(t, err)
	assert.Empty(t, got)
}

func FuzzWildcards(f *testing.F) {
	f.Add("{a|b} {{x}} {")
	f.Fuzz(func(t *testing.T, text string) {
		got := wildcards(text, draws{1})
		require.LessOrEqual(t, len(got), len(text))
		require.False(t, slices.Contains([]byte(got), 0) && !slices.Contains([]byte(text), 0))
	})
}
