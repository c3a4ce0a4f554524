// Package configjson reads untrusted JSON config files.
package configjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// Most is the largest size of a config file in bytes. Those of the largest models have a few kilobytes; decoding a megabyte takes a few
// hundredths of a second.
const Most = 1 << 20

// Unmarshal is json.Unmarshal for at most [Most] bytes. Its errors are safe to print and wrap those of encoding/json.
func Unmarshal(data []byte, v any) error {
	if err := Check(data); err != nil {
		return err
	}
	return quote.Error(json.Unmarshal(data, v))
}

// UnmarshalDiffusers reads the config.json of a diffusers class into a struct that holds the defaults. It refuses keys that the struct does
// not have, except metadata keys, which begin with an underscore.
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
		return fmt.Errorf("it has %d bytes: want at most %d for a config file", len(data), Most)
	}
	return nil
}
