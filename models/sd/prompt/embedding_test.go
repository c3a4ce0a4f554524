package prompt

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// ComfyUI's way to name an embedding, by its file, is the word; what else it names is reported.
func TestEmbeddingsNamedAsInComfyUI(t *testing.T) {
	words := []Word{{"cat", 1}, {"cat-2", 2}, {"two words", 1}}
	by, ids := withWords(t, words...)
	for _, c := range []struct {
		text string
		want []string // a part that begins with @ is a word's tokens
		bad  []Misnamed
	}{
		{"embedding:cat", []string{"@cat"}, nil},
		{"a photo of embedding:CAT, sitting", []string{"a photo of", "@cat", ", sitting"}, nil},
		{"Embedding:cat-2.", []string{"@cat-2", "."}, nil},
		{"embedding:cat.pt embedding:styles/cat-2.safetensors", []string{"@cat", "@cat-2"}, nil},
		{`embedding:styles\old\cat.bin, dog`, []string{"@cat", ", dog"}, nil},
		{"embedding:two words", []string{"@two words"}, nil},
		{"embedding: cat", []string{"embedding:", "@cat"}, nil}, // a sentence
		{"bedding:cat", []string{"bedding:", "@cat"}, nil},
		{"myembedding:cat", []string{"myembedding:", "@cat"}, nil},
		{"embedding:dog", []string{"embedding:dog"}, []Misnamed{{Text: "embedding:dog", Name: "dog"}}},
		{"embedding:cats, embedding:cats", []string{"embedding:cats, embedding:cats"}, []Misnamed{{Text: "embedding:cats", Name: "cats"}}},
		{"embedding:cat-3", []string{"embedding:", "@cat", "-3"}, []Misnamed{{Text: "embedding:cat-3", Name: "cat-3"}}},
		{"embedding:cat.txt", []string{"embedding:", "@cat", ".txt"}, []Misnamed{{Text: "embedding:cat.txt", Name: "cat.txt"}}},
		{"embedding:cat:1.2", []string{"@cat", ":1.2"}, []Misnamed{{Text: "embedding:cat:1.2", Name: "cat", Weight: true}}},
	} {
		var want []int
		for _, part := range c.want {
			if name, word := part[1:], part[0] == '@'; word {
				want = append(want, ids[name]...)
			} else {
				want = append(want, Default().Encode(part)...)
			}
		}
		assert.Equal(t, want, by.Encode(c.text), "%q", c.text)
		for _, plain := range []bool{false, true} {
			assert.Equal(t, c.bad, Misnames(c.text, plain, "cat", "cat-2", "two words"), "%q", c.text)
		}
	}
	spans, _ := Parse("(embedding:cat:1.2) here")
	assert.Equal(t, []Span{{Text: "embedding:cat", Weight: 1.2}, {Text: " here", Weight: 1}}, spans)
	assert.Empty(t, Misnames("(embedding:cat:1.2) here", false, "cat"))
	assert.NotEmpty(t, Misnames("(embedding:cat:1.2) here", true, "cat"), "a plain prompt has no weights")
	assert.True(t, Mentions("embedding:styles/cat.pt", "cat"))
	assert.Equal(t, []Misnamed{{Text: "embedding:dog", Name: "dog"}}, Misnames("a (embedding:dog:1.3)", false))
}
