// Package prompt tokenizes prompts for text encoders: tokens of CLIP's vocabulary, in chunks of the encoder's length, with weights if the
// prompt has A1111's syntax.
//
// A [Tokenizer] is CLIP's byte-pair encoding: [Default] is built in, [Open] reads a model's tokenizer directory,
// [Tokenizer.First] makes a small one for a small model, and [Tokenizer.Save] writes one. [Tokenizer.Plain] encodes
// a prompt as diffusers does: one [Chunk], and the truncated text is returned, for a warning. For the prompt syntax of the A1111 web UI,
// [Parse] splits a prompt into [Span]s of equal weight, such as (red:1.3) and [blurry], and takes out <lora:name:weight> tags;
// [Tokenizer.Weighted] splits the spans into chunks of 75 tokens, each with start and end token and padded to 77.
//
// [Weigh] and [Multiply] apply the weights to the encoder's hidden states [chunks, 77, width]. [Misnames] finds names of missing
// embeddings, and [OverTime] syntax that is not supported.
package prompt
