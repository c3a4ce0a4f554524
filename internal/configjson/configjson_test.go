package configjson_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/onestep-go/onestep/internal/configjson"
)

func TestUnmarshalDiffusers(t *testing.T) {
	v := struct {
		Class   string `json:"_class_name"`
		A, B, C int
	}{A: 1, B: 2, C: 3}
	if err := configjson.UnmarshalDiffusers([]byte(`{"_class_name": "X", "_diffusers_version": [0], "b": 4, "c": null}`), &v); err != nil || v.Class != "X" || v.A != 1 || v.B != 4 || v.C != 3 {
		t.Errorf("got %v, %v", v, err)
	}
	for _, bad := range []string{`{"d": 1}`, `{"b": "x"}`, `[]`, `{`, `{"a": 1}` + strings.Repeat(" ", configjson.Most)} {
		if err := configjson.UnmarshalDiffusers([]byte(bad), &v); err == nil {
			t.Errorf("%.20s: got no error", bad)
		}
	}
}

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
