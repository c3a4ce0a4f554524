// Package safetensors reads and writes the safetensors format, the ecosystem's container of named tensors.
//
// A file is an 8-byte little-endian header length, a JSON header and the elements of all tensors, little-endian, in
// the order of their indices, without gaps. [Open] maps a file, an index of shards or a folder into memory, and every
// [Tensor] views its part of the map: nothing is copied and nothing is read before it is used. [Write] and
// [WriteSharded] replace files atomically and stream one tensor at a time.
//
// # What is refused
//
// The header comes from strangers, so it is read by a parser of this one grammar instead of a general JSON decoder,
// which would let duplicate names, broken UTF-8 and escapes, and deep nesting pass or cost memory. Whatever this package
// accepts the reference implementation (the safetensors package for Python) accepts too. This package is stricter in
// refusing duplicate names, fields it does not know, more than 64 dimensions, and a header that does not begin with '{'.
// A refused file gives a [*FormatError], and costs no more memory than a small multiple of its header's real size.
//
// Format: https://github.com/huggingface/safetensors (README, "Format").
package safetensors
