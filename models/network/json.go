package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/suggest"
)

// MarshalJSON writes an object with the network's name as its only key, or an empty object without a network.
func (c Config) MarshalJSON() ([]byte, error) {
	if c.Net == nil {
		return []byte("{}"), nil
	}
	if err := c.one(); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]Spec{c.Name(): c.Net})
}

// UnmarshalJSON is the reverse of MarshalJSON. Unknown keys and several networks are errors.
func (c *Config) UnmarshalJSON(data []byte) error {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(data, &given); err != nil {
		return within("network", err)
	}
	*c = Config{}
	n := 0
	for _, key := range slices.Sorted(maps.Keys(given)) {
		text := given[key]
		all := kinds()
		i := slices.IndexFunc(all, func(k kind) bool { return k.name() == key })
		if i < 0 {
			return fmt.Errorf("network: %s", suggest.OneOf(key, Names())) //quote: our own names
		}
		if string(text) == "null" {
			continue
		}
		net, err := all[i].decode(text)
		if err != nil {
			return within(key, err)
		}
		c.Net = net
		n++
	}
	if n > 1 {
		return wantOne(n)
	}
	return nil
}

// UnmarshalFirst reads the configuration in a file of format 1, which had one kind of network only.
func (c *Config) UnmarshalFirst(data []byte) error {
	all := kinds()
	net, err := all[slices.IndexFunc(all, kind.readsFirst)].decode(data)
	c.Net = net
	return within("network", err)
}

// within adds the key of a value to a type error of encoding/json.
func within(key string, err error) error {
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) {
		mistyped.Field = strings.TrimSuffix(key+"."+mistyped.Field, ".")
	}
	return err
}
