// Package captioned reads images with captions for training text-to-image models: directories of images with text files beside them.
//
// [Open] returns a [Set], [Set.Summary] what it holds, [Set.Order] the endless sequence of batches that a run trains on, and [Set.Read] the
// pixels of one of its items. It is plain Go and makes no tensors.
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
package captioned
