package prompt

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Span is a part of a prompt with a single weight.
type Span struct {
	Text   string
	Weight float64
	Break  bool // a BREAK: no text, and the next span begins a new chunk
}

const (
	louder    = 1.1 // factor of a round bracket
	softer    = 1 / louder
	maxWeight = 1e6 // weights are clamped to ±1e6, so that products do not overflow
	maxDepth  = 256 // maximum nesting depth of each kind of bracket; deeper brackets are text
)

// Parse parses the prompt syntax of A1111's web UI.
//
//	(word)               weight 1.1           ((word)), ((word) word)   brackets nest, their weights multiply
//	(word:1.3)           weight 1.3           \( \) \[ \] \\            literal characters
//	[word]               weight 1/1.1         BREAK                     begins a new chunk
//	<lora:name:0.8>      an adapter and its weight, default 1; removed from the prompt
//	<lora:name:0.8:0.5>  0.8 for the text encoders, 0.5 for the U-Net; also <lora:name:te=0.8:unet=0.5>
//	<lyco:name:0.8>      an alias of lora; both are case-insensitive and may have spaces around them
//
// There are no errors and no text is lost: unclosed brackets extend to the end; unmatched closing brackets, invalid weights and tags of
// other kinds are text ([Tags] lists the tags). It differs from A1111 in two cases that are bugs there: a backslash before any other
// character is kept, and BREAK inside brackets is a break. A1111's prompt scheduling and composition, [a:b:0.5], [a|b] and AND, are not
// supported and read as plain brackets and text; [OverTime] lists them.
//
// There is at least one span, and adjacent spans differ in weight or have a break between them.
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

// parser is the state of Parse.
type parser struct {
	spans         []Span
	pending       []byte // text since the last bracket or break
	round, square []int  // the first spans of open brackets
}

// flush appends the pending text as a span.
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

// shut multiplies the weights of the spans since the last open bracket.
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

// words adds text without brackets, which may contain BREAK.
func (p *parser) words(text string) {
	const word = "BREAK"
	inWord := func(r rune, n int) bool { return n > 0 && (r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r)) }
	space := func(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f } // as in Python
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

// closing parses the end of a bracket with a weight, ":1.3)", and returns its length, or 0 if there is none.
func closing(text string) (weight float64, length int) {
	const longest = 100 // without a limit the time would be quadratic in the number of colons
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

// joined merges adjacent spans of equal weight. It returns at least one span.
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
