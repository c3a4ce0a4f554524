package prompt

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// clean normalizes a text to NFC and lower case, with single spaces, as the normalizer of transformers' CLIPTokenizer does.
func clean(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	space := false
	for _, r := range compose(text) {
		if unicode.IsSpace(r) {
			space = true
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		if r == 'İ' { // the only letter whose lower case is two characters
			b.WriteString("i\u0307")
			continue
		}
		b.WriteRune(laterCase.ToLower(r))
	}
	return b.String()
}

// laterCase, laterLetters and laterNumbers are additions of Unicode 16 and 17 that the reference has and Go's Unicode 15 tables lack: its
// \p{L} and \p{N} are those of 16, its lower case is that of 17.
var (
	laterCase = unicode.SpecialCase{
		lower(0x1c89, 0x1c89, 1), lower(0xa7cb, 0xa7cb, 0x264-0xa7cb), lower(0xa7cc, 0xa7cc, 1), lower(0xa7ce, 0xa7ce, 1),
		lower(0xa7d2, 0xa7d2, 1), lower(0xa7d4, 0xa7d4, 1), lower(0xa7da, 0xa7da, 1), lower(0xa7dc, 0xa7dc, 0x19b-0xa7dc),
		lower(0x10d50, 0x10d65, 32), lower(0x16ea0, 0x16eb8, 27),
	}
	laterLetters = &unicode.RangeTable{
		R16: []unicode.Range16{{Lo: 0x1c89, Hi: 0x1c8a, Stride: 1}, {Lo: 0xa7cb, Hi: 0xa7cd, Stride: 1}, {Lo: 0xa7da, Hi: 0xa7dc, Stride: 1}},
		R32: []unicode.Range32{
			{Lo: 0x105c0, Hi: 0x105f3, Stride: 1}, {Lo: 0x10d4a, Hi: 0x10d65, Stride: 1}, {Lo: 0x10d6f, Hi: 0x10d85, Stride: 1},
			{Lo: 0x10ec2, Hi: 0x10ec4, Stride: 1}, {Lo: 0x11380, Hi: 0x11389, Stride: 1}, {Lo: 0x1138b, Hi: 0x1138e, Stride: 3},
			{Lo: 0x11390, Hi: 0x113b5, Stride: 1}, {Lo: 0x113b7, Hi: 0x113b7, Stride: 1}, {Lo: 0x113d1, Hi: 0x113d3, Stride: 2},
			{Lo: 0x11bc0, Hi: 0x11be0, Stride: 1}, {Lo: 0x13460, Hi: 0x143fa, Stride: 1}, {Lo: 0x16100, Hi: 0x1611d, Stride: 1},
			{Lo: 0x16d40, Hi: 0x16d6c, Stride: 1}, {Lo: 0x18cff, Hi: 0x18cff, Stride: 1}, {Lo: 0x1e5d0, Hi: 0x1e5ed, Stride: 1},
			{Lo: 0x1e5f0, Hi: 0x1e5f0, Stride: 1}, {Lo: 0x2ebf0, Hi: 0x2ee5d, Stride: 1},
		},
	}
	laterNumbers = &unicode.RangeTable{R32: []unicode.Range32{
		{Lo: 0x10d40, Hi: 0x10d49, Stride: 1}, {Lo: 0x116d0, Hi: 0x116e3, Stride: 1}, {Lo: 0x11bf0, Hi: 0x11bf9, Stride: 1},
		{Lo: 0x16130, Hi: 0x16139, Stride: 1}, {Lo: 0x16d70, Hi: 0x16d79, Stride: 1}, {Lo: 0x1ccf0, Hi: 0x1ccf9, Stride: 1},
		{Lo: 0x1e5f1, Hi: 0x1e5fa, Stride: 1},
	}}
)

func lower(lo, hi uint32, by rune) unicode.CaseRange {
	c := unicode.CaseRange{Lo: lo, Hi: hi}
	c.Delta[unicode.LowerCase] = by
	return c
}

// compose is the reference's NFC. Package norm inserts U+034F after 30 combining marks in a row, which the reference does not, and has
// marks that the reference lacks: texts with many marks or with such marks are composed here, by the Unicode algorithm (UAX 15) with norm's
// tables.
func compose(text string) string {
	marks := 0
	for _, r := range text {
		switch {
		case r < 0x300:
			marks = 0
		case isLaterMark(r):
			return composeMarks(text)
		case class(r) == 0:
			marks = 0
		default:
			if marks++; marks > 8 { // a mark may decompose into several
				return composeMarks(text)
			}
		}
	}
	return norm.NFC.String(text)
}

// class returns Unicode's canonical combining class.
func class(r rune) uint8 {
	if isLaterMark(r) {
		return 0
	}
	return norm.NFD.PropertiesString(string(r)).CCC()
}

func composeMarks(text string) string {
	type mark struct {
		r     rune
		class uint8
	}
	var all []mark
	for _, r := range text {
		if isLaterMark(r) {
			all = append(all, mark{r, 0})
			continue
		}
		for _, d := range norm.NFD.String(string(r)) {
			all = append(all, mark{d, class(d)})
		}
	}
	for i := 0; i < len(all); i++ { // sort marks by class
		from := i
		for i < len(all) && all[i].class != 0 {
			i++
		}
		slices.SortStableFunc(all[from:i], func(a, b mark) int { return int(a.class) - int(b.class) })
	}
	out := make([]rune, 0, len(all))
	starter, last := -1, uint8(0)
	for _, m := range all {
		if starter >= 0 && (starter == len(out)-1 || last < m.class) && !isLaterMark(out[starter]) && !isLaterMark(m.r) {
			pair := norm.NFC.String(string([]rune{out[starter], m.r}))
			if r, n := utf8.DecodeRuneInString(pair); n == len(pair) {
				out[starter] = r
				continue
			}
		}
		if m.class == 0 {
			starter = len(out)
		}
		last = m.class
		out = append(out, m.r)
	}
	return string(out)
}

var contractions = []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}

// kind returns 0 for spaces, 1 for letters, 2 for numbers and 3 for all else.
func kind(r rune) int {
	switch {
	case unicode.IsSpace(r):
		return 0
	case unicode.IsLetter(r) || unicode.Is(laterLetters, r):
		return 1
	case unicode.IsNumber(r) || unicode.Is(laterNumbers, r):
		return 2
	}
	return 3
}

// split splits a normalized text into words: contractions, runs of letters, single digits, and runs of other characters.
func split(text string) []string {
	var words []string
next:
	for text != "" {
		if text[0] == '<' {
			for _, special := range []string{bosToken, eosToken} {
				if strings.HasPrefix(text, special) { // it was in upper case, else it would have been matched before: a separate word, split again
					words, text = append(words, "<|", special[2:len(special)-2], "|>"), text[len(special):]
					continue next
				}
			}
		}
		if text[0] == '\'' {
			for _, c := range contractions {
				if strings.HasPrefix(text, c) {
					words, text = append(words, c), text[len(c):]
					continue next
				}
			}
		}
		r, n := utf8.DecodeRuneInString(text)
		k := kind(r)
		for k == 1 || k == 3 {
			r, m := utf8.DecodeRuneInString(text[n:])
			if m == 0 || kind(r) != k {
				break
			}
			n += m
		}
		if k != 0 {
			words = append(words, text[:n])
		}
		text = text[n:]
	}
	return words
}
