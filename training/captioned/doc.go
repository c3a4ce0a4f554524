// Package captioned reads images with captions for training text-to-image models: directories of images with caption files or metadata,
// kohya's directory layout and dataset configuration, and WebDataset shards from the disk, the web or a command.
//
// [Open] returns a [Set], [Set.Summary] what it holds, [Set.Order] the endless sequence of batches that a run trains on, and [Set.Read] the
// pixels of one of its items. A [Loader] decodes an order's batches in the background. It is plain Go and makes no tensors.
//
// # Sizes
//
// A batch has images of one size, that of a bucket. By default there is one bucket, a square of Options.Resolution pixels; [Buckets] makes
// one for each aspect ratio. An image is scaled so that it just covers its bucket (Pillow's bicubic filter) and cropped to it. Transparent
// images are composited on white, and the EXIF orientation is applied.
//
// # Order
//
// What is drawn at random (the order, the crop, the flip, the caption and its changes) is a function of the seed and of the position, which
// counts samples from 0. A run that resumes at a position continues with the same items, with any number of decoding goroutines. Batches
// are always full: images of a bucket that do not fill a batch in one epoch come first in the next one.
//
// # Damaged and hostile data
//
// Data is untrusted: sizes are checked before memory is allocated, captions are UTF-8 of at most 64 kB, symbolic links and archives are
// followed within limits, paths in metadata stay below their directory, and only Open's own argument is downloaded or run as a command. An
// image or a caption that cannot be read is a [*dataset.CorruptError] with its key: an error by default, or left out and counted with
// Options.SkipCorrupt. [Set.Notices] says what is not used, chosen or changed.
package captioned
