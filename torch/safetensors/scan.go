package safetensors

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON (RFC 8259) in place, without building values that the caller does not need. The bytes must be
// valid UTF-8.
type scanner struct {
	b  []byte
	at int
}

func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf("byte %d: %s", s.at, fmt.Sprintf(format, args...))
}

// want is the error of input that does not match the grammar.
func (s *scanner) want(what string) error {
	if s.at >= len(s.b) {
		return s.errorf("want %s, got the end", what)
	}
	r, _ := utf8.DecodeRune(s.b[s.at:])
	return s.errorf("want %s, got %q", what, r)
}

// next skips white space and returns the byte under the cursor, or 0 at the end.
func (s *scanner) next() byte {
	for s.at < len(s.b) {
		switch c := s.b[s.at]; c {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// take moves past c if it is next.
func (s *scanner) take(c byte) bool {
	if s.next() != c || s.at >= len(s.b) {
		return false
	}
	s.at++
	return true
}

// end checks that only white space follows.
func (s *scanner) end() error {
	if s.next(); s.at < len(s.b) {
		return s.want("the end")
	}
	return nil
}

// object reads an object; field reads the value of each key.
func (s *scanner) object(what string, field func(key []byte) error) error {
	if !s.take('{') {
		return s.want(what)
	}
	if s.take('}') {
		return nil
	}
	for {
		key, err := s.str("a name in quotes")
		if err != nil {
			return err
		}
		if !s.take(':') {
			return s.want("':'")
		}
		if err := field(key); err != nil {
			return err
		}
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return s.want("',' or '}'")
		}
	}
}

// array reads an array; item reads each element.
func (s *scanner) array(what string, item func() error) error {
	if !s.take('[') {
		return s.want(what)
	}
	if s.take(']') {
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return s.want("',' or ']'")
		}
	}
}

// str reads a string. The result is a view of the input unless it has escapes.
func (s *scanner) str(what string) ([]byte, error) {
	if !s.take('"') {
		return nil, s.want(what)
	}
	start := s.at
	for s.at < len(s.b) {
		switch c := s.b[s.at]; {
		case c == '"':
			s.at++
			return s.b[start : s.at-1], nil
		case c == '\\':
			return s.escaped(start)
		case c < ' ':
			return nil, s.errorf("unescaped control character %#02x in a string", c)
		}
		s.at++
	}
	return nil, s.want("a closing quote")
}

// escaped reads the rest of a string that began at start, starting with its first escape.
func (s *scanner) escaped(start int) ([]byte, error) {
	out := append([]byte(nil), s.b[start:s.at]...)
	for s.at < len(s.b) {
		c := s.b[s.at]
		switch {
		case c == '"':
			s.at++
			return out, nil
		case c < ' ':
			return nil, s.errorf("unescaped control character %#02x in a string", c)
		case c != '\\':
			out = append(out, c)
			s.at++
			continue
		}
		r, err := s.escape()
		if err != nil {
			return nil, err
		}
		out = utf8.AppendRune(out, r)
	}
	return nil, s.want("a closing quote")
}

// escape reads one escape sequence; surrogates must come in pairs.
func (s *scanner) escape() (rune, error) {
	const from, to = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if s.at+1 < len(s.b) {
		for i := range len(from) {
			if s.b[s.at+1] == from[i] {
				s.at += 2
				return rune(to[i]), nil
			}
		}
	}
	r, ok := s.hex()
	if !ok {
		return 0, s.errorf("broken escape in a string")
	}
	if !utf16.IsSurrogate(r) {
		return r, nil
	}
	low, ok := s.hex()
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		return 0, s.errorf("unpaired surrogate in a string")
	}
	return r, nil
}

// hex reads a backslash, a u and four hexadecimal digits.
func (s *scanner) hex() (rune, bool) {
	if len(s.b)-s.at < 6 || s.b[s.at] != '\\' || s.b[s.at+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range s.b[s.at+2 : s.at+6] {
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	s.at += 6
	return r, true
}

// count reads a non-negative integer, written without a sign, fraction or exponent.
func (s *scanner) count() (int, error) {
	const what = "a non-negative integer"
	s.next()
	start, n := s.at, 0
	for ; s.at < len(s.b) && isDigit(s.b[s.at]); s.at++ {
		d := int(s.b[s.at] - '0')
		if n > (math.MaxInt-d)/10 {
			return 0, s.errorf("the number is too large")
		}
		n = 10*n + d
	}
	switch {
	case s.at == start:
		return 0, s.want(what)
	case s.b[start] == '0' && s.at > start+1:
		return 0, s.errorf("a number begins with 0")
	case s.at < len(s.b) && (s.b[s.at] == '.' || s.b[s.at] == 'e' || s.b[s.at] == 'E'):
		return 0, s.want(what)
	}
	return n, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

var errDeep = errors.New("nested too deeply")

// skip reads any value, nested at most depth levels.
func (s *scanner) skip(depth int) error {
	if depth < 0 {
		return errDeep
	}
	const what = "a value"
	switch c := s.next(); {
	case c == '{':
		return s.object(what, func([]byte) error { return s.skip(depth - 1) })
	case c == '[':
		return s.array(what, func() error { return s.skip(depth - 1) })
	case c == '"':
		_, err := s.str(what)
		return err
	case c == '-' || isDigit(c):
		return s.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if len(s.b)-s.at >= len(word) && string(s.b[s.at:s.at+len(word)]) == word {
			s.at += len(word)
			return nil
		}
	}
	return s.want(what)
}

// number skips a number.
func (s *scanner) number() error {
	digits := func() bool {
		start := s.at
		for s.at < len(s.b) && isDigit(s.b[s.at]) {
			s.at++
		}
		return s.at > start
	}
	has := func(chars string) bool {
		for i := range len(chars) {
			if s.at < len(s.b) && s.b[s.at] == chars[i] {
				s.at++
				return true
			}
		}
		return false
	}
	has("-")
	ok := has("0") || digits()
	if ok && has(".") {
		ok = digits()
	}
	if ok && has("eE") {
		has("+-")
		ok = digits()
	}
	if !ok {
		return s.want("a digit")
	}
	return nil
}
