// Package prompt turns prompts into the input of text encoders: tokens of CLIP's vocabulary, in chunks of the encoder's length,
// with weights where a prompt has A1111's brackets.
//
// A [Tokenizer] is CLIP's byte-pair encoding: [Default] is embedded, [Open] reads the files of a model. [Tokenizer.Plain]
// encodes a prompt as diffusers does: one [Chunk], and the rest is returned for a warning. For the syntax of Stable Diffusion
// web UI, [Parse] splits a prompt into [Span]s of equal weight, such as (red:1.3) and [blurry], and takes out
// <lora:name:weight> tags; [Tokenizer.Weighted] makes chunks of 75 tokens of them, each framed by start and end token and
// padded to 77.
//
// [Weigh] and [Multiply] apply the weights to the encoder's hidden states [chunks, 77, width]. [Misnames] and [OverTime] find
// what looks like syntax that is not supported, or words of embeddings that are not there.
package prompt
