package pickle

import (
	"bytes"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestUnpickle(t *testing.T) {
	for _, c := range []struct {
		data string
		want any
	}{
		{"\x80\x02N.", nil},
		{"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00\x88.", true},
		{"K\x05.", 5},
		{"M\x01\x02.", 513},
		{"J\xff\xff\xff\xff.", -1},
		{"I-12\n.", -12},
		{"I01\n.", true},
		{"L99L\n.", 99},
		{"\x8a\x00.", 0},
		{"\x8a\x02\xff\x00.", 255},
		{"\x8a\x01\x80.", -128},
		{"G\x3f\xf8\x00\x00\x00\x00\x00\x00.", 1.5},
		{"F2.5\n.", 2.5},
		{"S'ab'\n.", "ab"},
		{"\x8c\x02xy\x94h\x00\x86.", Tuple{"xy", "xy"}},
		{"(K\x01K\x02t.", Tuple{1, 2}},
		{"]K\x01a.", &List{[]any{1}}},
		{"(K\x01l.", &List{[]any{1}}},
		{"cos\nsystem\n.", Global{"os", "system"}},
		// Calls are not made.
		{"cos\nsystem\n(S'touch /tmp/x'\ntR.", &Object{Of: Global{"os", "system"}, Args: Tuple{"touch /tmp/x"}}},
		{"(S'touch'\nios\nsystem\n.", &Object{Of: Global{"os", "system"}, Args: Tuple{"touch"}}},
		{"(cos\nsystem\nS'touch'\no.", &Object{Of: Global{"os", "system"}, Args: Tuple{"touch"}}},
		{"cfoo\nBar\n)\x81}b.", &Object{Of: Global{"foo", "Bar"}, Args: Tuple{}, State: &Dict{}}},
		{"C\x02a\x00.", Bytes("a\x00")},
		{"B\x02\x00\x00\x00\xff\x00.", Bytes("\xff\x00")},
		{"U\x02\xff\x00.", "\xff\x00"}, // of Python 2
		{"K\x07Q.", Persistent{7}},
		{"ccollections\nOrderedDict\n]]K\x01aK\x02aa\x85R.", &Dict{Keys: []any{1}, Values: []any{2}}},
	} {
		got, err := Unpickle([]byte(c.data))
		require.NoError(t, err, "%q", c.data)
		assert.Equal(t, c.want, got, "%q", c.data)
	}
	for data, want := range map[string]string{
		"":                                     "it is truncated",
		"\x80\x06.":                            "protocol 6",
		".":                                    "the stack is empty",
		"t.":                                   "there is no mark",
		"(K\x01d.":                             "a key without a value",
		"K\x01K\x02a.":                         "want a list or a dictionary",
		"h\x07.":                               "no entry 7",
		"\xff.":                                "unknown opcode 0xff",
		"X\xff\xff\xff\xffa.":                  "it is truncated",
		"\x8d\xff\xff\xff\xff\xff\xff\xff\xff": "too large",
	} {
		_, err := Unpickle([]byte(data))
		assert.ErrorContains(t, err, want, "%q", data)
	}
	_, err := Unpickle(bytes.Repeat([]byte{'N'}, maxOps+10))
	assert.ErrorContains(t, err, strconv.Itoa(maxOps))
	// One list of pairs, and many dictionaries made of it.
	bomb := []byte("]q\x00(")
	for range 5000 {
		bomb = append(bomb, "NN\x86"...)
	}
	bomb = append(bomb, 'e', 'q', 1)
	for range 2000 {
		bomb = append(bomb, "ccollections\nOrderedDict\nh\x01\x85R"...)
	}
	_, err = Unpickle(bomb)
	assert.ErrorContains(t, err, "entries")
}

// FuzzUnpickle looks for pickles that crash.
func FuzzUnpickle(f *testing.F) {
	f.Add([]byte("ccollections\nOrderedDict\n]]K\x01aK\x02aa\x85R."))
	f.Add([]byte("(cos\nsystem\nS'x'\noL1L\n\x8a\x02\xff\x00G12345678\x94\x93\x92."))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := Unpickle(data); err == nil {
			if d, ok := v.(*Dict); ok && len(d.Keys) != len(d.Values) {
				t.Fatal("keys without values")
			}
		}
	})
}
