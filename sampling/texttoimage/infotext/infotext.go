package infotext

import (
	"encoding/json"
	"strings"
)

// Keyword is the keyword of its PNG text chunk.
const Keyword = "parameters"

// Text is a parsed "parameters" text.
type Text struct {
	Prompt   string
	Negative string
	Fields   []Field // in order
}

// Field is one setting.
type Field struct{ Name, Value string }

// Get returns a setting's value; "" if there is none.
func (t Text) Get(name string) string {
	for _, f := range t.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Add appends a setting, unless its value is empty.
func (t *Text) Add(name, value string) {
	if value != "" {
		t.Fields = append(t.Fields, Field{name, value})
	}
}

// String formats the text as A1111 does: prompts verbatim, values with commas, colons or line breaks as JSON strings. Whitespace around
// lines of a prompt, and prompt text that looks like other parts, is not preserved by parsing: the format does not quote prompts.
func (t Text) String() string {
	var b strings.Builder
	b.WriteString(t.Prompt)
	if t.Negative != "" {
		b.WriteString("\n" + negative + " " + t.Negative)
	}
	for i, f := range t.Fields {
		if i == 0 {
			b.WriteString("\n")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(f.Name + ": " + quote(f.Value))
	}
	return b.String()
}

const negative = "Negative prompt:"

func quote(v string) string {
	if !strings.ContainsAny(v, ",\n:") && !strings.HasPrefix(v, `"`) {
		return v
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // strings always encode
	return strings.TrimSuffix(b.String(), "\n")
}
