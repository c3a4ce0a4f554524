package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/suggest"
)

// What is suggested for names that do not exist, of commands and flags: nothing rather than something else than what was meant.
func TestSuggest(t *testing.T) {
	root := (&app{}).root()
	flagsOf := func(command string) []string {
		c, _, err := root.Find([]string{command})
		require.NoError(t, err)
		return flagNames(c.Flags())
	}
	commands := commandNames(root)
	for _, c := range []struct {
		typed string
		among []string
		want  []string // nil: nothing
	}{
		{"smaple", commands, []string{"sample"}},
		{"trian", commands, []string{"train"}},
		{"generat", commands, []string{"generate"}},
		{"GENERATE", commands, []string{"generate"}},
		{"gen", commands, []string{"generate"}},
		{"ample", commands, []string{"sample"}},
		{"inspct", commands, []string{"inspect"}},
		{"merge", commands, nil},
		{"draw", commands, nil},
		{"run", commands, nil},
		{"in", commands, nil},
		{"x", commands, nil},
		{"", commands, nil},

		{"run", flagsOf("average"), nil},
		{"wdith", flagsOf("average"), []string{"width"}},
		{"stpe", flagsOf("average"), []string{"step"}},
		{"output", flagsOf("average"), []string{"out"}},
		{"widht", flagsOf("generate"), []string{"width"}},
		{"modle", flagsOf("sample"), []string{"model"}},
		{"negative-prompt", flagsOf("generate"), []string{"negative"}},
		{"guidence", flagsOf("generate"), []string{"guidance"}},
		{"promt", flagsOf("generate"), []string{"prompt"}},
		{"cfg", flagsOf("generate"), nil},
		{"num", flagsOf("generate"), nil},
		{"mode", flagsOf("generate"), []string{"model"}},
		{"see", flagsOf("generate"), []string{"seed"}},
		{"lora-scale", flagsOf("generate"), []string{"lora"}},
		{"controlmodel", flagsOf("generate"), []string{"control-model"}},
		{"bs", flagsOf("train"), nil},
		{"epochs", flagsOf("train"), nil},
		{"data_dir", flagsOf("train"), []string{"data-dir"}},
		{"batch-size", flagsOf("train"), []string{"batch"}},
		{"learning-rate", flagsOf("train"), nil},
	} {
		require.Equal(t, c.want, suggest.Near(c.typed, c.among), "%q", c.typed)
	}
}

// Every flag that has a choice of words suggests the one that was mistyped.
func TestSuggestionsOfChoices(t *testing.T) {
	seen := 0
	var each func(cmd *cobra.Command)
	each = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			each(c)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			c, _ := chosen(plain(f))
			for _, word := range c.from {
				if len(word) < 5 {
					continue
				}
				seen++
				typed := word[:1] + word[2:]
				err := flagError(cmd, cmd.Flags().Set(f.Name, typed))
				require.ErrorContains(t, err, "--"+f.Name)
				require.Regexp(t, `"`+regexp.QuoteMeta(typed)+`": did you mean (\S+ or )?`+regexp.QuoteMeta(word), err.Error())
			}
		})
	}
	each((&app{}).root())
	require.Greater(t, seen, 20)
	for value, want := range map[string][]string{
		"eulr":           {`"eulr"`, "did you mean euler?"},
		"DPM++ 2M Karas": {"did you mean dpmpp_2m_karras"},
		"nothing":        {`"nothing"`, "euler", "karras"},
		"pndm_karras":    {"pndm", `"karras"`, "trailing, leading, linspace"}, // as --sampler pndm --spacing karras
		"ddpm_beta":      {"ddpm", `"beta"`, "trailing, leading, linspace"},
		"tcd_trailing":   {"tcd", "distilled", `"trailing"`},
	} {
		code, _, errs := try("generate", "--model", "x", "--prompt", "x", "--sampler", value)
		require.Equal(t, exitUsage, code)
		for _, w := range want {
			require.Contains(t, errs, w)
		}
	}
	code, _, errs := try("generate", "--model", "x", "--prompt", "x", "--spacing", "karas")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "did you mean karras?")
}

// The tool's messages use them, also those of subcommands of subcommands.
func TestSuggestionsOfTheTool(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // "": no suggestion
	}{
		{[]string{"average", "--run", "x"}, ""},
		{[]string{"average", "--widht", "1"}, "--width"},
		{[]string{"lora", "mege"}, "merge"},
		{[]string{"lora", "inof"}, "info"},
		{[]string{"lora", "bake"}, ""},
		{[]string{"data"}, "info or train"},
		{[]string{"data", "--help"}, "info or train"},
		{[]string{"--help", "data"}, "info or train"},
		{[]string{"help", "data"}, "info or train"},
		{[]string{"trian", "-h"}, "train"},
		{[]string{"foo", "-h"}, ""},
		{[]string{"help", "foo"}, ""},
		{[]string{"lora", "inof", "--help"}, "info"},
		{[]string{"help", "lora", "inof"}, "info"},
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, exitUsage, run(t.Context(), c.args, &stdout, &stderr), "%q", c.args)
		require.Empty(t, stdout.String(), "%q", c.args)
		if c.want == "" {
			require.NotContains(t, stderr.String(), "did you mean", "%q", c.args)
		} else {
			require.Contains(t, stderr.String(), ": did you mean "+c.want+"?", "%q", c.args)
		}
	}
}

// Flags of other programs are answered with ours of that meaning; each of ours is there in a command.
func TestFlagsOfOtherPrograms(t *testing.T) {
	for args, want := range map[string]string{
		"generate --guidance_scale 7": "--guidance?", "generate --num-inference-steps 4": "--steps?", "generate --cfg-scale 7": "--guidance?",
		"train-lora --network_dim 8": "--rank?", "train-lora --pretrained_model_name_or_path x": "--model?", "train --learning_rate 0.1": "--lr?",
		"convert --cfg 1": "unknown flag --cfg (see",
	} {
		code, _, errs := try(strings.Fields(args)...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, want, args)
	}
	ours := map[string]bool{}
	for _, c := range (&app{}).root().Commands() {
		for _, name := range flagNames(c.Flags()) {
			ours[name] = true
		}
	}
	for other, name := range elsewhere {
		require.True(t, ours[name], "%s: %s", other, name)
		require.False(t, ours[other], other)
	}
}
