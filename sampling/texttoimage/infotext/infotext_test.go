package infotext

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRoundTrip(t *testing.T) {
	in := Text{
		Prompt:   "a cat, (sitting:1.2)\nin two lines",
		Negative: "blurry: very\nand more",
		Fields: []Field{{"Steps", "4"}, {"Sampler", "LCM"}, {"CFG scale", "1"}, {"Seed", "42"}, {"Size", "512x512"},
			{"Lora hashes", `a: 1234, b: "5"`}, {"Model", "v1-5"}},
	}
	text := in.String()
	require.Equal(t, "a cat, (sitting:1.2)\nin two lines\nNegative prompt: blurry: very\nand more\n"+
		`Steps: 4, Sampler: LCM, CFG scale: 1, Seed: 42, Size: 512x512, Lora hashes: "a: 1234, b: \"5\"", Model: v1-5`, text)
	require.Equal(t, in, Parse(text))
	require.Equal(t, "42", Parse(text).Get("Seed"))
	require.Empty(t, Parse(text).Get("Hires"))
}

// A text that A1111 itself wrote.
func TestForeign(t *testing.T) {
	got := Parse("masterpiece, 1girl\r\nNegative prompt: bad hands\r\n" +
		`Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 45dee52b, Hashes: {"model": "45dee52b"}, Version: v1.6.0`)
	require.Equal(t, "masterpiece, 1girl", got.Prompt)
	require.Equal(t, "bad hands", got.Negative)
	require.Equal(t, "DPM++ 2M Karras", got.Get("Sampler"))
	require.Equal(t, "v1.6.0", got.Get("Version"))
	require.Equal(t, Text{Prompt: "just words"}, Parse("just words"))
	require.Equal(t, Text{}, Parse(""))
}

func TestAdd(t *testing.T) {
	var x Text
	x.Add("Steps", "")
	x.Add("Seed", "1")
	require.Equal(t, []Field{{"Seed", "1"}}, x.Fields)
}

// What was read once reads the same after writing, if it has settings.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a\nNegative prompt: b\nSteps: 4, Seed: 1, Size: 8x8", `p` + "\n" + `aa: "x, y", bb: 2, cc: 3`, "\n\n: ,", "Negative prompt:\nNegative prompt:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once := Parse(text)
		if len(once.Fields) < 3 || strings.Contains(once.String(), "\r") {
			return
		}
		for _, field := range once.Fields {
			if field.Value == "" || strings.TrimSpace(field.Value) != field.Value {
				return
			}
		}
		if once.Prompt != strings.TrimSpace(once.Prompt) || once.Negative != strings.TrimSpace(once.Negative) {
			return
		}
		again := Parse(once.String())
		if once.Prompt != again.Prompt {
			t.Fatalf("%q: prompt %q became %q", text, once.Prompt, again.Prompt)
		}
	})
}

// Settings that others know are put where A1111 has them.
func TestAddBeside(t *testing.T) {
	x := Text{Fields: []Field{{"Steps", "1"}, {"Model", "m"}, {"RNG", "CPU"}}}
	before := x.Fields
	x.AddAfter("Model", Field{"VAE", "v"})
	x.AddBefore("RNG", Field{"Lora hashes", "h"})
	x.AddAfter("none", Field{"End", "1"})
	x.AddBefore("none", Field{"End", "2"})
	require.Equal(t, "\nSteps: 1, Model: m, VAE: v, Lora hashes: h, RNG: CPU, End: 1, End: 2", x.String())
	require.Len(t, before, 3)
}
