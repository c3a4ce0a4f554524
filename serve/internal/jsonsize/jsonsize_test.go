package jsonsize

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCheck(t *testing.T) {
	list := func(n int) string { return "[" + strings.Repeat("0,", n-1) + "0]" }
	for _, c := range []struct {
		json string
		want bool
	}{
		{``, true},
		{list(Most - 1), true},
		{list(Most), false},
		{`{"a": ` + list(Most) + `}`, false},
		{`"` + strings.Repeat(",", 2*Most) + `"`, true},
		{`"\"` + strings.Repeat(",", 2*Most) + `"`, true},
		{`"\\",` + strings.Repeat("[],", Most), false},
		{strings.Repeat("{", 2*Most), false},
		{`"\`, true},
	} {
		assert.Equal(t, c.want, Check([]byte(c.json)), "%.20s", c.json)
	}
}
