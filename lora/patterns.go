package lora

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// Limits of a file's patterns, against unbounded work.
const (
	maxPatterns = 4096 // of which most are names
	maxRegexps  = 256
	maxPattern  = 512     // bytes of one, and of a path that one may match
	maxWork     = 1 << 24 // steps of their programs for all modules, for each character of a path
)

// pattern sets a value for the modules whose paths end in a match: of a regular expression, or of a plain name, as most are.
type pattern struct {
	end   string
	whole bool // the whole path has to match
	re    *regexp.Regexp
	size  int // of the expression's program
	value float64
}

var plainName = regexp.MustCompile(`^\^?[A-Za-z0-9_.-]+\$?$`)

// newPattern reads a pattern, without its value.
func newPattern(text string) (p pattern, err error) {
	if plainName.MatchString(text) {
		p.end, p.whole = strings.CutPrefix(text, "^")
		p.end = strings.TrimSuffix(p.end, "$")
		return p, nil
	}
	expression := `^(?:.*\.)?(?:` + text + `)$`
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return p, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return p, err
	}
	p.size = len(program.Inst)
	p.re, err = regexp.Compile(expression)
	return p, err
}

// matches reports whether a suffix of the path matches, after a dot or from the beginning.
func (p pattern) matches(path string) bool {
	if p.re != nil {
		return p.re.MatchString(path)
	}
	at := len(path) - len(p.end)
	if at < 0 || at > 0 && (p.whole || path[at-1] != '.') {
		return false
	}
	for i := range len(p.end) {
		if c := p.end[i]; c != '.' && c != path[at+i] { // a dot matches any character
			return false
		}
	}
	return true
}

// patterns are patterns in order; the first match is used.
type patterns []pattern

// first returns the value of the first pattern that matches.
func (l patterns) first(path string) (float64, bool) {
	if len(path) > maxPattern {
		return 0, false
	}
	for _, p := range l {
		if p.matches(path) {
			return p.value, true
		}
	}
	return 0, false
}

// UnmarshalJSON reads an object of patterns and numbers, in the order of the file as peft does.
func (l *patterns) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	open, err := dec.Token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('{') {
		return fmt.Errorf("want an object of patterns and numbers, got %s", quote.Quoted(data))
	}
	at, regexps := map[string]int{}, 0
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		name := token.(string) // of an object, which is valid
		var v *float64
		if err := dec.Decode(&v); err != nil {
			return fmt.Errorf("%s: %w", quote.Quoted(name), quote.Error(err))
		}
		if v == nil {
			return fmt.Errorf("%s: want a number, got null", quote.Quoted(name))
		}
		if i, ok := at[name]; ok { // a duplicate key: the last value, in the first position
			(*l)[i].value = *v
			continue
		}
		if len(*l) == maxPatterns || len(name) > maxPattern {
			return fmt.Errorf("want at most %d patterns of at most %d bytes", maxPatterns, maxPattern)
		}
		p, err := newPattern(name)
		if err != nil {
			return fmt.Errorf("%s is not a valid pattern: %w", quote.Quoted(name), quote.Error(err))
		}
		if p.re != nil {
			if regexps++; regexps > maxRegexps {
				return fmt.Errorf("want at most %d patterns that are not plain names", maxRegexps)
			}
		}
		p.value = *v
		at[name] = len(*l)
		*l = append(*l, p)
	}
	return nil
}
