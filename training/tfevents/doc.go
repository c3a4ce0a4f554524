// Package tfevents writes event files for TensorBoard: scalars and images.
//
// [Create] makes a new file in a directory; TensorBoard reads all of a directory in order, so that a resumed run adds a file
// whose values replace older ones of the same step. [Writer.Scalars] and [Writer.Image] add to it under a step and a tag, and
// Close writes what is buffered. A nil Writer discards everything, for programs where events are optional.
//
// A file is TFRecords (length, its masked CRC-32C, data, its masked CRC-32C) of Event messages; the messages are encoded by
// hand, as they are small and the schema is stable.
package tfevents
