package openai

import (
	"bytes"
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/internal/jsonsize"
)

// values are the parameters of a request by name, as JSON. What a form has are strings.
type values struct {
	byName map[string]json.RawMessage
	used   map[string]bool // that were looked for
}

// get returns the value of a parameter by the first of its names that is given. null is not given, nor is an empty string in a form.
func (v *values) get(names ...string) (json.RawMessage, bool) {
	for _, name := range names {
		raw, ok := v.byName[name]
		if !ok {
			continue
		}
		v.used[name] = true
		if !bytes.Equal(raw, []byte("null")) {
			return raw, true
		}
	}
	return nil, false
}

// has tells whether a parameter is given.
func (v *values) has(name string) bool {
	raw, ok := v.byName[name]
	return ok && !bytes.Equal(raw, []byte("null"))
}

// unused are the names of the parameters that nothing looked for, in order.
func (v *values) unused() []string {
	var names []string
	for name := range v.byName {
		if !v.used[name] && v.has(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// text returns a string of at most a number of characters.
func (v *values) text(most int, names ...string) (string, bool, error) {
	raw, ok := v.get(names...)
	if !ok {
		return "", false, nil
	}
	s, err := asText(names[0], raw, most)
	return s, true, err
}

func asText(param string, raw json.RawMessage, most int) (string, error) {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", wrongType(param, "a string", raw)
	}
	if n := utf8.RuneCountInString(s); n > most {
		return "", invalid(param, "want at most %d characters, got %d", most, n)
	}
	if strings.ContainsRune(s, 0) { // which image files cannot hold
		return "", invalid(param, "want text without NUL characters")
	}
	return s, nil
}

// decimal is what numbers in JSON and in strings look like. It leaves out what Go reads, too: Inf, hexadecimal numbers, underscores.
var decimal = regexp.MustCompile(`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$`)

// scalar returns the text of a number, of a truth value or of a string.
func scalar(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return strings.TrimSpace(s)
	}
	return string(raw)
}

// literal returns the text of a number or of a string with one.
func literal(raw json.RawMessage) (string, bool) {
	s := scalar(raw)
	return s, decimal.MatchString(s)
}

// number returns a number from least to most.
func (v *values) number(least, most float64, names ...string) (float64, bool, error) {
	raw, ok := v.get(names...)
	if !ok {
		return 0, false, nil
	}
	f, err := asNumber(names[0], raw, least, most)
	return f, true, err
}

func asNumber(param string, raw json.RawMessage, least, most float64) (float64, error) {
	s, ok := literal(raw)
	f, _ := strconv.ParseFloat(s, 64) // too large a number is infinite
	switch {
	case !ok:
		return 0, wrongType(param, "a number", raw)
	case !(f >= least && f <= most):
		return 0, invalid(param, "want %g to %g, got %s", least, most, quote.Text(s))
	}
	return f, nil
}

// integer returns a whole number from least to most.
func (v *values) integer(least, most int, names ...string) (int, bool, error) {
	raw, ok := v.get(names...)
	if !ok {
		return 0, false, nil
	}
	n, err := asInteger(names[0], raw, least, most)
	return n, true, err
}

func asInteger(param string, raw json.RawMessage, least, most int) (int, error) {
	s, ok := literal(raw)
	f, _ := strconv.ParseFloat(s, 64)
	switch {
	case !ok || f != math.Trunc(f) && !math.IsInf(f, 0):
		return 0, wrongType(param, "a whole number", raw)
	case !(f >= float64(least) && f <= float64(most)):
		return 0, invalid(param, "want %d to %d, got %s", least, most, quote.Text(s))
	}
	return int(f), nil
}

// seed returns a seed; nil: random, for which -1 stands, too.
func (v *values) seed() (*uint64, error) {
	const param = "seed"
	raw, ok := v.get(param)
	if !ok {
		return nil, nil
	}
	s, ok := literal(raw)
	if !ok {
		return nil, wrongType(param, "a whole number", raw)
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 64); err == nil {
		return &n, nil
	}
	f, _ := strconv.ParseFloat(s, 64)
	switch {
	case f == -1:
		return nil, nil
	case f != math.Trunc(f):
		return nil, wrongType(param, "a whole number", raw)
	case f < 0 || f >= 1<<64:
		return nil, invalid(param, "want 0 to %d, or -1 for a random one, got %s", uint64(math.MaxUint64), quote.Text(s))
	}
	n := uint64(f)
	return &n, nil
}

// flag returns a truth value.
func (v *values) flag(name string) (bool, error) {
	raw, ok := v.get(name)
	if !ok {
		return false, nil
	}
	switch strings.ToLower(scalar(raw)) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, wrongType(name, "true or false", raw)
}

// elements returns the elements of a JSON array, of an array in a string, as forms send it, or one value alone.
func elements(param string, raw json.RawMessage) ([]json.RawMessage, error) {
	var s string
	if json.Unmarshal(raw, &s) == nil && strings.HasPrefix(strings.TrimSpace(s), "[") {
		if raw = json.RawMessage(s); !jsonsize.Check(raw) {
			return nil, tooMany(param)
		}
	}
	var all []json.RawMessage
	if json.Unmarshal(raw, &all) == nil {
		return all, nil
	}
	return []json.RawMessage{raw}, nil
}
