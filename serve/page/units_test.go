package page_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/stretchr/testify/require"
)

// Parts that no user sees alone.
func units(t *testing.T, c *chrome) {
	p := c.open(t, serve(t, &fake{models: []engine.Info{diffusion}}).URL, 800, 600)
	p.first()
	// The history is bounded by entries and by bytes.
	require.Equal(t, 50, eval[int](p, `import('/static/store.js').then(({ surplus }) => surplus(Array.from({ length: 250 }, () =>
		({ images: [{ blob: { size: 1 } }], thumb: { size: 1 }, settings: {} }))).length)`))
	require.Equal(t, 3, eval[int](p, `import('/static/store.js').then(({ surplus }) => surplus(Array.from({ length: 5 }, () =>
		({ images: [{ blob: { size: 100 << 20 } }], thumb: { size: 1 }, settings: { init: { size: 1 } } }))).length)`))
	// Two slow images, one after the other, are too slow, until there is a quick one.
	require.Equal(t, []bool{false, false, false, true, true, false}, eval[[]bool](p, `import('/static/pace.js').then(({ Pace }) => { const pace = new Pace();
		return [6000, 100, 6000, 6000, 6000, 100].map((ms) => { pace.take(ms); return pace.slow; }); })`))
	// Texts of every kind of chunk are read; a damaged file, and what decompresses to too much, have none.
	read := func(data []byte) map[string]string {
		return eval[map[string]string](p, fmt.Sprintf(`import('/static/png.js').then(({ texts }) => texts(new Uint8Array(%s)))`, numbers(data)))
	}
	plain := file(t, 8, 8)
	with := func(chunks ...[]byte) []byte {
		return slices.Concat(append([][]byte{plain[:33]}, append(chunks, plain[33:])...)...)
	}
	bomb := deflated(t, make([]byte, 8<<20))
	require.Equal(t, map[string]string{"a": "caf\u00e9", "b": "deep", "c": "\u2615", "d": "\u2615 deep"}, read(with(
		chunk("tEXt", "a\x00caf\xe9"), chunk("zTXt", "b\x00\x00"+deflated(t, []byte("deep"))), chunk("iTXt", "c\x00\x00\x00en\x00tea\x00\u2615"),
		chunk("iTXt", "d\x00\x01\x00\x00\x00"+deflated(t, []byte("\u2615 deep"))), chunk("zTXt", "bomb\x00\x00"+bomb),
		chunk("zTXt", "broken\x00\x00nothing"), chunk("iTXt", "short\x00\x00"), chunk("tEXt", "a\x00second"), chunk("tEXt", "\x00no keyword"),
	)))
	require.Empty(t, read(plain[:40]))
	require.Empty(t, read(with(chunk("tEXt", "a\x00b"))[:36]))
	require.Equal(t, map[string]any{"prompt": "a, b:\nc", "negative": "d", "fields": map[string]any{"Steps": "3", "Sampler": "LCM", "Model": "x, y", "Size": "64x64"}},
		eval[map[string]any](p, `import('/static/infotext.js').then(({ parse }) => parse('a, b:\nc\nNegative prompt: d\nSteps: 3, Sampler: LCM, Model: "x, y", Size: 64x64'))`))
	p.quiet()
}

func numbers(data []byte) string {
	list := make([]int, len(data))
	for i, b := range data {
		list[i] = int(b)
	}
	text, _ := json.Marshal(list)
	return string(text)
}

// chunk is a chunk of a PNG.
func chunk(kind, data string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	b = append(append(b, kind...), data...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

func deflated(t *testing.T, data []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

// Settings of strangers take time in proportion to their length.
func TestLongSettings(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no node")
	}
	script := `import('./static/infotext.js').then(({ parse, fromTexts }) => {
		for (const text of [' '.repeat(50000), 'a '.repeat(50000), 'a: "'.repeat(20000), 'a:'.repeat(50000), '"'.repeat(50000), 'a, '.repeat(50000) + ':']) parse('Steps: 1' + text);
		const { settings } = fromTexts({ onestep: '{"label": "map"}' }, [{ name: 'x', classes: ['cat'], samplers: [] }]);
		console.log(JSON.stringify([parse('a, b:\nc\nSteps: 3, Sampler: LCM, Model: "x, \\"y", Lora hashes: "a: 1, b: 2", Size: 64x64,Empty: , Last: "open').fields, settings.prompt]));
	})`
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, node, "--input-type=module", "-e", script).CombinedOutput()
	require.NoError(t, err, string(out))
	require.JSONEq(t, `[{"Steps": "3", "Sampler": "LCM", "Model": "x, \"y", "Lora hashes": "a: 1, b: 2", "Size": "64x64", "Empty": "", "Last": "\"open"}, ""]`, string(out))
}
