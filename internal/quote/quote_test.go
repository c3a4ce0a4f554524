package quote_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
)

func TestText(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"a name", "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.input_blocks.0.0.weight"},
		{"words", "a fox, sitting", "a fox, sitting"},
		{"other writing", "狐 лиса ثعلب 🦊", "狐 лиса ثعلب 🦊"},
		{"empty", "", `""`},
		{"spaces at its ends", " x", `" x"`},
		{"quotes of its own", `"x"`, `"x"`},
		{"a title", "\x1b]0;owned\x07", `"\x1b]0;owned\a"`},
		{"a cleared screen", "x\x1b[2J", `"x\x1b[2J"`},
		{"C1 control", "x\u009b2J", `"x\u009b2J"`},
		{"lines", "a\nb\r", `"a\nb\r"`},
		{"direction", "gpj\u202egnp.exe", `"gpj\u202egnp.exe"`},
		{"isolate", "\u2066x\u2069", `"\u2066x\u2069"`},
		{"invisible", "a\u200bb\ufeff", `"a\u200bb\ufeff"`},
		{"line separator", "a\u2028b", `"a\u2028b"`},
		{"not UTF-8", "a\xff\xc3", `"a\xff\xc3"`},
		{"the character for unknown ones itself", "a\ufffd", "a\ufffd"},
		{"NUL", "a\x00", `"a\x00"`},
		{"120 characters", strings.Repeat("é", 120), strings.Repeat("é", 120)},
		{"121 characters", strings.Repeat("é", 121), `"` + strings.Repeat("é", 120) + `"... (242 bytes)`},
	} {
		if got := quote.Text(c.in); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if got := quote.Quoted(c.in); got[0] != '"' {
			t.Errorf("%s: Quoted gives %s, want it in quotes", c.name, got)
		}
	}
}

// safe says whether text can be shown on a terminal.
func safe(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.Is(unicode.C, r) || r == '\u2028' || r == '\u2029')
	})
}

func TestLines(t *testing.T) {
	in := "first\n\tsecond \x1b[31m\xff\r\n" + strings.Repeat("x", 3_000_000)
	got := quote.Lines(in)
	if !safe(got) || len(got) > 5000 || !strings.HasPrefix(got, "first\n\tsecond \\x1b[31m\\xff\\r\nxxx") || !strings.HasSuffix(got, "... (3000000 bytes)") {
		t.Errorf("got %.200q of %d bytes", got, len(got))
	}
	if got := quote.Lines(strings.Repeat("\n", 1_000_000)); len(got) > 100_100 {
		t.Errorf("a million lines give %d bytes", len(got))
	}
	if ours := "two lines:\n  - of ours (α = 1)\n"; quote.Lines(ours) != ours {
		t.Errorf("got %q, want it as it was", quote.Lines(ours))
	}
}

func TestError(t *testing.T) {
	err := quote.Error(&fs.PathError{Op: "open", Path: "\x1b[2J" + strings.Repeat("y", 1000), Err: fs.ErrNotExist})
	if text := err.Error(); !safe(text) || len(text) > 600 {
		t.Errorf("got %q", text)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the error within is lost")
	}
	long := "/" + strings.Repeat("long/", 60) + "x"
	plainPath := &fs.PathError{Op: "open", Path: long, Err: fs.ErrPermission}
	if quote.Error(plainPath) != error(plainPath) {
		t.Error("a path that is long and printable was changed")
	}
	if got := quote.Error(&fs.PathError{Op: "open", Path: "\x1b[2J" + long, Err: fs.ErrPermission}).Error(); !safe(got) || !strings.Contains(got, `\x1b[2J/long/`) || !strings.HasSuffix(got, fs.ErrPermission.Error()) {
		t.Errorf("got %s: want the path quoted, and what is wrong", got)
	}
	var v struct {
		part
		C []struct{ D float64 }
	}
	for text, want := range map[string]string{
		`{"A": "x"}`:         "within: A: want a whole number, got a JSON string",
		`{"A": 1.5}`:         "within: A: want a whole number, got a JSON number 1.5",
		`{"B": {}}`:          "within: B: want a list, got a JSON object",
		`{"C": [{"D": []}]}`: "within: D: want a number, got a JSON array",
		`[]`:                 "within: want an object, got a JSON array",
	} {
		within := json.Unmarshal([]byte(text), &v)
		err := quote.Error(fmt.Errorf("within: %w", within))
		if err.Error() != want || !errors.Is(err, within) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	if plain := fmt.Errorf("plain"); quote.Error(plain) != plain || quote.Error(nil) != nil {
		t.Error("a plain error was changed")
	}
}

type part struct {
	A *int
	B []bool
}

func FuzzText(f *testing.F) {
	f.Add("a\x1b\u202e\xff", 3)
	f.Fuzz(func(t *testing.T, s string, most int) {
		for _, got := range []string{quote.Text(s), quote.Quoted(s), quote.Lines(s)} {
			if !safe(got) {
				t.Errorf("%q gives %q", s, got)
			}
		}
		if got := quote.Text(s); strings.ContainsAny(got, "\n\t") || len(got) > 12*quote.Most {
			t.Errorf("%q gives %q", s, got)
		}
	})
}
