package prompt

import (
	"regexp"
)

var (
	stepNumber = regexp.MustCompile(`^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)\s*$`)
	andWord    = regexp.MustCompile(`\bAND\b`)
)

// OverTime returns the parts of a prompt in A1111's syntax for several prompts, which [Parse] does not support: [a:b:0.5], [a:10] and
// [a::10], which switch prompts at a step; [a|b], which alternates between prompts; and the word AND, which composes prompts.
func OverTime(text string) []string {
	type bracket struct {
		at, colon int // colon: the last one directly inside; -1: none
		bar       bool
	}
	var out []string
	var open []bracket
	for i := 0; i < len(text); i++ {
		last := len(open) - 1
		switch c := text[i]; {
		case c == '\\':
			i++ // the next character is literal
		case (c == '[' || c == '(') && len(open) < maxDepth:
			open = append(open, bracket{at: i, colon: -1})
		case last < 0:
		case c == ':':
			open[last].colon = i
		case c == '|':
			open[last].bar = true
		case c == ')' && text[open[last].at] == '(':
			open = open[:last]
		case c == ']':
			for last > 0 && text[open[last].at] == '(' { // which is not closed
				last--
			}
			b := open[last]
			if text[b.at] != '[' {
				continue
			}
			if b.bar || b.colon >= 0 && stepNumber.MatchString(text[b.colon+1:i]) {
				out = append(out, text[b.at:i+1])
			}
			open = open[:last]
		}
	}
	if andWord.MatchString(text) {
		out = append(out, "AND")
	}
	return out
}
