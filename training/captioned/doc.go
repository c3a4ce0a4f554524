// Package captioned reads images with captions for training text-to-image models: directories of images with caption files or metadata,
// kohya's directory layout and dataset configuration, and WebDataset shards from the disk, the web or a command.
//
// [Open] returns a [Set], and [Set.Summary] its images and buckets. [Set.Order] is an endless sequence of batches of items, and [Set.Read]
// returns an item's pixels; a [Loader] decodes batches in the background. The package is plain Go and makes no tensors.
//
// # Sizes
//
// All images of a batch have the size of one bucket. By default there is one bucket, a square of Options.Resolution pixels; [Buckets] adds
// others by aspect ratio. An image is scaled so that it just covers its bucket (Pillow's bicubic filter) and cropped to it. Transparent
// images are composited on white, and the EXIF orientation is applied.
//
// # Order
//
// Everything random (order, crop, flip, choice and changes of the caption) is a function of the seed and the position, the number of samples
// before it. A run that resumes at a position continues with the same items, with any number of goroutines. All batches are full: images of
// a bucket that do not fill a batch at the end of an epoch come first in the next.
//
// # Damaged and hostile data
//
// Data is untrusted: sizes are checked before memory is allocated, captions are UTF-8 of at most 64 kB, symbolic links and archives are
// followed within limits, paths in metadata stay below their directory, and only Open's own argument is downloaded or run as a command. An
// image or a caption that cannot be read is a [*dataset.CorruptError] with its key: an error by default, or skipped and counted with
// Options.SkipCorrupt. [Set.Notices] reports what is ignored, chosen or changed.
package captioned
