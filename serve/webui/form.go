package webui

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/internal/jsonsize"
)

// form is a JSON object that a client sent. Values are read as leniently as A1111 reads them; what cannot be read is collected in bad.
type form struct {
	fields map[string]json.RawMessage
	in     []any // where it is in the request
	bad    *invalid
}

// readForm reads a request's body.
func readForm(r *http.Request) (form, error) {
	f := form{in: []any{"body"}, bad: new(invalid)}
	data, err := io.ReadAll(r.Body)
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return f, err
	} else if err != nil {
		return f, refuse(http.StatusBadRequest, "the request's body cannot be read")
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return f, invalid{{f.in, "field required: want a JSON object", "missing"}}
	}
	if !jsonsize.Check(data) {
		return f, refuse(http.StatusRequestEntityTooLarge, "want JSON with at most %d values, got more", jsonsize.Most)
	}
	if err := json.Unmarshal(data, &f.fields); err != nil {
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			return f, invalid{{[]any{"body", syntax.Offset}, "JSON decode error: " + quote.Text(syntax.Error()), "json_invalid"}}
		}
		return f, invalid{{f.in, "want a JSON object", "dict_type"}}
	}
	if f.fields == nil { // null
		return f, invalid{{f.in, "want a JSON object", "dict_type"}}
	}
	return f, nil
}

func (f form) wrong(name, msg, kind string) {
	*f.bad = append(*f.bad, problem{append(append([]any(nil), f.in...), name), msg, kind})
}

// err returns what could not be read.
func (f form) err() error {
	if len(*f.bad) > 0 {
		return *f.bad
	}
	return nil
}

// has says whether a field was given; null is not.
func (f form) has(name string) bool {
	v := f.fields[name]
	return v != nil && string(v) != "null"
}

// text returns a string; "" by default.
func (f form) text(name string) string {
	if !f.has(name) {
		return ""
	}
	var v string
	if json.Unmarshal(f.fields[name], &v) != nil {
		f.wrong(name, "want a string", "string_type")
	}
	return v
}

// texts returns a list of strings.
func (f form) texts(name string) []string {
	if !f.has(name) {
		return nil
	}
	var v []string
	if json.Unmarshal(f.fields[name], &v) != nil {
		f.wrong(name, "want a list of strings", "list_type")
	}
	return v
}

// object returns a JSON object; an empty one by default.
func (f form) object(name string) form {
	in := form{in: append(append([]any(nil), f.in...), name), bad: f.bad}
	if f.has(name) && (json.Unmarshal(f.fields[name], &in.fields) != nil || in.fields == nil) {
		f.wrong(name, "want an object", "dict_type")
	}
	return in
}

// scalar returns a number, a boolean, or a string that has one, as text; "" for anything else.
func (f form) scalar(name string) string {
	v := f.fields[name]
	if len(v) > 0 && v[0] == '"' {
		var s string
		_ = json.Unmarshal(v, &s) // it is a string
		return strings.TrimSpace(s)
	}
	if len(v) > 0 && (v[0] == '[' || v[0] == '{') {
		return ""
	}
	return string(v)
}

// number returns a finite number within limits, and whether there is one.
func (f form) number(name string, least, most float64) (float64, bool) {
	if !f.has(name) {
		return 0, false
	}
	v, err := strconv.ParseFloat(f.scalar(name), 64)
	switch {
	case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
		f.wrong(name, "want a number", "float_parsing")
		return 0, false
	case v < least || v > most:
		f.wrong(name, "want "+plainNumber(least)+" to "+plainNumber(most), "out_of_range")
		return 0, false
	}
	return v, true
}

// integer returns an integer within limits, and whether there is one.
func (f form) integer(name string, least, most int) (int, bool) {
	if !f.has(name) {
		return 0, false
	}
	v, err := strconv.Atoi(f.scalar(name))
	if err != nil {
		v, err = fromFloat(f.scalar(name))
	}
	switch {
	case err != nil:
		f.wrong(name, "want an integer", "int_parsing")
		return 0, false
	case v < least || v > most:
		f.wrong(name, "want "+strconv.Itoa(least)+" to "+strconv.Itoa(most), "out_of_range")
		return 0, false
	}
	return v, true
}

// seed returns a seed; false if none is given, or -1, which is A1111's random one.
func (f form) seed(name string) (uint64, bool) {
	text := f.scalar(name)
	if !f.has(name) || text == "" && f.fields[name][0] == '"' {
		return 0, false
	}
	if v, err := strconv.ParseUint(text, 10, 64); err == nil {
		return v, true
	}
	v, err := fromFloat(text)
	if err != nil || v < -1 {
		f.wrong(name, "want -1 (random) or an integer from 0", "int_parsing")
	}
	return uint64(max(v, 0)), err == nil && v >= 0
}

// fromFloat parses integers such as 20.0 and 2e1.
func fromFloat(s string) (int, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, err
	}
	if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
		return 0, strconv.ErrSyntax
	}
	return int(v), nil
}

// flag returns a boolean, or otherwise if there is none.
func (f form) flag(name string, otherwise bool) bool {
	if !f.has(name) {
		return otherwise
	}
	switch strings.ToLower(f.scalar(name)) {
	case "true", "1", "1.0", "on", "yes", "t", "y":
		return true
	case "false", "0", "0.0", "off", "no", "f", "n":
		return false
	}
	f.wrong(name, "want true or false", "bool_parsing")
	return otherwise
}

func plainNumber(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
