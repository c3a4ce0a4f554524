package quote

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
)

// plainJSON returns the text of an error. What encoding/json says of a value of another type, in terms of Go, is said in terms of JSON.
func plainJSON(err error) string {
	text := err.Error()
	var of *json.UnmarshalTypeError
	if !errors.As(err, &of) {
		return text
	}
	plain := "want " + wanted(of.Type) + ", got a JSON " + of.Value
	if of.Field != "" {
		// Go puts the names of embedded structs before that of the key.
		plain = of.Field[strings.LastIndex(of.Field, ".")+1:] + ": " + plain
	}
	return strings.Replace(text, of.Error(), plain, 1)
}

// wanted is the kind of JSON values that a Go type takes.
func wanted(t reflect.Type) string {
	if t == nil {
		return "another type"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0 on"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "another type"
}
