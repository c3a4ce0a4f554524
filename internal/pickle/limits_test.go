package pickle

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// A pickle of 16 MiB, which is what checkpoints may have, that is full of what takes the most memory for a byte or a step takes less than 500 MB.
func TestMemoryOfSmallObjects(t *testing.T) {
	const size = 16 << 20
	for name, c := range map[string]struct{ before, unit string }{
		"none": {"(", "N"}, "empty tuples": {"(", ")"}, "lists": {"(", "]"}, "dictionaries": {"(", "}"}, "sets": {"(", "\x8f"},
		"dictionaries of a key": {"(", "}U\x01aNs"}, "lists of one": {"(", "]Na"}, "tuples": {"(", "N\x85"}, "nested tuples": {"N", "\x85"}, "triples": {"(", "NNN\x87"},
		"tuples to a mark": {"(", "(Nt"}, "marks": {"", "("}, "strings": {"(", "\x8c\x01a"}, "numbers": {"(", "J\xff\xff\xff\x7f"}, "floats": {"(", "G\x40\x09\x21\xfb\x54\x44\x2d\x18"},
		"memoized": {"(", "]\x94"}, "memoized at once": {"(", "N\x94"}, "objects": {"cm\nC\nq\x00(", "h\x00)R"}, "new objects": {"cm\nC\nq\x00(", "h\x00)\x81"}, "classes": {"(", "ca\nb\n"},
		"persistent": {"(", "NQ"}, "states": {"cm\nC\n)R", "}b"}, "appended": {"]", "Na"}, "copies": {"(N", "2"},
	} {
		data := append([]byte("\x80\x04"+c.before), bytes.Repeat([]byte(c.unit), (size-64)/len(c.unit))...)
		data = append(data, "l."...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Unpickle(data)
		runtime.ReadMemStats(&after)
		require.Error(t, err, "%s: too many steps", name)
		taken := after.TotalAlloc - before.TotalAlloc // also what was freed again
		t.Logf("%-22s %4d MB", name, taken/1e6)
		require.Less(t, taken, uint64(500e6), name)
	}
}
