package infotext

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// Limits of a setting, which keep the time linear.
const (
	longestName = 64
	mostFields  = 1000
)

// begins matches the first line of the settings: in A1111's format Steps is first. SD.Next separates settings by bars.
var begins = regexp.MustCompile(`^Steps:\s*\d+\s*([,|]|$)`)

var hasSteps = regexp.MustCompile(`(^|,)\s*Steps:`)

// Parse parses a text. The settings begin at the last line that starts with Steps and extend to the end of the text, since extensions write
// values with line breaks; without such a line they are the last line, if it has at least three settings, among them Steps. A1111's own
// rule, any three names with colons, mistakes prompts for settings. There are no errors: anything else is part of the prompt.
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

// settings parses "Name: value, Name: value". Values are bare up to the next comma, strings or JSON. Text without a name belongs to the
// previous value.
func settings(text string) (out []Field) {
	comma := byte(',')
	if m := begins.FindStringSubmatch(strings.SplitN(text, "\n", 2)[0]); m != nil && m[1] == "|" {
		comma = '|'
	}
	var more []string // parts of the last value
	join := func() {
		if len(more) > 0 && len(out) > 0 {
			last := &out[len(out)-1]
			last.Value = strings.Join(append([]string{last.Value}, more...), string(comma)+" ")
		}
		more = nil
	}
	tries := 20 // of values that look like JSON and are not
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

// cutName cuts a setting's name and colon off; name is "" if the text does not begin with one.
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

// cutValue cuts off a value and the comma after it.
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

// quoted returns the length of the quoted string at the start of text, or 0 if it is unterminated.
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

// unquote decodes a JSON string, also with raw line breaks, which some extensions write.
func unquote(v string) string {
	var s string
	if json.Unmarshal([]byte(strings.ReplaceAll(v, "\n", `\n`)), &s) == nil {
		return s
	}
	return v
}
