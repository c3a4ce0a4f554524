package prompt

import (
	"bytes"
	"encoding/json"
	"maps"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/torchtest"
)

// The tokenizer of the first merges is the one that transformers makes of these merges: testdata/small, whose ids for 500 prompts are
// transformers' (see TestTokens).
func TestFirst(t *testing.T) {
	want, err := Open("testdata/small")
	require.NoError(t, err)
	got, err := Default().WithPad(0).First(1000 - 514)
	require.NoError(t, err)
	require.Equal(t, want.words, got.words)
	require.True(t, maps.Equal(want.merges, got.merges))
	require.Equal(t, want.bytes, got.bytes)
	require.Equal(t, want.raw, got.raw)
	require.Equal(t, []int{want.BOS(), want.EOS(), want.Pad(), want.Max()}, []int{got.BOS(), got.EOS(), got.Pad(), got.Max()})

	// All merges are the tokenizer itself; none leaves bytes, of which every text can be made.
	all, err := Default().First(len(Default().merges))
	require.NoError(t, err)
	require.Equal(t, Default(), all)
	none, err := Default().First(0)
	require.NoError(t, err)
	require.Equal(t, 514, none.Vocab())
	for _, text := range []string{"", "a cat", "élève, 猫 🙂!", "<|endoftext|>x"} {
		ids := none.Encode(text)
		for _, id := range ids {
			require.Less(t, id, none.Vocab())
		}
		require.Equal(t, Default().Decode(Default().Encode(text)), none.Decode(ids))
	}

	// With texts, these have the tokens of the whole vocabulary, and few others are kept.
	texts := []string{"a flat emoji of grinning face with smiling eyes", "a 3d emoji of Côte d’Ivoire flag", "squirrel, hedgehog and chipmunk"}
	for _, n := range []int{0, 300} {
		own, err := Default().First(n, texts...)
		require.NoError(t, err)
		for _, text := range texts {
			var words, want []string
			for _, id := range own.Encode(text) {
				words = append(words, own.words[id])
			}
			for _, id := range Default().Encode(text) {
				want = append(want, Default().words[id])
			}
			require.Equal(t, want, words)
		}
		require.Less(t, own.Vocab(), 514+n+100)
		dir := t.TempDir()
		require.NoError(t, own.Save(dir))
		saved, err := Open(dir)
		require.NoError(t, err)
		require.True(t, maps.Equal(own.merges, saved.merges))
		require.Equal(t, own.words, saved.words)
	}

	for _, n := range []int{-1, len(Default().merges) + 1} {
		_, err := Default().First(n)
		require.ErrorContains(t, err, "48894")
	}
	words, err := Default().WithWords(49408, []Word{{"mine", 4}})
	require.NoError(t, err)
	_, err = words.First(10)
	require.Error(t, err)
	_, err = words.WithMax(5)
	require.Error(t, err)
}

// With another maximum length chunks have that length, in files too.
func TestWithMax(t *testing.T) {
	short, err := Default().WithMax(8)
	require.NoError(t, err)
	require.Equal(t, 77, Default().Max())
	dir := t.TempDir()
	require.NoError(t, short.Save(dir))
	saved, err := Open(dir)
	require.NoError(t, err)
	for _, of := range []*Tokenizer{short, saved} {
		chunks, cut := of.Plain("one two three four five six seven eight")
		require.Equal(t, "seven eight", cut)
		require.Len(t, chunks[0].IDs, 8)
		spans, _ := Parse("one two three four five six seven eight")
		require.Len(t, of.Weighted(spans), 2)
	}
	for _, n := range []int{2, 4097} {
		_, err := Default().WithMax(n)
		require.ErrorContains(t, err, "3 to 4096")
	}
}

// transformers reads the files of a small tokenizer and gives the same padded ids, of every kind of text.
func TestTransformersReadsFirst(t *testing.T) {
	python := torchtest.Python(t, "transformers")
	small, err := Default().First(3582, "hedgehog and chipmunk")
	require.NoError(t, err)
	small, err = small.WithMax(32)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, small.Save(dir))
	texts := []string{"", "a flat emoji of grinning face with smiling eyes", "a 3d emoji of Côte d’Ivoire flag", "猫 and 🙂🙂", "a chipmunk, a hedgehog", "don't, it's 100% <|endoftext|> x!!",
		"an extraordinarily long caption that has more tokens than thirty two, so that all of what comes after them is cut off, as it is in diffusers' pipelines"}
	input, err := json.Marshal(texts)
	require.NoError(t, err)
	cmd := exec.Command(python, "-c", `
import json, sys
from transformers import CLIPTokenizer
t = CLIPTokenizer.from_pretrained(sys.argv[1])
ids = [t(s, padding="max_length", max_length=t.model_max_length, truncation=True).input_ids for s in json.load(sys.stdin)]
print(json.dumps([t.vocab_size, t.model_max_length, ids]))`, dir)
	cmd.Stdin = bytes.NewReader(input)
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	require.NoError(t, err, failed.String())
	var vocab, length int
	var ids [][]int
	require.NoError(t, json.Unmarshal(out, &[]any{&vocab, &length, &ids}))
	require.Equal(t, []int{small.Vocab(), 32}, []int{vocab, length})
	for i, text := range texts {
		chunks, _ := small.Plain(text)
		require.Equal(t, ids[i], chunks[0].IDs, "%q", text)
	}
}
