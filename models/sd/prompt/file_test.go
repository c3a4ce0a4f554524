package prompt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file of prompts has one on each line; what is none is an error that names the file and the line.
func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "prompts.txt")
	read := func(text string) ([]string, error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return ReadFile(path)
	}
	for text, want := range map[string][]string{
		"a cat\na dog":                    {"a cat", "a dog"},
		"\ufeffa cat \r\n\r\n  a dog\r\n": {"a cat", "a dog"},
		strings.Repeat("x", 1<<19):        {strings.Repeat("x", 1<<19)},
	} {
		got, err := read(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for text, want := range map[string]string{
		"":                                    "no prompts",
		" \n\n":                               "no prompts",
		"a cat\n\xff":                         "line 2",
		"a\nb\n" + strings.Repeat("x", 1<<21): "line 3",
		strings.Repeat("\n", 64<<20+1):        "64 MiB",
		strings.Repeat("x\n", 1_000_001):      "1000000",
	} {
		_, err := read(text)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
	}
	_, err := ReadFile(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	got, err := Read(strings.NewReader("a cat\n"))
	require.NoError(t, err)
	require.Equal(t, []string{"a cat"}, got)
}
