package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What people read has numbers of a few digits; what programs read has all.
func TestNumbersAreShort(t *testing.T) {
	long := regexp.MustCompile(`\.0*[1-9][0-9]{6,}`)
	dir := t.TempDir()
	run1 := filepath.Join(dir, "run")
	train := "train --method ict --data emoji --resolution 8 --channels 16 --mult 1 --blocks 1 --attention none --steps 6 --batch 2 --threads 1 --save-every 2 " +
		"--lr 0.00012345678901234 --lr-decay 0.33333333333 --ema 0.98765432109876 --widths 0.0512345678901,0.1 --log-every 1 --sample-every 0 --out " + run1
	short := func(name, text string) {
		t.Helper()
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "made by: ") { // the command, to be given again
				require.False(t, long.MatchString(line), "%s: %s", name, line)
			}
		}
	}
	code, out, errs := try(strings.Fields(train)...)
	require.Zero(t, code, errs)
	short("train", out+errs)
	for _, name := range []string{"card.md", "log.txt"} {
		text, err := os.ReadFile(filepath.Join(run1, name))
		require.NoError(t, err)
		short(name, string(text))
	}
	averaged := filepath.Join(dir, "a.safetensors")
	for _, c := range []struct {
		line string
		json bool // whether its JSON has all digits of something
	}{
		{"info " + run1, true},
		{"info " + run1 + "/model-0000006.safetensors", false},
		{"average " + run1 + " --width 0.0712345678901 --overwrite --out " + averaged, true},
		{"info " + averaged, false},
		{"inspect --model " + averaged + " --overwrite --n 1 --columns 3 --steps 4 --threads 1 --out " + dir + "/i.png", true},
	} {
		code, out, errs := try(strings.Fields(c.line)...)
		require.Zero(t, code, errs)
		short(c.line, out+errs)
		code, out, errs = try(append(strings.Fields(c.line), "--json")...)
		require.Zero(t, code, errs)
		require.True(t, json.Valid(bytes.TrimSpace([]byte(out))))
		require.True(t, !c.json || long.MatchString(out), "%s: %s", c.line, out)
	}
	options, err := os.ReadFile(filepath.Join(run1, "options.json"))
	require.NoError(t, err)
	require.Contains(t, string(options), "0.00012345678901234")
}
