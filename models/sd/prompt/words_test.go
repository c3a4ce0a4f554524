package prompt

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// withWords is the default tokenizer with words of one vector, or as many as follow a colon; their tokens by word.
func withWords(t *testing.T, words ...Word) (*Tokenizer, map[string][]int) {
	t.Helper()
	first := Default().Vocab()
	by, err := Default().WithWords(first, words)
	require.NoError(t, err)
	ids := map[string][]int{}
	for _, w := range words {
		for range w.Vectors {
			ids[w.Text] = append(ids[w.Text], first)
			first++
		}
	}
	return by, ids
}

// Where a text has a word: nothing that continues it may stand on either side. A part that begins with @ is a word's tokens, others are
// encoded without words.
func TestWordBoundaries(t *testing.T) {
	by, ids := withWords(t, Word{"cat", 1}, Word{"my-style", 2}, Word{"my-style-2", 1}, Word{"<sks>", 1}, Word{"Ünïque", 1}, Word{"two words", 3}, Word{"*", 1}, Word{"x9", 1})
	for text, want := range map[string][]string{
		"":                            nil,
		"dog":                         {"dog"},
		"cat":                         {"@cat"},
		"CAT":                         {"@cat"},
		"a cat, here":                 {"a", "@cat", ", here"},
		"(cat)":                       {"(", "@cat", ")"},
		"cat cat":                     {"@cat", "@cat"},
		"cats":                        {"cats"}, // a letter behind
		"bobcat":                      {"bobcat"},
		"cat9":                        {"cat9"}, // a digit
		"9cat":                        {"9cat"},
		"cat's":                       {"@cat", "'s"},
		"_cat_":                       {"_", "@cat", "_"},
		"cat-like":                    {"@cat", "-like"},
		"écat":                        {"écat"}, // letters beyond ASCII
		"cat猫":                        {"cat猫"},
		"cat.cat":                     {"@cat", ".", "@cat"},
		"bobcat cat":                  {"bobcat", "@cat"},    // one that is continued does not hide the next
		"my-style":                    {"@my-style"},         // of words that begin alike
		"my-style-2":                  {"@my-style-2"},       // the longest
		"my-style-3":                  {"@my-style", "-3"},   // that is there
		"my-style-22":                 {"@my-style", "-22"},  // and is not continued
		"MY-STYLE cat":                {"@my-style", "@cat"}, // several
		"<sks>":                       {"@<sks>"},            // brackets are its own bounds
		"a<sks>b":                     {"a", "@<sks>", "b"},  // whatever stands beside them
		"<SKS> <sk>":                  {"@<sks>", "<sk>"},    //
		"ünïque":                      {"@Ünïque"},           // in any case
		"ÜNÏQUE":                      {"@Ünïque"},           //
		"U\u0308ni\u0308que":          {"@Ünïque"},           // in any form of its marks
		"ünïquely":                    {"ünïquely"},          //
		"two  words":                  {"@two words"},        // of several words, with any spaces
		"two\twords":                  {"@two words"},        //
		"two, words":                  {"two, words"},        //
		"*":                           {"@*"},                //
		"3*4":                         {"3", "@*", "4"},      // as with brackets
		"a photo of * x9 x99":         {"a photo of", "@*", "@x9", "x99"},
		"x9" + strings.Repeat("x", 3): {"x9xxx"},
		"cat" + string([]byte{0xff}):  {"@cat", "\uFFFD"}, // what is not UTF-8
	} {
		var ex []int
		for _, part := range want {
			if name, ok := strings.CutPrefix(part, "@"); ok {
				ex = append(ex, ids[name]...)
				assert.True(t, Mentions(text, name), "%q mentions %q", text, name)
			} else {
				ex = append(ex, Default().Encode(part)...)
			}
		}
		assert.Equal(t, ex, by.Encode(text), "%q", text)
		for name := range ids {
			if !slices.Contains(want, "@"+name) && !strings.Contains("my-style-2 my-style-22", text) { // in which the shorter word is, too
				assert.False(t, Mentions(text, name), "%q does not mention %q", text, name)
			}
		}
	}
	// A tokenizer with words leaves the one that it is made of as it was, and other words take the place of these.
	require.Equal(t, []int{2368}, Default().Encode("cat"))
	other, err := by.WithWords(by.Vocab(), []Word{{"dog", 1}})
	require.NoError(t, err)
	require.Equal(t, []int{2368, by.Vocab()}, other.Encode("cat dog"))
	none, err := by.WithWords(by.Vocab(), nil)
	require.NoError(t, err)
	require.Equal(t, []int{2368}, none.Encode("cat"))
}

func TestWordsRefused(t *testing.T) {
	for _, c := range []struct {
		words []Word
		want  string
	}{
		{[]Word{{"", 1}}, "empty"},
		{[]Word{{" \t", 1}}, "empty"},
		{[]Word{{"a\xff", 1}}, "not UTF-8"},
		{[]Word{{"cat", 1}, {"CAT", 1}}, `"cat"`},
		{[]Word{{"cat", 0}}, "0 vectors"},
		{[]Word{{"cat", 76}}, "76 vectors"},
		{[]Word{{"<|endoftext|>", 1}}, "is already a token"},
	} {
		_, err := Default().WithWords(49408, c.words)
		require.ErrorContains(t, err, c.want)
	}
	_, err := Default().WithWords(49408, []Word{{"cat", 75}})
	require.NoError(t, err)
}

// The vectors of a word stay together in one chunk, have its weight, and count as so many tokens, also where commas divide.
func TestChunksOfWords(t *testing.T) {
	by, ids := withWords(t, Word{"four", 4}, Word{"whole", 75}, Word{"one", 1})
	dogs := func(n int) string { return strings.Repeat("dog ", n) }
	for _, c := range []struct {
		text string
		want []int
	}{
		{"four", []int{4}},
		{dogs(71) + "four", []int{75}},
		{dogs(72) + "four", []int{72, 4}}, // which would be divided
		{dogs(72) + "four " + dogs(72), []int{72, 75, 1}},
		{"whole", []int{75}},
		{"dog whole dog", []int{1, 75, 1}},
		{"whole whole", []int{75, 75}},
		{dogs(74) + "one one", []int{75, 1}},
		{dogs(60) + ", " + dogs(13) + "four", []int{74, 4}}, // the word moves, and not what stands from the comma on
		{dogs(66) + ", four " + dogs(5), []int{67, 9}},      // which moves with it where a plain token is one too many
		{dogs(71) + "four BREAK four", []int{75, 4}},
	} {
		chunks := by.Weighted(mustParse(t, c.text))
		require.Equal(t, c.want, lengths(t, by, chunks), c.text)
		for _, ch := range chunks { // wherever a word begins, all of it follows
			for i, id := range ch.IDs {
				for name, run := range ids {
					if id == run[0] {
						require.Equal(t, run, ch.IDs[i:i+len(run)], name)
					}
				}
			}
		}
	}

	for text, want := range map[string][]float32{
		"(four:1.5) dog":       {1.5, 1.5, 1.5, 1.5, 1},
		"dog [four]":           {1, 1 / 1.1, 1 / 1.1, 1 / 1.1, 1 / 1.1},
		"(four (one:2):1.5)":   {1.5, 1.5, 1.5, 1.5, 3},
		"(fo:2)(ur:1.1) dog":   nil, // brackets divide the word: it is none
		"((four))":             {1.21, 1.21, 1.21, 1.21},
		`\(four\)`:             {1, 1, 1, 1, 1, 1},
		"four:1.5":             {1, 1, 1, 1, 1, 1, 1, 1}, // no brackets: words
		"(four:-0.5), (one:0)": {-0.5, -0.5, -0.5, -0.5, 1, 0},
	} {
		chunks := by.Weighted(mustParse(t, text))
		require.Len(t, chunks, 1)
		if want == nil {
			require.NotContains(t, chunks[0].IDs, ids["four"][0], text)
			continue
		}
		got := chunks[0].Weights[1 : 1+len(want)]
		require.InDeltaSlice(t, want, got, 1e-6, text)
		require.Equal(t, by.EOS(), chunks[0].IDs[1+len(want)], text)
	}

	// A plain text is cut off wherever its tokens end, as in diffusers; what was cut is spelt by the word.
	plain, cut := by.Plain(dogs(73) + "four four")
	require.Equal(t, []int{75}, lengths(t, by, plain))
	require.Equal(t, ids["four"][:2], plain[0].IDs[74:76])
	require.Contains(t, cut, "four")
	require.Equal(t, fmt.Sprint(ids["four"]), fmt.Sprint(by.Encode("four")))
}

func mustParse(t *testing.T, text string) []Span {
	t.Helper()
	spans, loras := Parse(text)
	require.Empty(t, loras)
	return spans
}
