package prompt

import (
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Span is a part of a text with one weight.
type Span struct {
	Text   string
	Weight float64
	Break  bool // no text: what follows begins a new chunk
}

// LoRA is an adapter that a text asks for: <lora:name:weight>, or <lora:name:weight:weight of the text encoders>.
type LoRA struct {
	Name         string
	Weight, Text float64
}

var (
	token = regexp.MustCompile(`\\\(|\\\)|\\\[|\\\]|\\\\|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:`)
	apart = regexp.MustCompile(`\s*\bBREAK\b\s*`)
	lora  = regexp.MustCompile(`<lora:([^:<>]+)(?::([^:<>]*))?(?::([^:<>]*))?>`)
)

// Parse reads A1111's syntax: (word) weighs 1.1, (word:1.3) as it says, [word] 1/1.1; they nest; \( and the like stand for
// themselves; BREAK begins a new chunk; tags of adapters are taken out. Brackets that do not close weigh to the end, and what has no
// meaning is text, so that nothing is lost.
func Parse(text string) (spans []Span, loras []LoRA) {
	text = lora.ReplaceAllStringFunc(text, func(tag string) string {
		m := lora.FindStringSubmatch(tag)
		l := LoRA{Name: m[1], Weight: 1, Text: 1}
		for i, to := range []*float64{&l.Weight, &l.Text} {
			if m[2+i] == "" {
				continue
			}
			v, err := strconv.ParseFloat(m[2+i], 64)
			if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
				return tag
			}
			*to = v
			if i == 0 {
				l.Text = v // unless it has a weight of its own
			}
		}
		loras = append(loras, l)
		return ""
	})
	var round, square []int // where open brackets began
	weigh := func(open *[]int, by float64) {
		last := len(*open) - 1
		for i := (*open)[last]; i < len(spans); i++ {
			spans[i].Weight *= by
		}
		*open = (*open)[:last]
	}
	add := func(text string) { spans = append(spans, Span{Text: text, Weight: 1}) }
	for _, m := range token.FindAllStringSubmatch(text, -1) {
		all, weight := m[0], m[1]
		switch {
		case strings.HasPrefix(all, `\`):
			if all == `\` {
				add(all)
			} else {
				add(all[1:])
			}
		case all == "(":
			round = append(round, len(spans))
		case all == "[":
			square = append(square, len(spans))
		case weight != "" && len(round) > 0:
			if v, err := strconv.ParseFloat(weight, 64); err == nil {
				weigh(&round, v)
			} else {
				add(all)
			}
		case all == ")" && len(round) > 0:
			weigh(&round, 1.1)
		case all == "]" && len(square) > 0:
			weigh(&square, 1/1.1)
		default:
			for i, part := range apart.Split(all, -1) {
				if i > 0 {
					spans = append(spans, Span{Break: true, Weight: 1})
				}
				add(part)
			}
		}
	}
	for len(round) > 0 {
		weigh(&round, 1.1)
	}
	for len(square) > 0 {
		weigh(&square, 1/1.1)
	}
	return joined(spans), loras
}

// joined makes one span of neighbours with the same weight. There is always one.
func joined(spans []Span) []Span {
	var out []Span
	for _, s := range spans {
		if last := len(out) - 1; last >= 0 && !s.Break && !out[last].Break && out[last].Weight == s.Weight {
			out[last].Text += s.Text
			continue
		}
		out = append(out, s)
	}
	if out == nil {
		out = []Span{{Weight: 1}}
	}
	return out
}
