package prompt

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

// lengths returns how many tokens of the text are in each chunk, and fails when a chunk is not framed.
func lengths(t *testing.T, by *Tokenizer, chunks []Chunk) []int {
	t.Helper()
	var out []int
	for _, c := range chunks {
		require.Len(t, c.IDs, by.Max())
		require.Len(t, c.Weights, by.Max())
		require.Equal(t, by.BOS(), c.IDs[0])
		end := slices.Index(c.IDs[1:], by.EOS())
		require.GreaterOrEqual(t, end, 0)
		for i := 1 + end; i < by.Max(); i++ {
			require.Equal(t, float32(1), c.Weights[i])
			if i > 1+end {
				require.Equal(t, by.Pad(), c.IDs[i])
			}
		}
		require.Equal(t, float32(1), c.Weights[0])
		out = append(out, end)
	}
	return out
}

// Where A1111's rule divides texts. A cat and a comma are a token each.
func TestChunks(t *testing.T) {
	d := Default().WithPad(0)
	cats := func(n int) string { return strings.Repeat("cat ", n) }
	for _, c := range []struct {
		text string
		want []int
	}{
		{"", []int{0}},
		{cats(75), []int{75}},
		{cats(76), []int{75, 1}},
		{cats(225), []int{75, 75, 75}},
		{"a BREAK b", []int{1, 1}},
		{"BREAK", []int{0}},
		{"a BREAK", []int{1}},
		{"a BREAK BREAK b", []int{1, 0, 1}},
		{cats(75) + "BREAK cat", []int{75, 1}},
		{cats(70) + ", " + cats(10), []int{71, 10}}, // the comma stays behind
		{cats(55) + ", " + cats(40), []int{56, 40}}, // 20 tokens from the comma on: the most
		{cats(54) + ", " + cats(40), []int{75, 20}}, // 21
		{cats(74) + ", " + cats(10), []int{75, 10}}, // the comma is the last that fits
		{cats(75) + ", " + cats(10), []int{75, 11}}, // and the first that does not
		{cats(60) + ", " + cats(20) + ", " + cats(50) + ", " + cats(10), []int{61, 72, 10}}, // from one comma to the next
		{cats(60) + "(, " + cats(20) + ":1.5)", []int{61, 20}},
	} {
		spans, _ := Parse(c.text)
		require.Equal(t, c.want, lengths(t, d, d.Weighted(spans)), "%q", c.text)
	}
	spans, _ := Parse(cats(70) + ", " + cats(10))
	require.Equal(t, []int{75, 6}, lengths(t, d, d.Chunks(spans, 0)))
	require.Equal(t, []int{71, 10}, lengths(t, d, d.Chunks(spans, 5)))
	require.Equal(t, []int{75, 6}, lengths(t, d, d.Chunks(spans, 4)))
}

// Weights stay with their tokens, also where these move to the next chunk.
func TestChunkWeights(t *testing.T) {
	d := Default()
	spans, _ := Parse("a (cat:2) b [x]")
	c := d.Weighted(spans)[0]
	require.Equal(t, []float32{1, 1, 2, 1, float32(1 / 1.1), 1}, c.Weights[:6])
	require.Equal(t, d.Encode("a cat b x"), c.IDs[1:5])

	spans, _ = Parse(strings.Repeat("cat ", 70) + ", a (dog:1.5) b c d e")
	two := d.Weighted(spans)
	require.Len(t, two, 2)
	require.Equal(t, d.Encode("a dog b c d e"), two[1].IDs[1:7])
	require.Equal(t, []float32{1, 1, 1.5, 1, 1, 1, 1}, two[1].Weights[:7])

	spans, _ = Parse("cat(alogue)") // two words
	require.Equal(t, append(d.Encode("cat"), d.Encode("alogue")...), d.Weighted(spans)[0].IDs[1:3])
}

func TestPlain(t *testing.T) {
	d := Default()
	chunks, cut := d.Plain("a (cat:2) BREAK")
	require.Empty(t, cut)
	require.Equal(t, d.Encode("a (cat:2) break"), chunks[0].IDs[1:8])
	require.NotContains(t, chunks[0].Weights, float32(2))
	chunks, cut = d.Plain(strings.Repeat("cat ", 75))
	require.Empty(t, cut)
	require.Equal(t, []int{75}, lengths(t, d, chunks))
	chunks, cut = d.Plain(strings.Repeat("cat ", 75) + "and dog!")
	require.Equal(t, "and dog !", cut)
	require.Equal(t, []int{75}, lengths(t, d, chunks))
}

func TestMatch(t *testing.T) {
	d := Default()
	spans, _ := Parse("a BREAK b BREAK c")
	long, short := d.Weighted(spans), make([]Chunk, 1, 3)
	short[0] = d.frame(nil, nil)
	a, b := d.Match(short, long)
	require.Equal(t, long, b)
	require.Equal(t, []int{0, 0, 0}, lengths(t, d, a))
	require.Nil(t, short[:2][1].IDs, "what lies behind the slice is not written to")
	b, a = d.Match(long, short)
	require.Equal(t, []int{0, 0, 0}, lengths(t, d, a))
	require.Len(t, b, 3)
}

func TestWeigh(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		d := Default()
		spans, _ := Parse("a (cat:2) b BREAK c BREAK d (e:0.5)")
		chunks := d.Weighted(spans)
		const features = 5
		for _, dtype := range []torch.DType{torch.Float64, torch.Float32, torch.Float16, torch.BFloat16} {
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 3, 77, features).AddScalar(s, 0.3).To(s, dtype)
			y, z := Weigh(s, x, chunks), Multiply(s, x, chunks)
			require.Equal(t, dtype, y.DType())
			in, only, out := values(s, x), values(s, z), values(s, y)
			eps := map[torch.DType]float64{torch.Float64: 1e-6, torch.Float32: 1e-6, torch.Float16: 1e-3, torch.BFloat16: 8e-3}[dtype] // half of these is a rounding
			for c := range chunks {
				var before, after float64
				for i := range 77 * features {
					v := in[c*77*features+i]
					before += v
					after += v * float64(chunks[c].Weights[i/features])
				}
				for i := range 77 * features {
					at := c*77*features + i
					want := in[at] * float64(chunks[c].Weights[i/features])
					require.InEpsilon(t, want, only[at], eps, "%s %d", dtype, at)
					require.InEpsilon(t, want*before/after, out[at], 4*eps, "%s %d", dtype, at)
				}
			}
			require.Equal(t, in[77*features:2*77*features], out[77*features:2*77*features], "a chunk without weights")
			plain, _ := d.Plain("a cat b")
			one := x.Narrow(s, 0, 0, 1)
			require.Same(t, one, Weigh(s, one, plain))
			require.Same(t, one, Multiply(s, one, plain))
		}
		zero := torch.Zeros(s, torch.Float32, 3, 77, features)
		for _, v := range values(s, Weigh(s, zero, chunks)) {
			assert.False(t, math.IsNaN(v), "a mean of zero is nothing to scale by")
		}
		return nil
	})
	require.NoError(t, err)
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		chunks, _ := Default().Plain("a")
		Weigh(s, torch.Zeros(s, torch.Float32, 2, 77, 4), chunks)
		return nil
	})
	require.ErrorContains(t, err, "of 1 chunks with 77 tokens in total, got [2 77 4]")
}

func values(s *torch.Scope, x *torch.Tensor) []float64 {
	return torch.ToSlice[float64](x.To(s, torch.Float64))
}
