package prompt

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Span is a part of a text with one weight.
type Span struct {
	Text   string
	Weight float64
	Break  bool // no text: what follows begins a new chunk
}

const (
	louder    = 1.1 // what a round bracket multiplies by
	softer    = 1 / louder
	maxWeight = 1e6 // weights stay within ±1e6, so that nothing computed with them overflows
	maxDepth  = 256 // brackets that are open at once, of each kind; those beyond are text
)

// Parse reads the syntax of A1111's web UI.
//
//	(word)               weighs 1.1           ((word)), ((word) word)   brackets nest, their weights multiply
//	(word:1.3)           weighs 1.3           \( \) \[ \] \\            stand for themselves
//	[word]               weighs 1/1.1         BREAK                     begins a new chunk
//	<lora:name:0.8>      an adapter and its weight, 1 if there is none; it is no part of the text
//	<lora:name:0.8:0.5>  0.8 for the text encoders, 0.5 for the network; also <lora:name:te=0.8:unet=0.5>
//	<lyco:name:0.8>      the same as lora, whose name may be in any case and have spaces around it
//
// Nothing is an error and no text is lost: brackets that do not close weigh to the end, those that close nothing are text, and so are
// weights that are no numbers and tags of other kinds, which [Tags] lists. Two things are unlike A1111's, where they are mistakes: a backslash
// before another letter stays, and BREAK within brackets is one. What A1111 does over time, [a:b:0.5], [a|b] and AND, is read as the
// brackets and the text that it is made of; [OverTime] lists it.
//
// There is always a span, and neighbours have different weights or a break between them.
func Parse(text string) ([]Span, []LoRA) {
	text, loras := takeLoRAs(text)
	p := parser{}
	for i := 0; i < len(text); {
		n := 1
		switch c := text[i]; c {
		case '\\':
			if i+1 < len(text) && strings.IndexByte(`()[]\`, text[i+1]) >= 0 {
				i++
			}
			p.pending = append(p.pending, text[i])
		case '(':
			p.open(&p.round, c)
		case '[':
			p.open(&p.square, c)
		case ']':
			p.shut(&p.square, softer, c)
		case ')':
			p.shut(&p.round, louder, c)
		case ':':
			weight, length := closing(text[i:])
			if length == 0 || len(p.round) == 0 {
				p.pending = append(p.pending, c)
				break
			}
			p.shut(&p.round, weight, c)
			n = length
		default:
			if n = strings.IndexAny(text[i:], `\()[]:`); n < 0 {
				n = len(text) - i
			}
			p.words(text[i : i+n])
		}
		i += n
	}
	p.flush()
	for len(p.round) > 0 {
		p.shut(&p.round, louder, 0)
	}
	for len(p.square) > 0 {
		p.shut(&p.square, softer, 0)
	}
	return joined(p.spans), loras
}

// parser is how far Parse has come.
type parser struct {
	spans         []Span
	pending       []byte // the text since the last bracket or break
	round, square []int  // the spans at which open brackets began
}

// flush makes a span of the text so far.
func (p *parser) flush() {
	if len(p.pending) > 0 {
		p.spans = append(p.spans, Span{Text: string(p.pending), Weight: 1})
		p.pending = p.pending[:0]
	}
}

func (p *parser) open(of *[]int, bracket byte) {
	if len(*of) == maxDepth {
		p.pending = append(p.pending, bracket)
		return
	}
	p.flush()
	*of = append(*of, len(p.spans))
}

// shut weighs what stands since the last open bracket.
func (p *parser) shut(of *[]int, weight float64, bracket byte) {
	last := len(*of) - 1
	if last < 0 {
		p.pending = append(p.pending, bracket)
		return
	}
	p.flush()
	for i := (*of)[last]; i < len(p.spans); i++ {
		if !p.spans[i].Break {
			p.spans[i].Weight = max(-maxWeight, min(maxWeight, p.spans[i].Weight*weight))
		}
	}
	*of = (*of)[:last]
}

// words adds text without brackets, which may have breaks.
func (p *parser) words(text string) {
	const word = "BREAK"
	inWord := func(r rune, n int) bool { return n > 0 && (r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r)) }
	space := func(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f } // as Python sees it
	from := 0
	for at := 0; ; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			break
		}
		i, at = at+i, at+i+len(word)
		if inWord(utf8.DecodeLastRuneInString(text[:i])) || inWord(utf8.DecodeRuneInString(text[at:])) {
			continue
		}
		p.pending = append(p.pending, strings.TrimRightFunc(text[from:i], space)...)
		p.flush()
		p.spans = append(p.spans, Span{Break: true, Weight: 1})
		at = len(text) - len(strings.TrimLeftFunc(text[at:], space))
		from = at
	}
	p.pending = append(p.pending, text[from:]...)
}

// closing reads the end of a bracket with a weight, ":1.3)", and returns its length; 0 where there is none.
func closing(text string) (weight float64, length int) {
	const longest = 100 // without a limit many colons would take the square of their number
	end := strings.IndexByte(text[:min(len(text), longest)], ')')
	if end < 0 {
		return 0, 0
	}
	number := strings.TrimSpace(text[1:end])
	if number == "" || strings.Trim(number[1:], ".0123456789") != "" || strings.IndexByte("+-.0123456789", number[0]) < 0 {
		return 0, 0
	}
	weight, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, 0
	}
	return weight, end + 1
}

// joined makes one span of neighbours with the same weight. There is always one.
func joined(spans []Span) []Span {
	if len(spans) == 0 {
		return []Span{{Weight: 1}}
	}
	var out []Span
	for len(spans) > 0 {
		n := slices.IndexFunc(spans, func(s Span) bool { return s.Break || s.Weight != spans[0].Weight })
		switch {
		case spans[0].Break:
			n = 1
		case n < 0:
			n = len(spans)
		}
		all := make([]string, n)
		for i, s := range spans[:n] {
			all[i] = s.Text
		}
		out = append(out, Span{Text: strings.Join(all, ""), Weight: spans[0].Weight, Break: spans[0].Break})
		spans = spans[n:]
	}
	return out
}
