// Package safetensors reads and writes the safetensors file format, a container of named tensors.
//
// A file is an 8-byte little-endian header length, a JSON header and the elements of all tensors, little-endian, in
// the order of their indices, without gaps. [Open] maps a file, an index of shards or a directory into memory, and every
// [Tensor] is a view of the map: nothing is copied, and pages are read on first use. [Write] and
// [WriteSharded] replace files atomically and stream one tensor at a time.
//
// # Untrusted files
//
// Files may be hostile, so the header is read by a parser of this one grammar instead of a general JSON decoder, which would
// accept duplicate names, invalid UTF-8 and broken escapes, and spend memory on deep nesting. The reference implementation (the
// safetensors package for Python) accepts every file that this package accepts. This package also refuses duplicate names,
// unknown fields, more than 64 dimensions, and a header that does not begin with '{'. A refused file gives a [*FormatError],
// and costs no more memory than a small multiple of its header's real size.
//
// Format: https://github.com/huggingface/safetensors (README, "Format").
package safetensors
