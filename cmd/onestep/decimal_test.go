package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Numbers are decimal, in all commands: what Go reads as another base, or with marks between digits, is another number to people.
func TestNumbersAreDecimal(t *testing.T) {
	for _, c := range []struct{ command, flag, value string }{
		{"generate", "guidance", "1_0"}, {"generate", "guidance", "0x1p3"}, {"generate", "eta", "0x1"}, {"generate", "strength", "0x1"},
		{"generate", "variation-strength", "0x1p-1"}, {"generate", "variation-seed", "0x10"}, {"generate", "clip-skip", "0b1"},
		{"generate", "guidance-rescale", "0x1p-2"}, {"generate", "seed", "0x10"}, {"generate", "steps", "0x4"}, {"generate", "timesteps", "999,0x10"},
		{"sample", "seed", "1_0"}, {"sample", "times", "80,0x1p-1"}, {"sample", "gamma", "1_0"}, {"train", "lr", "0x1p-9"}, {"train", "warmup", "1_0"},
		{"train", "guidance", "0x2"}, {"average", "width", "0x1p-4"}, {"inspect", "seed", "0o7"},
	} {
		code, _, errs := try(c.command, "--"+c.flag, c.value)
		require.Equal(t, exitUsage, code, c)
		require.Contains(t, errs, "--"+c.flag+": want ", c)
	}
}

// Numbers keep their forms: a sign, an exponent, zeros in front, which are no sign of base 8.
func TestDecimalForms(t *testing.T) {
	short := strings.NewReplacer(".000000", "", "00000", "").Replace
	root := (&app{}).root()
	for _, c := range []struct{ command, flag, value, want string }{
		{"generate", "guidance", "+7.5", "7.5"}, {"generate", "guidance", ".5e1", "5"}, {"train", "lr", "1e-4", "0.0001"}, {"train", "lr", "1.", "1"},
		{"generate", "clip-skip", "010", "10"}, {"generate", "variation-seed", "007", "7"}, {"sample", "seed", "0", "0"}, {"sample", "times", "80,0.5e0", "[80,0.5]"},
		{"generate", "timesteps", "999,499", "[999,499]"},
	} {
		cmd, _, err := root.Find([]string{c.command})
		require.NoError(t, err)
		f := cmd.Flags().Lookup(c.flag)
		require.NoError(t, f.Value.Set(c.value), c)
		require.Equal(t, c.want, short(f.Value.String()), c)
	}
}
