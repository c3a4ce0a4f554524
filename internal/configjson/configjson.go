// Package configjson reads the JSON of configurations that come from outside.
package configjson

import (
	"encoding/json"
	"fmt"

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

// Check refuses more than [Most] bytes.
func Check(data []byte) error {
	if len(data) > Most {
		return fmt.Errorf("it has %d bytes: want a configuration of at most %d", len(data), Most)
	}
	return nil
}
