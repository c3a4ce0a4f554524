// Package quote makes untrusted text safe to print in a message: names of tensors, modules and archive members, values of config files,
// descriptions, image metadata. Such text can contain escape sequences that set a terminal's title or clear its screen, characters that
// change the text direction, or megabytes.
package quote

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Most is the number of characters after which [Text] and [Quoted] cut.
const Most = 120

// mostPath is the number of characters after which [Path] cuts: several lines of a terminal, less than the longest path of a system.
const mostPath = 500

// The limits of [Lines], above all messages of ours.
const (
	mostOfLine = 4000
	mostLines  = 100_000 // a model has thousands of tensors
)

// Text returns s unchanged if it is short and printable, and otherwise in double quotes with Go's escapes for control characters, invisible
// characters, those that change the text direction, and bytes that are not UTF-8. After [Most] characters it is cut and its length in
// bytes is added.
func Text[T ~string | ~[]byte](s T) string { return cut(string(s), Most, false) }

// Quoted is [Text], always in double quotes.
func Quoted[T ~string | ~[]byte](s T) string { return cut(string(s), Most, true) }

// Long is [Text] that cuts after most characters, for values that the user wants to see, such as a prompt.
func Long[T ~string | ~[]byte](s T, most int) string { return cut(string(s), most, false) }

// Path is [Text] for file paths, with a higher limit so that the user can find the file.
func Path(path string) string { return cut(path, mostPath, false) }

// Texts applies [Text] to each element.
func Texts[T ~string | ~[]byte](list []T) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Text(s)
	}
	return out
}

func cut(s string, most int, always bool) string {
	whole := len(s)
	at, runes, plain := 0, 0, s != "" && s[0] != ' ' && s[whole-1] != ' '
	for at < whole && runes < most {
		r, n := utf8.DecodeRuneInString(s[at:])
		plain = plain && strconv.IsPrint(r) && (r != utf8.RuneError || n > 1)
		at, runes = at+n, runes+1
	}
	s = s[:at]
	switch {
	case at < whole:
		return fmt.Sprintf("%s... (%d bytes)", strconv.Quote(s), whole)
	case plain && !always:
		return s
	}
	return strconv.Quote(s)
}

// Error returns an error with the text of err escaped and cut after a few lines: for errors of other packages that quote their input, and
// of the system, which contain paths. Errors of encoding/json name no Go types. It wraps err.
func Error(err error) error {
	if err == nil {
		return nil
	}
	if of, ok := err.(*fs.PathError); ok { //nolint:errorlint // only if it is not wrapped
		if safe := of.Op + " " + Path(of.Path) + ": " + of.Err.Error(); safe != err.Error() {
			return &wrapped{safe, err}
		}
		return err
	}
	if safe := escape(plainJSON(err), 4*Most); safe != err.Error() {
		return &wrapped{safe, err}
	}
	return err
}

type wrapped struct {
	text string
	err  error
}

func (e *wrapped) Error() string { return e.text }
func (e *wrapped) Unwrap() error { return e.err }

// Lines is the last line of defence, for whole messages: it keeps newlines and tabs, escapes all other characters that are not printable,
// and cuts lines longer than any message of ours.
func Lines(s string) string {
	lines := strings.SplitN(s, "\n", mostLines+1)
	if len(lines) > mostLines {
		lines[mostLines] = fmt.Sprintf("... (%d bytes more)", len(lines[mostLines]))
	}
	for i, line := range lines {
		lines[i] = escape(line, mostOfLine)
	}
	return strings.Join(lines, "\n")
}

// escape replaces characters that are not printable by Go's escapes, without quotes; tabs are kept.
func escape(s string, most int) string {
	var b strings.Builder
	runes := 0
	for at := 0; at < len(s); {
		if runes == most {
			fmt.Fprintf(&b, "... (%d bytes)", len(s))
			break
		}
		r, n := utf8.DecodeRuneInString(s[at:])
		if part := s[at : at+n]; r == '\t' || strconv.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(part)
		} else {
			quoted := strconv.Quote(part)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		at, runes = at+n, runes+1
	}
	return b.String()
}
