package configjson_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/onestep-go/onestep/internal/configjson"
)

func TestUnmarshal(t *testing.T) {
	var v map[string]string
	if err := configjson.Unmarshal([]byte(`{"a": "b"}`), &v); err != nil || v["a"] != "b" {
		t.Errorf("got %v, %v", v, err)
	}
	space := func(n int) []byte { return []byte("{}" + strings.Repeat(" ", n-2)) }
	if err := configjson.Unmarshal(space(configjson.Most), &v); err != nil {
		t.Errorf("of the largest size: got %v", err)
	}
	if err := configjson.Unmarshal(space(configjson.Most+1), &v); err == nil || !strings.Contains(err.Error(), "1048577") || !strings.Contains(err.Error(), "1048576") {
		t.Errorf("of one byte more: got %v", err)
	}
	var n struct{ A int }
	err := configjson.Unmarshal([]byte(`{"A": "`+"\u009b"+`", "A": 1`+strings.Repeat("0", 10_000)+`}`), &n)
	if err == nil || len(err.Error()) > 1000 || !errors.As(err, new(*json.UnmarshalTypeError)) {
		t.Errorf("got %.300v", err)
	}
}
