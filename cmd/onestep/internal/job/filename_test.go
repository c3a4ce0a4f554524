package job

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A prompt in a file's name is safe there, and short.
func TestPromptInFileName(t *testing.T) {
	for text, want := range map[string]string{
		"a cat on a roof":                      "a_cat_on_a_roof",
		"a (red:1.3) house, 4k <lora:x:0.8>":   "a_red_house_4k",
		"../../etc/passwd":                     "etc_passwd",
		"-rf *":                                "rf",
		"un château à l'été":                   "un_château_à_l_été",
		"屋根の上の猫":                               "屋根の上の猫",
		"a\x00b\nc\x1b[31m\u202ed \xff":        "a_b_c_31m_d",
		"":                                     "prompt",
		"😀 !?":                                 "prompt",
		"well-lit - room":                      "well-lit_room",
		strings.Repeat("word ", 40):            strings.Repeat("word_", 11) + "word",
		strings.Repeat("x", 200):               strings.Repeat("x", 60),
		strings.Repeat("猫", 200):               strings.Repeat("猫", 40),
		"a " + strings.Repeat("x", 200) + " b": "a",
	} {
		require.Equal(t, want, inFileName(text, false), "%q", text)
	}
	require.Equal(t, "a_red_1_3_house", inFileName("a (red:1.3) house", true))
	seed := uint64(7)
	o := Drawing{Prompts: []string{"a cat", "a dog"}, N: 2, Seed: &seed}
	require.Equal(t, "00003-00001-a_dog-8.png", o.fileName("{n}-{i}-{prompt}-{seed}.png", 1, 1))
	require.NoError(t, checkPlaceholders("{n}{i}{prompt}{seed}{}{1}{"))
	require.ErrorContains(t, checkPlaceholders("{sede}.png"), "did you mean {seed}?")
	require.ErrorContains(t, checkPlaceholders("{text}.png"), "{prompt}")
}
