// Package configjson reads the JSON of configurations that come from outside.
package configjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// Most is the number of bytes that a configuration may have. Those of the largest models have some kilobytes; decoding a megabyte takes
// a few hundredths of a second.
const Most = 1 << 20

// Unmarshal is that of encoding/json for at most [Most] bytes. Its errors are fit to print; errors.As finds those of encoding/json.
func Unmarshal(data []byte, v any) error {
	if err := Check(data); err != nil {
		return err
	}
	return quote.Error(json.Unmarshal(data, v))
}

// UnmarshalDiffusers reads the config.json of a diffusers class into a struct that has what the file leaves out. It refuses keys that the
// struct does not have, save those that begin with an underscore and say nothing of the class.
func UnmarshalDiffusers(data []byte, v any) error {
	var keys map[string]json.RawMessage
	if err := Unmarshal(data, &keys); err != nil {
		return err
	}
	maps.DeleteFunc(keys, func(k string, _ json.RawMessage) bool { return strings.HasPrefix(k, "_") && k != "_class_name" })
	known, err := json.Marshal(keys)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(known))
	d.DisallowUnknownFields()
	return quote.Error(d.Decode(v))
}

// Check refuses more than [Most] bytes.
func Check(data []byte) error {
	if len(data) > Most {
		return fmt.Errorf("it has %d bytes: want a configuration of at most %d", len(data), Most)
	}
	return nil
}
