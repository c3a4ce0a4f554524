package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
)

// shortJSON writes a value as JSON for people: numbers that are no integers have few digits. Integers keep all, as seeds need.
func shortJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var all any
	if err := dec.Decode(&all); err != nil {
		return string(text)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(shortened(all)); err != nil {
		return string(text)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// shortened replaces the numbers in a decoded value.
func shortened(v any) any {
	switch v := v.(type) {
	case json.Number:
		if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
			return json.Number(number.Short(f))
		}
	case []any:
		for i := range v {
			v[i] = shortened(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = shortened(v[k])
		}
	}
	return v
}
