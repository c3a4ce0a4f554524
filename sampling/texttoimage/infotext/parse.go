package infotext

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// Limits of what is taken for a setting, which keep the work linear.
const (
	longestName = 64
	mostFields  = 1000
)

// begins is the line that settings begin with: A1111, and all who write as it does, have Steps first. SD.Next's stand between bars.
var begins = regexp.MustCompile(`^Steps:\s*\d+\s*([,|]|$)`)

var hasSteps = regexp.MustCompile(`(^|,)\s*Steps:`)

// Parse takes a text apart. The settings begin at the last line that starts with Steps, and go on to the end of the text, since
// extensions write values with line breaks; in a text without such a line they are the last line, if Steps is among three of them or
// more. A1111's own rule is any three names with colons, which takes prompts for settings. Parse takes any text; what is not
// understood is prompt.
func Parse(text string) Text {
	var t Text
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n")), "\n")
	at := -1
	for i, line := range slices.Backward(lines) {
		if begins.MatchString(strings.TrimSpace(line)) {
			at = i
			break
		}
	}
	if last := len(lines) - 1; at < 0 && hasSteps.MatchString(lines[last]) && len(settings(lines[last])) >= 3 {
		at = last
	}
	if at >= 0 {
		t.Fields = settings(strings.Join(lines[at:], "\n"))
		lines = lines[:at]
	}
	to := &t.Prompt
	var parts []string
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, negative); ok && to == &t.Prompt {
			*to, parts = strings.Join(parts, "\n"), nil
			to, line = &t.Negative, strings.TrimSpace(rest)
		}
		parts = append(parts, line)
	}
	*to = strings.Join(parts, "\n")
	return t
}

// settings takes "Name: value, Name: value" apart. Values are bare up to the next comma, strings or JSON. What has no name belongs to the
// value before it.
func settings(text string) (out []Field) {
	comma := byte(',')
	if m := begins.FindStringSubmatch(strings.SplitN(text, "\n", 2)[0]); m != nil && m[1] == "|" {
		comma = '|'
	}
	var more []string // what belongs to the last value
	join := func() {
		if len(more) > 0 && len(out) > 0 {
			last := &out[len(out)-1]
			last.Value = strings.Join(append([]string{last.Value}, more...), string(comma)+" ")
		}
		more = nil
	}
	tries := 20 // of values that begin as JSON does and are none
	for text != "" && len(out) < mostFields {
		name, rest := cutName(text)
		if name == "" {
			piece := text
			if i := strings.IndexAny(text, string(comma)+"\n"); i >= 0 {
				piece, text = text[:i+1], text[i+1:]
			} else {
				text = ""
			}
			if v := strings.Trim(piece, " \t\n"+string(comma)); v != "" {
				more = append(more, v)
			}
			continue
		}
		join()
		var value string
		value, text = cutValue(rest, comma, &tries)
		out = append(out, Field{name, value})
	}
	join()
	return out
}

// cutName cuts a setting's name and colon off; "" where the text does not begin with one.
func cutName(text string) (name, rest string) {
	text = strings.TrimLeft(text, " \t\n")
	i := 0
	for i < len(text) && i <= longestName && nameByte(text[i]) {
		i++
	}
	name = strings.TrimSpace(text[:i])
	if i == len(text) || text[i] != ':' || len(name) < 2 || name[0] == '-' || name[0] == '/' {
		return "", ""
	}
	return name, text[i+1:]
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_ -/+.()", c) >= 0 || c >= 0x80
}

// cutValue cuts a value off, and the comma behind it.
func cutValue(text string, comma byte, tries *int) (value, rest string) {
	text = strings.TrimLeft(text, " \t")
	end, whole := 0, ""
	switch {
	case *tries == 0:
	case strings.HasPrefix(text, `"`):
		if n := quoted(text); n > 0 {
			end, whole = n, unquote(text[:n])
		}
	case strings.HasPrefix(text, "{"), strings.HasPrefix(text, "["):
		dec := json.NewDecoder(strings.NewReader(text))
		var raw json.RawMessage
		if dec.Decode(&raw) == nil {
			end, whole = int(dec.InputOffset()), string(raw)
		}
	}
	if end > 0 {
		if tail := strings.TrimLeft(text[end:], " \t"); tail == "" || tail[0] == comma || tail[0] == '\n' {
			return whole, strings.TrimPrefix(tail, string(comma))
		}
	}
	if text != "" && strings.IndexByte(`"{[`, text[0]) >= 0 {
		*tries = max(*tries-1, 0)
	}
	for i := range len(text) {
		switch text[i] {
		case comma:
			return strings.TrimSpace(text[:i]), text[i+1:]
		case '\n':
			if name, _ := cutName(text[i:]); name != "" {
				return strings.TrimSpace(text[:i]), text[i+1:]
			}
		}
	}
	return strings.TrimSpace(text), ""
}

// quoted returns the length of the string in quotation marks that text begins with; 0 where it does not end.
func quoted(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// unquote decodes a JSON string; one with raw line breaks, as some extensions write them, too.
func unquote(v string) string {
	var s string
	if json.Unmarshal([]byte(strings.ReplaceAll(v, "\n", `\n`)), &s) == nil {
		return s
	}
	return v
}
