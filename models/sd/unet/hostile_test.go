package unet

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// Lists in a config.json that no honest one has are refused without work that grows with the square of their length or depth.
func TestLongLists(t *testing.T) {
	for name, list := range map[string]string{
		"long":        "[" + strings.Repeat(`"silu",`, 2_000_000) + `"silu"]`,
		"deep":        strings.Repeat("[", 9000) + `"silu"` + strings.Repeat("]", 9000),
		"within 1 MB": "[" + strings.Repeat(`"silu",`, 100_000) + `"silu"]`,
		"many deep":   "[" + strings.Repeat(strings.Repeat("[", 500)+strings.Repeat("]", 500)+",", 1000) + `"silu"]`,
	} {
		t.Run(name, func(t *testing.T) {
			data := []byte(`{"act_fn": ` + list + `}`)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := ParseConfig(data)
			runtime.ReadMemStats(&after)
			assert.Error(t, err)
			assert.Less(t, len(err.Error()), 500)
			assert.Less(t, time.Since(start), 5*time.Second)
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(500<<20))
		})
	}
}
