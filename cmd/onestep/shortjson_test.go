package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShortJSON(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{json.RawMessage(`{"seed":18446744073709551615,"loss":0.12345678901234567,"times":[80,24.408315420150757],"b":null,"s":"0.12345678901234567 <lora:x:1>"}`),
			`{"b":null,"loss":0.1235,"s":"0.12345678901234567 <lora:x:1>","seed":18446744073709551615,"times":[80,24.41]}`},
		{1e-30 / 3, "3.333e-31"}, {0.0001, "0.0001"}, {true, "true"}, {[]float64{}, "[]"},
	} {
		require.Equal(t, c.want, shortJSON(c.value))
	}
}
