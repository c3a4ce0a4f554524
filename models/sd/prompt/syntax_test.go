package prompt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// show writes spans in a line: weight{text}, and | for a break.
func show(spans []Span) string {
	var b strings.Builder
	for _, s := range spans {
		if s.Break {
			b.WriteByte('|')
			continue
		}
		fmt.Fprintf(&b, "%.4g{%s}", s.Weight, s.Text)
	}
	return b.String()
}

// What the rules of A1111 give for these, worked out by hand. 1.21 is two round brackets, 1.331 three, 0.9091 a square one.
func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":            "1{}",
		"normal text": "1{normal text}",

		"an (important) word":        "1{an }1.1{important}1{ word}",
		"(a:1.3)":                    "1.3{a}",
		"(a: +1.5 )(b:-.5)(c:2.)":    "1.5{a}-0.5{b}2{c}",
		"(a:0)b":                     "0{a}1{b}",
		"[a] b":                      "0.9091{a}1{ b}",
		"((a) b)":                    "1.21{a}1.1{ b}",
		"(((a)))":                    "1.331{a}",
		"((a:1.5) b:2)":              "3{a}2{ b}",
		"[[a]]":                      "0.8264{a}",
		"a (((house:1.3)) [on] hill": "1{a }1.573{house}1.1{ }1{on}1.1{ hill}",
		"([a)]":                      "1{a}", // kinds of brackets may cross: 1.1 and then 1/1.1
		"(unnecessary)(parens)":      "1.1{unnecessaryparens}",
		"(a)b(c)":                    "1.1{a}1{b}1.1{c}",
		"()[](:1.5)":                 "1{}",

		`\(literal\] \[x\)`: "1{(literal] [x)}",
		`(a\(b\):1.5)`:      "1.5{a(b)}",
		`a\\b`:              `1{a\b}`,
		`\\(a)`:             `1{\}1.1{a}`,
		`a\b \o/ end\`:      `1{a\b \o/ end\}`,

		"(unbalanced":   "1.1{unbalanced}",
		"a ((b":         "1{a }1.21{b}",
		"a [b":          "1{a }0.9091{b}",
		"a) b] c:d":     "1{a) b] c:d}",
		"a:1.2) b":      "1{a:1.2) b}",
		"[a:1.2] b":     "0.9091{a:1.2}1{ b}",
		"[a:1.2) b":     "0.9091{a:1.2) b}",
		"(a:b:1.5)":     "1.5{a:b}",
		"(a:1.2.3) z":   "1.1{a:1.2.3}1{ z}",
		"(a:1.2x)":      "1.1{a:1.2x}",
		"(a:.) (b:) (:": "1.1{a:.}1{ }1.1{b:}1{ }1.1{:}",
		"(a:1e3)":       "1.1{a:1e3}",
		"(a:9999999)":   "1e+06{a}",
		"[a:b:0.5]":     "0.9091{a:b:0.5}",
		"[a|b] AND c":   "0.9091{a|b}1{ AND c}",
		"a，（b）:1.2":     "1{a，（b）:1.2}",

		"x BREAK y":          "1{x}|1{y}",
		"x\nBREAK\n\ny":      "1{x}|1{y}",
		"BREAK x BREAK":      "|1{x}|",
		"a BREAK BREAK b":    "1{a}||1{b}",
		"a,BREAK,b":          "1{a,}|1{,b}",
		"BREAKER éBREAK BR":  "1{BREAKER éBREAK BR}",
		"BREAK_ XBREAK":      "1{BREAK_ XBREAK}",
		"break Break":        "1{break Break}",
		"(a BREAK b:1.5) c":  "1.5{a}|1.5{b}1{ c}",
		"(a) BREAK (b)":      "1.1{a}1{}|1{}1.1{b}",
		`a\BREAK`:            `1{a\}|`,
		"a <lora:x:1>BREAK ": "1{a}|",
	} {
		got, _ := Parse(text)
		// Spaces that a break leaves nothing of are no spans.
		assert.Equal(t, strings.ReplaceAll(want, "1{}|1{}", "|"), show(got), "%q", text)
	}
}

func TestParseLoRAs(t *testing.T) {
	for text, want := range map[string]struct {
		rest  string
		loras []LoRA
	}{
		"a cat":                              {"a cat", nil},
		"a <lora:style:0.8> cat":             {"a  cat", []LoRA{{"style", 0.8, 0.8}}},
		"<lora:x><lora:x>":                   {"", []LoRA{{"x", 1, 1}, {"x", 1, 1}}},
		"<lora:y:1:0.5>":                     {"", []LoRA{{"y", 0.5, 1}}},
		"<lora:y::0.5>":                      {"", []LoRA{{"y", 0.5, 1}}},
		"<lora:y:0.5:>":                      {"", []LoRA{{"y", 0.5, 0.5}}},
		"<lora:y: -1e-1 >":                   {"", []LoRA{{"y", -0.1, -0.1}}},
		"<lora:y:te=0:unet=0.7>":             {"", []LoRA{{"y", 0.7, 0}}},
		"<lora:y:0.3:te=0>":                  {"", []LoRA{{"y", 0, 0}}},
		"<lora:y:0.3:unet=0>":                {"", []LoRA{{"y", 0, 0.3}}},
		"<lora:y:unet=0.7>":                  {"", []LoRA{{"y", 0.7, 1}}},
		"<lora:y:unet=0.7:0.2>":              {"", []LoRA{{"y", 0.7, 0.2}}},
		"<lora:add detail (v1.5)_[x]:1>":     {"", []LoRA{{"add detail (v1.5)_[x]", 1, 1}}},
		"a (b<lora:x:2>:1.5)":                {"a b", []LoRA{{"x", 2, 2}}},
		"<lora:bad:x>":                       {"<lora:bad:x>", nil},
		"<lora::1> <lora:>":                  {"<lora::1> <lora:>", nil},
		"<lora:a:1:2:3>":                     {"<lora:a:1:2:3>", nil},
		"<lora:a:1:lbw=MIDD>":                {"<lora:a:1:lbw=MIDD>", nil},
		"<lora:a:inf><lora:a:nan>":           {"<lora:a:inf><lora:a:nan>", nil},
		"<lora:a <lora:b:2> <lora:c":         {"<lora:a  <lora:c", []LoRA{{"b", 2, 2}}},
		"<LORA:a:1> < lora :a> <Lyco:b:0.5>": {"  ", []LoRA{{"a", 1, 1}, {"a", 1, 1}, {"b", 0.5, 0.5}}},
		"<lyco:b:0.5:te=0><hypernet:a:1>":    {"<hypernet:a:1>", []LoRA{{"b", 0, 0}}},
	} {
		spans, loras := Parse(text)
		rest := ""
		for _, s := range spans {
			rest += s.Text
		}
		assert.Equal(t, want.rest, rest, "%q", text)
		assert.Equal(t, want.loras, loras, "%q", text)
		for _, l := range loras {
			_, again := Parse(l.Tag())
			assert.Equal(t, []LoRA{l}, again)
		}
	}
}

// Tags that would be read as words are listed, and what only looks like one is not.
func TestTags(t *testing.T) {
	for text, want := range map[string][]Tag{
		"a <lora:x:1> <lyco:y> <LORA:z>":      nil,
		"<hypernet:a:1> < Foo :b>":            {{"<hypernet:a:1>", "hypernet", "a:1"}, {"< Foo :b>", "foo", "b"}},
		"<lora:x:much> <lyco::>":              {{"<lora:x:much>", "lora", "x:much"}, {"<lyco::>", "lyco", ":"}},
		"<lora:x <hypernet:y":                 {{"<lora:x ", "lora", ""}},
		"a <3 b <cat-toy> >:< <a b:c> <x:> :": nil,
	} {
		assert.Equal(t, want, Tags(text), "%q", text)
	}
}

// However deep brackets nest and however many there are, parsing takes time in proportion to the text, and weights are finite.
func TestParseHostile(t *testing.T) {
	const n = 1 << 18
	start := time.Now()
	for _, text := range []string{"(a", "((", "[a", "(a:", "(:", `\(`, "(a:9)", "a)", "<lora:", "<lora:<", "<lora:a:", "BREAK ", "BREAKa", "(a:1" + strings.Repeat("0", 50) + ")"} {
		spans, _ := Parse(strings.Repeat(text, n/len(text)))
		for _, s := range spans {
			require.LessOrEqual(t, s.Weight, maxWeight)
		}
	}
	require.Less(t, time.Since(start), 20*time.Second, "a second or two, where nothing is quadratic")
	deep, _ := Parse(strings.Repeat("(", 300) + "a" + strings.Repeat(")", 300))
	require.Equal(t, strings.Repeat("(", 300-maxDepth)+"a", deep[0].Text, "brackets beyond the limit are text")
	require.Equal(t, strings.Repeat(")", 300-maxDepth), deep[1].Text)
}

// No text is lost: but for brackets, colons with numbers, backslashes, spaces about breaks and tags everything is in the spans.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a (b:1.2) [c] \\( BREAK", "<lora:a:1>", "((((", ":1)", "]]", "\xff(\xfe:1.5)", "(a:٣)", "\x1cBREAK\x1f", "(a BREAK b:1.5)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spans, loras := Parse(text)
		ascii := strings.Contains(text, "BREAK") // other spaces about it go too
		kept := func(s string) string {
			var b []byte
			for _, c := range []byte(s) {
				if c > ' ' && (c < 0x80 || !ascii) && strings.IndexByte(`()[]\:+-.0123456789BREAK`, c) < 0 {
					b = append(b, c)
				}
			}
			return string(b)
		}
		var all strings.Builder
		for i, s := range spans {
			all.WriteString(s.Text)
			if s.Break && (s.Text != "" || s.Weight != 1) || i > 0 && !s.Break && !spans[i-1].Break && s.Weight == spans[i-1].Weight {
				t.Fatalf("%q became %+v", text, spans)
			}
			if !(s.Weight >= -maxWeight && s.Weight <= maxWeight) {
				t.Fatalf("%q weighs %g", text, s.Weight)
			}
		}
		if len(loras) == 0 && kept(all.String()) != kept(text) {
			t.Fatalf("%q became %q", text, all.String())
		}
	})
}
