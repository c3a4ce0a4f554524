package prompt

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What A1111 reads as several prompts, told from what weighs.
func TestOverTime(t *testing.T) {
	for text, want := range map[string][]string{
		"a [cat:dog:0.5] b":      {"[cat:dog:0.5]"},
		"[cat:10] [dog::12]":     {"[cat:10]", "[dog::12]"},
		"[:dog: .25 ]":           {"[:dog: .25 ]"},
		"[cat|dog|] x":           {"[cat|dog|]"},
		"[(cat:1.2)|dog]":        {"[(cat:1.2)|dog]"},
		"[a [b|c]:d:3]":          {"[b|c]", "[a [b|c]:d:3]"},
		"[a (b|c:0.5]":           nil,
		"a cat AND a dog:1.2":    {"AND"},
		"[a|b] AND c":            {"[a|b]", "AND"},
		"(cat:1.2) [dog] a|b":    nil,
		"[(cat:0.5)] [a: b]":     nil,
		`\[a:b:0.5\] [a \| b]`:   nil,
		"SAND ANDROID a_AND_b":   nil,
		"[a:b:0.5":               nil,
		"a:0.5] )|]":             nil,
		"[<lora:x:0.5>] a and b": nil,
		"(a|b) (a:b:0.5)":        nil,
		"":                       nil,
		`a\`:                     nil,
	} {
		require.Equal(t, want, OverTime(text), text)
	}
	require.NotEmpty(t, OverTime(strings.Repeat("[", 1<<16)+strings.Repeat("|]", 1<<16)))
}
