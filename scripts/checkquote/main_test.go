package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const quoting = `package quote

func Text(s string) string { return s }
`

// Lines that end in // bad are to be found, and no others.
const cases = `package a

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

type config struct {
	Class string ` + "`json:\"class\"`" + `
	Rank  int    ` + "`json:\"rank\"`" + `
}

type fault struct{ text string }

func (f *fault) Error() string { return f.text }

type kind int

func (k kind) String() string { return [...]string{"one", "two"}[k] }

const known = "known"

func Read(path string, names []string, k kind) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%s: unreadable", path) // bad
	}
	var c config
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("config: %w", err) // bad
	}
	switch {
	case c.Rank < 0:
		return fmt.Errorf("rank %d of kind %s, %s", c.Rank, k, known)
	case c.Class == "a":
		return fmt.Errorf("class %s", c.Class) // bad
	case c.Class == "b":
		return fmt.Errorf("class %q", c.Class) // bad
	case c.Class == "c":
		return fmt.Errorf("class %s", quote.Text(c.Class))
	case c.Class == "d":
		return errors.New("class " + c.Class) // bad
	case c.Class == "e":
		return fmt.Errorf("%x bytes, %T", data, c)
	case c.Class == "f":
		return fmt.Errorf("raw %s", data) // bad
	case c.Class == "g":
		return &fault{"class " + c.Class} // bad
	case c.Class == "h":
		return &fault{"class " + quote.Text(c.Class)}
	case c.Class == "i":
		return wrap("class %s", c.Class) // bad
	case c.Class == "j":
		return wrap("class %s", quote.Text(c.Class))
	case c.Class == "k":
		return fmt.Errorf("the class %s is known", c.Class) //quote: compared above
	}
	var list []string
	for _, n := range names {
		list = append(list, fmt.Sprintf("%s (%d)", n, len(n)))
	}
	if len(list) > 0 {
		return fmt.Errorf("names: %s", strings.Join(list, ", ")) // bad
	}
	safe := []string{known}
	for _, n := range names {
		safe = append(safe, quote.Text(n))
	}
	name := strconv.Itoa(len(safe))
	fail := func(what string) error { return fmt.Errorf("%s: %s", name, what) }
	if len(names) > 1 {
		return fail("constant")
	}
	if _, err := strconv.Atoi(names[0]); err != nil {
		return fmt.Errorf("number: %w", err) // bad
	}
	return fmt.Errorf("names: %s", strings.Join(safe, ", "))
}

func wrap(format string, args ...any) error { return fmt.Errorf("a: %s", fmt.Sprintf(format, args...)) }
`

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module github.com/onestep-go/onestep\n\ngo 1.24\n", "internal/quote/quote.go": quoting, "a/a.go": cases} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	var want []string
	for i, line := range strings.Split(cases, "\n") {
		if strings.HasSuffix(line, "// bad") {
			want = append(want, fmt.Sprintf("a/a.go:%d", i+1))
		}
	}
	found, err := run(dir, []string{"./..."})
	require.NoError(t, err)
	var got []string
	origin := regexp.MustCompile(`, of (\S+:\d+),`)
	for _, line := range found { // where it is printed, or comes from where one place prints for many
		at, _, _ := strings.Cut(line, ": ")
		if m := origin.FindStringSubmatch(line); m != nil && !slices.Contains(want, at) {
			at = m[1]
		}
		got = append(got, at)
	}
	slices.Sort(got)
	slices.Sort(want)
	require.Len(t, want, 10)
	require.Equal(t, want, slices.Compact(got), "%s", strings.Join(found, "\n"))
}

// What a package that is only imported prints is not reported.
func TestOnlyWhatIsAskedFor(t *testing.T) {
	found, err := run("../..", []string{"./scripts/checkcgo"})
	require.NoError(t, err)
	for _, line := range found {
		require.True(t, strings.HasPrefix(line, "scripts/checkcgo/"), line)
	}
}
