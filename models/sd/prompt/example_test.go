package prompt_test

import (
	"fmt"

	"github.com/onestep-go/onestep/models/sd/prompt"
)

// Tokenize a prompt with weights and an adapter tag, in chunks padded to the encoder's length.
func Example() {
	spans, loras := prompt.Parse("a (red:1.3) house, [blurry] BREAK in winter <lora:snow:0.8>")
	for _, s := range spans {
		fmt.Printf("%.2f %q %v\n", s.Weight, s.Text, s.Break)
	}
	fmt.Println(loras)
	for _, c := range prompt.Default().Weighted(spans) {
		fmt.Println(len(c.IDs), c.IDs[:8], c.Weights[:8])
	}
	// Output:
	// 1.00 "a " false
	// 1.30 "red" false
	// 1.00 " house, " false
	// 0.91 "blurry" false
	// 1.00 "" true
	// 1.00 "in winter " false
	// [{snow 0.8 0.8}]
	// 77 [49406 320 736 1212 267 21977 49407 49407] [1 1 1.3 1 1 0.90909094 1 1]
	// 77 [49406 530 2541 49407 49407 49407 49407 49407] [1 1 1 1 1 1 1 1]
}

// Without prompt weighting a prompt is one chunk, as in diffusers, and the truncated text is returned, for a warning.
func ExampleTokenizer_Plain() {
	text := "a cat"
	for range 26 {
		text += ", a cat"
	}
	chunks, cut := prompt.Default().Plain(text)
	fmt.Println(len(chunks), len(chunks[0].IDs), cut)
	// Output:
	// 1 77 a cat , a cat
}
