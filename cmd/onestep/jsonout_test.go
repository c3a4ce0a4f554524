package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// JSON has no character that a terminal acts on, and means the same.
func TestJSONIsInert(t *testing.T) {
	in := map[string]string{"a\u009b31m": "\u202eb\u2066 \u200b\u00ad\U000e0041\x1b\x7f\n", "é": "日本 😀 <&>"}
	var b bytes.Buffer
	require.NoError(t, writeJSON(&b, in, ""))
	require.Contains(t, b.String(), `a\u009b31m`)
	require.Contains(t, b.String(), `\u202eb\u2066`)
	require.Contains(t, b.String(), `日本 😀 <&>`)
	require.Equal(t, 1, bytes.Count(b.Bytes(), []byte("\n")))
	for _, r := range "\u009b\u202e\u2066\u200b\u00ad\U000e0041\x1b\x7f" {
		require.NotContains(t, b.String(), string(r))
	}
	var got map[string]string
	require.NoError(t, json.Unmarshal(b.Bytes(), &got))
	require.Equal(t, in, got)
	a := &app{stdout: &b, json: true}
	b.Reset()
	require.NoError(t, a.print("\u009b", ""))
	require.Equal(t, "\"\\u009b\"\n", b.String())
}
