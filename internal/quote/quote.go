// Package quote makes text that came from outside fit for a message: names of tensors, modules and members of archives, values of
// configurations, descriptions, texts of PNGs. Such text can hold escape sequences that set a terminal's title or clear its screen,
// characters that turn the direction of writing, or megabytes.
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

// mostPath is the number of characters after which [Path] cuts: more than a terminal's lines, less than what a system allows.
const mostPath = 500

// The limits of [Lines], which no message of ours meets.
const (
	mostOfLine = 4000
	mostLines  = 100_000 // a model has thousands of tensors
)

// Text returns s as it is if it is short and printable, and in double quotes with Go's escapes otherwise: control characters, invisible
// ones, those that change the direction of writing, and bytes that are not UTF-8. Past [Most] characters it is cut, and the number of
// bytes of the whole follows.
func Text[T ~string | ~[]byte](s T) string { return cut(string(s), Most, false) }

// Quoted is Text that stands in double quotes always.
func Quoted[T ~string | ~[]byte](s T) string { return cut(string(s), Most, true) }

// Long is Text that cuts after most characters, for what the user asked to see, such as a prompt.
func Long[T ~string | ~[]byte](s T, most int) string { return cut(string(s), most, false) }

// Path is Text for paths of files, which are cut later: a user has to find the file by it.
func Path(path string) string { return cut(path, mostPath, false) }

// Texts is Text of each of a list.
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

// Error returns an error that reads as err does with its text escaped and cut at a few lines' length: for errors of other packages
// that repeat what they read, and the system's, which repeat paths. errors.Is and errors.As see err.
func Error(err error) error {
	if err == nil {
		return nil
	}
	if of, ok := err.(*fs.PathError); ok { //nolint:errorlint // its own text and not that of an error around it
		if safe := of.Op + " " + Path(of.Path) + ": " + of.Err.Error(); safe != err.Error() {
			return &wrapped{safe, err}
		}
		return err
	}
	text := err.Error()
	if safe := escape(text, 4*Most); safe != text {
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

// Lines is the last line of defence, for whole messages: it keeps their lines and tabs, escapes all else that is not printable, and cuts
// lines that no message of ours has the length of.
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

// escape writes what is not printable as Go's escapes do, without quotes around the whole; tabs stay.
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
