package options

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// ReadObject reads one JSON object, whose keys are names of options. A key that occurs twice, also in both spellings of an option, is an
// error.
func ReadObject(data []byte) (map[string]json.RawMessage, error) {
	var keys map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(&keys)
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("the file is empty: want a JSON object")
	case errors.As(err, &kind), err == nil && keys == nil:
		err = errors.New("want a JSON object")
	case err == nil:
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("want one JSON object, but more text follows")
		}
	}
	if err != nil {
		return nil, quote.Error(err)
	}
	return keys, keysOnce(data)
}

// Read reads a JSON object of options of the struct that p points to, by their names with underscores for dashes. Keys in beside are no
// options, and are ignored; others are errors. It returns the values by the options' names, and sets none.
func Read(p any, data []byte, beside ...string) (map[string]any, error) {
	keys, err := ReadObject(data)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	for k, text := range keys {
		name := strings.ReplaceAll(k, "_", "-")
		o, ok := Named(p, name)
		switch {
		case slices.Contains(beside, k):
		case !ok:
			return nil, Refuse(name, "unknown field %s", quote.Quoted(k))
		default:
			v, err := o.Decode(text)
			if err != nil {
				return nil, Refuse(name, "%s: %w", quote.Text(k), err)
			}
			values[name] = v
		}
	}
	return values, nil
}

// Values returns the options of the struct that p points to that have a value, by their names in JSON. Zero is no value of an option whose range
// it is not in.
func Values(p any) map[string]any {
	all := map[string]any{}
	for _, o := range Of(p) {
		unset := o.IsZero() && (o.field.Kind() == reflect.Slice || o.Check(o.Value()) != nil) // zero is no value of it
		if v := o.Value(); v != nil && v != "" && !unset {
			all[o.Key()] = v
		}
	}
	return all
}

// Fill gives the options of the struct that p points to their defaults where they are zero, and refuses values that they may not have.
func Fill(p any) error {
	for _, o := range Of(p) {
		if o.IsZero() {
			if o.Default != "" {
				if err := o.Set(o.Default); err != nil {
					panic("options: default: " + err.Error())
				}
			}
			continue
		}
		o.spell(o.field)
		if err := o.Check(o.Value()); err != nil {
			return Refuse(o.Name, "%s: %w", NameOf(o.Name), err)
		}
	}
	return nil
}

// keysOnce returns an error if an object, which is valid JSON, has a key twice, or with a dash and with an underscore.
func keysOnce(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return quote.Error(err)
	}
	seen := map[string]bool{}
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return quote.Error(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return quote.Error(err)
		}
		option := strings.ReplaceAll(k.(string), "_", "-")
		if seen[option] {
			return Refuse(option, "%s: the option is given twice: want it once", quote.Text(k.(string)))
		}
		seen[option] = true
	}
	return nil
}
